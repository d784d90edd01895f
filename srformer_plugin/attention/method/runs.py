"""Tables of a plan whose queries come in the order of the memory states they read, for kernels.

Made with tensor operations from what lies on the device, without asking it for a value: shapes depend on the
plan's Python integers only.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..triton.launches import look
from .memory import NoMemory, RAFMemory
from .plan import SegmentPlan
from .raf import raf_scan
from .segments import SourceLayout


def unordered(
    query: Tensor, keys: Tensor, values: Tensor, plan: SegmentPlan, memory: torch.nn.Module, need_weights: bool
) -> str | None:
    """Why a call cannot be computed state by state, from these tables; None: it can."""
    if need_weights:
        return "attention weights are asked for"
    if type(memory) not in (RAFMemory, NoMemory):
        return f"the memory is a {type(memory).__name__}"
    if isinstance(memory, RAFMemory) and memory.scan is not raf_scan:
        return "the memory's scan is not its own"
    if not plan.in_order:
        return "queries do not come in the order of the segments they read"
    if not query.dtype == keys.dtype == values.dtype:
        return f"dtypes are {query.dtype}, {keys.dtype} and {values.dtype}"
    return None


@dataclass
class QueryRuns:
    """Which queries read which state and segment; int32, B sentences, R states, m segments, Q queries.

    Attributes:
        lengths: (B,) unpadded source lengths.
        source_index: (B, m * s), as in `SourceLayout`; None: slot n is position n.
        state_of_segment: (B, m), the state that the visit of a segment made; -1: not visited by these queries.
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


def query_runs(plan: SegmentPlan, layout: SourceLayout) -> QueryRuns:
    """The tables of a plan with `in_order`, made once and kept with it."""
    if plan.runs is None:
        plan.runs = _query_runs(plan, layout)
    return plan.runs


def _block(num_queries: int, num_states: int) -> int:
    """A few block sizes, so that kernels are compiled for a few shapes: about the readers of one state."""
    readers = num_queries / num_states
    return 16 if readers <= 16 else 32 if readers <= 32 else 64


def _query_runs(plan: SegmentPlan, layout: SourceLayout) -> QueryRuns:
    states = plan.states[:, 0, :, 0].contiguous()
    batch_size, num_queries = states.shape
    num_states, device = plan.num_states, states.device
    reached = states[:, -1:] + 1
    ranks = torch.arange(num_states + 1, device=device).expand(batch_size, -1).contiguous()
    starts = torch.searchsorted(states, ranks)

    number = ranks[:, :num_states]
    state_of_segment = states.new_full((batch_size, plan.max_segments + 1), -1)
    segment = number if plan.visited is None else plan.visited
    # states that no query reads go to a column that is cut off
    segment = torch.where(number < reached, segment, plan.max_segments)
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

    return QueryRuns(
        lengths=table(layout.lengths),
        source_index=None if layout.source_index is None else table(layout.source_index.flatten(1)),
        state_of_segment=table(state_of_segment),
        starts=table(starts),
        item_first=table(item_first),
        item_state=table(item_state),
        item_count=table(item[:, -1] + 1),
        block=block,
        max_items=max_items,
    )
