"""Tables of a plan whose queries come in the order of the memory states they read, for `loop.py`.

The loop goes over *visits*: visit r is that of the segment which made memory state r, so that sentences that visit
different segments are still computed together. Segments that nobody reads come after all visits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..method.plan import SegmentPlan
from ..method.runs import query_runs
from ..method.segments import SourceLayout


@dataclass
class VisitTables:
    """Where the loop finds what it needs; B sentences, H heads, m segments, s slots in each, Q queries.

    Attributes:
        source_rows: (m, B * H * s) int64 into the N * B * H rows of projected keys (or values): the slots of visit r.
        gradient_rows: the same for writing; a slot beyond the padded source writes to row N * B * H, which is
            cut off. Every other row is written exactly once.
        begins: of visit r, the position of its first slot, where its slots are s consecutive positions of the padded
            source, the same for all sentences (long sources, all truncated alike); None: they are not.
        empty: one per visit, (B * H, s, 1) bool, True where a slot holds no token; None where each holds one.
        readers: of visit r, the most queries of a sentence that read its state; as long as there are readers.
        query_rows: (P * B * H,) int64 into the Q * B * H rows of queries, P the sum of `readers`. Visit after visit, a
            block (B * H, readers[r]) each.
        unused: (P * B * H, 1) bool, True at slots that repeat some query, for sentences with fewer readers; None: no
            such slots.
        slot_rows: (Q * B * H,) int64, the slot of every query.
    """

    source_rows: Tensor
    gradient_rows: Tensor
    begins: list[int | None]
    empty: list[Tensor | None]
    readers: list[int]
    query_rows: Tensor
    unused: Tensor | None
    slot_rows: Tensor


def visit_tables(plan: SegmentPlan, layout: SourceLayout, num_heads: int) -> VisitTables:
    """The tables of a plan with `in_order`, made once for all layers and kept with it."""
    if num_heads not in plan.visits:
        plan.visits[num_heads] = VisitTables(
            *_source_tables(plan, layout, num_heads), *_query_tables(plan, layout, num_heads)
        )
    return plan.visits[num_heads]


def _source_tables(plan: SegmentPlan, layout: SourceLayout, num_heads: int):
    """source_rows, gradient_rows, begins and empty."""
    state = query_runs(plan, layout).state_of_segment.long()
    batch_size, num_segments = state.shape
    size, length = layout.segment_size, layout.source_length
    device = state.device
    numbers = torch.arange(num_segments, device=device)
    order = torch.where(state < 0, num_segments + numbers, state).argsort(dim=1)  # (B, m): the segment of each visit
    slot = order.unsqueeze(2) * size + torch.arange(size, device=device)  # (B, m, s), into a sentence's tokens
    position = slot.clamp(max=length - 1)
    if layout.source_index is not None:
        position = layout.source_index.flatten(1).gather(1, slot.flatten(1)).view_as(slot)
    sentence = torch.arange(batch_size, device=device).view(-1, 1, 1, 1)
    head = torch.arange(num_heads, device=device).view(-1, 1, 1)
    rows = (position.unsqueeze(1) * batch_size + sentence) * num_heads + head  # (B, H, m, s)
    written = rows.masked_fill((slot >= length).unsqueeze(1), length * batch_size * num_heads)
    begin = position[:1, :, :1]
    consecutive = (position == begin + torch.arange(size, device=device)).all(dim=2).all(dim=0).tolist()
    begins = [first if same else None for first, same in zip(begin.flatten().tolist(), consecutive)]
    is_empty = slot >= layout.lengths.view(-1, 1, 1)
    by_visit = is_empty.transpose(0, 1).repeat_interleave(num_heads, dim=1).unsqueeze(3)  # (m, B * H, s, 1)
    some_empty = is_empty.any(dim=2).any(dim=0).tolist()
    empty = [by_visit[visit] if some else None for visit, some in enumerate(some_empty)]
    return *(x.permute(2, 0, 1, 3).reshape(num_segments, -1) for x in (rows, written)), begins, empty


def _query_tables(plan: SegmentPlan, layout: SourceLayout, num_heads: int):
    """readers, query_rows, unused and slot_rows."""
    starts = query_runs(plan, layout).starts.long()  # (B, R + 1)
    states = plan.states[:, 0, :, 0]
    batch_size, num_queries = states.shape
    rows, device = batch_size * num_heads, states.device
    counts = starts.diff(dim=1)
    most = counts.amax(dim=0)
    readers = [count for count in most.tolist() if count > 0]  # without a gap: a state's readers follow the last one's
    first = most.cumsum(0) - most  # (R,)

    state = torch.arange(len(most), device=device).repeat_interleave(most)  # (P,), of a slot
    place = torch.arange(len(state), device=device) - first[state]
    used = place < counts[:, state]  # (B, P)
    query = torch.where(used, starts[:, state] + place, 0)
    head_row = torch.arange(rows, device=device).unsqueeze(1)  # b * H + h
    slot = (first * rows)[state] + head_row * most[state] + place  # (B * H, P)
    query_rows = slot.new_empty(slot.numel())
    query_rows[slot] = query.repeat_interleave(num_heads, dim=0) * rows + head_row
    unused = None
    if not used.all():
        unused = used.new_empty(slot.numel(), 1)
        unused[slot, 0] = ~used.repeat_interleave(num_heads, dim=0)

    place = torch.arange(num_queries, device=device) - starts.gather(1, states)  # (B, Q)
    states, place = (x.repeat_interleave(num_heads, dim=0) for x in (states, place))
    slot_rows = first[states] * rows + head_row * most[states] + place
    return readers, query_rows, unused, slot_rows.T.flatten()
