"""The tables by which kernels find what a query reads, for plans with `in_order`.

Made with tensor operations from what lies on the device, without asking it for a value: shapes depend on the
plan's Python integers only.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..method.plan import SegmentPlan, once_per_plan
from ..method.segments import SourceLayout
from .launches import look


@dataclass
class StateTables:
    """Which queries read which state and segment; int32, B sentences, R states, m segments, Q queries.

    Attributes:
        lengths: (B,) unpadded source lengths.
        source_index: (B, m * s), as in `SourceLayout`; None: slot n is position n.
        state_of_segment: (B, m), the state that belongs to a segment; -1: these queries read none.
        starts: (B, R + 1): the queries starts[r] ... starts[r + 1] - 1 read state r.
        item_first, item_state, item_count: (B, I + 1), (B, I) and (B,): blocks of at most `block` consecutive
            queries that read the same state. Block i ends where block i + 1 begins; unused ones hold Q.
        block: most queries of an item, a Python int.
        max_items: I, a Python int.
    """

    lengths: Tensor
    source_index: Tensor | None
    state_of_segment: Tensor
    starts: Tensor
    item_first: Tensor
    item_state: Tensor
    item_count: Tensor
    block: int
    max_items: int

    @cached_property
    def key(self) -> tuple:
        """What kernels depend on (`launches.look`)."""
        return self.block, *(look(x) for x in vars(self).values() if isinstance(x, Tensor))


def _block(num_queries: int, num_states: int) -> int:
    """A few block sizes, so that kernels are compiled for a few shapes: about the readers of one state."""
    readers = num_queries / num_states
    return 16 if readers <= 16 else 32 if readers <= 32 else 64


@once_per_plan
def state_tables(plan: SegmentPlan, layout: SourceLayout) -> StateTables:
    """The tables of a plan with `in_order`."""
    states = plan.states[:, 0, :, 0].contiguous()
    batch_size, num_queries = states.shape
    num_states, device = plan.num_states, states.device
    reached = states[:, -1:] + 1
    numbers = torch.arange(num_states + 1, device=device).expand(batch_size, -1).contiguous()
    starts = torch.searchsorted(states, numbers, out_int32=True)

    number = numbers[:, :num_states]
    state_of_segment = states.new_full((batch_size, plan.max_segments + 1), -1)
    segment = number if plan.segment_of_state is None else plan.segment_of_state
    # states that no query reads go to a column that is cut off
    segment = segment.masked_fill(number >= reached, plan.max_segments)
    state_of_segment = state_of_segment.scatter_(1, segment, number)[:, :-1]

    block = _block(num_queries, num_states)
    max_items = num_states + num_queries // block
    positions = torch.arange(num_queries, device=device).expand(batch_size, -1)
    begins = (positions - starts.gather(1, states)) % block == 0
    item = begins.cumsum(1) - 1
    item_first = states.new_full((batch_size, max_items + 2), num_queries)
    item_first = item_first.scatter_(1, torch.where(begins, item, max_items + 1), positions)[:, :-1]
    item_state = states.gather(1, item_first[:, :-1].clamp(max=num_queries - 1))

    def table(x: Tensor) -> Tensor:
        return x.to(torch.int32).contiguous()

    return StateTables(
        lengths=table(layout.lengths),
        source_index=None if layout.source_index is None else table(layout.source_index.flatten(1)),
        state_of_segment=table(state_of_segment),
        starts=starts,
        item_first=table(item_first),
        item_state=table(item_state),
        item_count=table(item[:, -1] + 1),
        block=block,
        max_items=max_items,
    )
