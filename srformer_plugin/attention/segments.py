"""Source segments: where they lie in a padded batch, and how queries are batched by the segment they read.

Segments are counted from a sentence's first real token, whichever side it is padded on, and their number
m_b = ceil(N_b / s) comes from its own unpadded length N_b: a sentence never depends on its batch.
"""

import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .cpu_tables import VisitTables
    from .runs import QueryRuns


class SourceLayout:
    """Where the segments of every sentence of a batch lie.

    Args:
        padding_mask: (B, N) bool, True at padding (either side); None: nothing is padded.
        batch_size, source_length, device: B, N and the device, for where there is no mask.
        segment_size: s.

    Attributes:
        max_segments: m of the longest possible row, ceil(N / s), a Python int.
        lengths: (B,) int64, unpadded source lengths.
        segment_counts: (B,) int64, m_b, at least 1 (a wholly padded row has one empty segment).
        is_real: (B, m, s) bool, False where a segment slot holds no token; None: every slot holds one.
        source_index: (B, m, s) int64, the position in the padded source that each slot holds (clipped to a
            valid one where the slot is empty); None: slot n is position n.
    """

    def __init__(
        self, padding_mask: Tensor | None, batch_size: int, source_length: int, segment_size: int, device
    ):
        self.segment_size = segment_size
        self.source_length = source_length
        self.max_segments = max(1, -(-source_length // segment_size))
        slots = self.max_segments * segment_size
        shape = (batch_size, self.max_segments, segment_size)
        if padding_mask is None and slots == source_length:
            self.lengths = torch.full((batch_size,), source_length, device=device)
            self.is_real = self.source_index = None
        else:
            index = torch.arange(slots, device=device)
            if padding_mask is None:
                self.lengths = torch.full((batch_size,), source_length, device=device)
                order = index.clamp(max=source_length - 1).expand(batch_size, -1)
            else:
                padding_mask = padding_mask.bool()
                self.lengths = padding_mask.logical_not().sum(dim=1)
                # real tokens first, in their order: right for padding on the left, on the right, on both sides
                order = padding_mask.to(torch.uint8).argsort(dim=1, stable=True)
                order = order[:, index.clamp(max=source_length - 1)]
            self.source_index = order.reshape(shape)
            self.is_real = (index < self.lengths.unsqueeze(1)).view(shape)
        self.segment_counts = ((self.lengths + segment_size - 1) // segment_size).clamp(min=1)

    def index_select(self, dim: int, rows: Tensor) -> "SourceLayout":
        """The layout of some of the sentences (dim 0), for the reordering of a beam search."""
        selected = copy.copy(self)
        for name in ("lengths", "segment_counts", "is_real", "source_index"):
            value = getattr(self, name)
            setattr(selected, name, value if value is None else value.index_select(dim, rows))
        return selected

    def split_heads(self, projected: Tensor, num_heads: int) -> Tensor:
        """Cut projected keys or values (N, B, H * D) into segments (B, H, m, s, D); empty slots hold zeros."""
        source_length, batch_size, width = projected.shape
        shape = (batch_size, num_heads, self.max_segments, self.segment_size, width // num_heads)
        if self.source_index is None:
            heads = projected.view(source_length, batch_size * num_heads, -1).transpose(0, 1)
            return heads.contiguous().view(shape)
        # one gather moves the rows to their segments and the heads to the front
        row = torch.arange(batch_size * num_heads, device=projected.device).view(batch_size, num_heads, 1)
        index = self.source_index.view(batch_size, 1, -1) * (batch_size * num_heads) + row
        rows = projected.reshape(source_length * batch_size * num_heads, -1).index_select(0, index.flatten())
        return rows.view(shape).masked_fill(~self.is_real[:, None, :, :, None], 0)

    def scatter_weights(self, weights: Tensor, segments: Tensor) -> Tensor:
        """Put attention weights on segments back on the source positions they belong to.

        Args:
            weights: (B, H, T, k, s), of the segments each query attended.
            segments: (B, H or 1, T, k) int64, which segments these are.
        Returns:
            (B, H, T, N), zero where a query did not look.
        """
        batch_size, num_heads, length = weights.shape[:3]
        segments = segments.expand(-1, num_heads, -1, -1).flatten(1)
        if self.source_index is None:
            step = torch.arange(self.segment_size, device=weights.device)
            positions = segments.unsqueeze(-1) * self.segment_size + step
        else:
            batch = torch.arange(batch_size, device=weights.device).unsqueeze(1)
            positions = self.source_index[batch, segments]
        dense = weights.new_zeros(batch_size, num_heads, length, self.source_length)
        # added, not written: an empty slot shares its (clipped) position with a real one and holds weight 0
        return dense.scatter_add_(3, positions.view(batch_size, num_heads, length, -1), weights.flatten(3))


@dataclass
class Grouping:
    """Queries batched by what they read: every group of `size` slots reads one segment (or memory state).

    Without it, each query would need a copy of its own of the segment's keys and values; with it, a group
    shares one. Empty slots hold some query again, and what they compute is never collected.

    Attributes:
        target: (B, H or 1, G) int64, the segment or state that group g reads; None: group g reads number g.
        count: G, groups per sentence (and head).
        size: slots per group.
        query_of_slot: (B, H or 1, G * size) int64, into the Q queries.
        slot_of_read: (B, H or 1, Q * k) int64, where the reads of query 0, query 1, ... are.
        reads: k, reads per query.
    """

    target: Tensor | None
    count: int
    size: int
    query_of_slot: Tensor
    slot_of_read: Tensor
    reads: int = 1

    def spread(self, query: Tensor) -> Tensor:
        """Copy queries (B, H, Q, D) to their slots: (B, H, G, size, D)."""
        return _take(query, self.query_of_slot).unflatten(2, (self.count, self.size))

    def collect(self, slots: Tensor) -> Tensor:
        """Read (B, H, G, size, E) back per query: (B, H, Q, k, E)."""
        return _take(slots.flatten(2, 3), self.slot_of_read).unflatten(2, (-1, self.reads))

    def spread_reads(self, reads: Tensor) -> Tensor:
        """The inverse of `collect`: (B, H, Q, k, E) to (B, H, G, size, E), zeros in empty slots."""
        flat = reads.flatten(2, 3)
        slots = flat.new_zeros(*flat.shape[:2], self.count * self.size, flat.size(-1))
        index = self.slot_of_read.expand(-1, flat.size(1), -1).unsqueeze(-1).expand_as(flat)
        return slots.scatter(2, index, flat).unflatten(2, (self.count, self.size))

    def select(self, table: Tensor) -> Tensor:
        """The entry of `table` (B, H or 1, S, ...) that each group reads: (B, H or 1, G, ...)."""
        if self.target is None:
            return table[:, :, : self.count]
        heads = max(table.size(1), self.target.size(1))
        table, target = table.expand(-1, heads, *table.shape[2:]), self.target.expand(-1, heads, -1)
        batch = torch.arange(table.size(0), device=table.device).view(-1, 1, 1)
        head = torch.arange(heads, device=table.device).view(1, -1, 1)
        return table[batch, head, target]


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """rows (B, H, R, E), index (B, H or 1, K) into R -> (B, H, K, E)."""
    index = index.expand(-1, rows.size(1), -1).unsqueeze(-1)
    return rows.gather(2, index.expand(-1, -1, -1, rows.size(-1)))


# Padding slots a dense grouping may add per real read before groups of a fixed size are cheaper.
MAX_DENSE_OVERHEAD = 2.0


def group_reads(targets: Tensor, num_targets: int) -> Grouping:
    """Batch queries by the segment (or memory state) they read.

    Dense where reads are spread evenly over the targets (one group a target, as many slots as the most read
    one needs); groups of a fixed size where one target takes many more reads than the others, as the last
    segment does when a hypothesis outgrows the schedule.

    Args:
        targets: (B, H or 1, Q, k) int64 in [0, num_targets).
        num_targets: a Python int.
    One host synchronisation on a GPU: the number of groups and slots decide shapes.
    """
    batch_size, num_heads, num_queries, reads = targets.shape
    flat = targets.flatten(2)
    num_reads = flat.size(2)
    counts = flat.new_zeros(batch_size, num_heads, num_targets).scatter_add_(2, flat, torch.ones_like(flat))
    fixed_size = max(1, -(-num_reads // num_targets))
    groups_per_target = (counts + fixed_size - 1) // fixed_size
    highest, most_read, fixed_count = torch.stack(
        (flat.max(), counts.max(), groups_per_target.sum(2).max())
    ).tolist()

    # rank of each read among those of the same target, in query order
    order = flat.argsort(dim=2, stable=True)
    first = counts.cumsum(2) - counts
    rank_sorted = torch.arange(num_reads, device=flat.device) - first.gather(2, flat.gather(2, order))
    rank = torch.empty_like(flat).scatter_(2, order, rank_sorted)

    if (highest + 1) * most_read <= MAX_DENSE_OVERHEAD * num_reads:
        count, size, target = highest + 1, most_read, None
        slot = flat * size + rank
    else:
        count, size = fixed_count, fixed_size
        first_group = groups_per_target.cumsum(2) - groups_per_target
        group = first_group.gather(2, flat) + rank // size
        target = flat.new_zeros(batch_size, num_heads, count).scatter_(2, group, flat)
        slot = group * size + rank % size
    query = torch.arange(num_reads, device=flat.device) // reads
    query_of_slot = flat.new_zeros(batch_size, num_heads, count * size)
    query_of_slot.scatter_(2, slot, query.expand_as(slot))
    return Grouping(target, count, size, query_of_slot, slot, reads)


def group_together(target: Tensor, num_queries: int) -> Grouping:
    """One group per sentence, for queries that all read the same `target` (B,): a decoding step's beams.

    Needs no host synchronisation.
    """
    slots = torch.arange(num_queries, device=target.device).expand(target.size(0), 1, -1)
    return Grouping(target.view(-1, 1, 1), 1, num_queries, slots, slots)


@dataclass
class SegmentPlan:
    """What every query reads, as a schedule decided it.

    Attributes:
        segments: (B, H or 1, Q, k) int64: the segments query q (of head h) attends to by softmax.
        states: (B, H or 1, Q, 1) int64: the memory state it reads.
        visited: (B, R) int64: the segment whose visit made memory state r; None: state r belongs to segment r.
        num_states: R, memory states that are read at most, a Python int.
        max_segments: m of the longest row.
        state_follows_segment: queries with the same segment also read the same state (k is 1), so that both
            terms share one grouping.
        same_segment: all queries of a sentence read the same segment (one decoding step).
        in_order: queries come in the order of the states they read, the same for all heads, from state 0 on and
            without a gap; a state's readers attend to the segment whose visit made it. What kernels ask for.
    """

    segments: Tensor
    states: Tensor
    visited: Tensor | None
    num_states: int
    max_segments: int
    state_follows_segment: bool = False
    same_segment: bool = False
    in_order: bool = False
    runs: "QueryRuns | None" = field(default=None, repr=False, compare=False)  # kept here by `runs.query_runs`
    visits: "dict[int, VisitTables]" = field(default_factory=dict, repr=False, compare=False)  # by `cpu_tables`, per H

    @cached_property
    def local(self) -> Grouping:
        """Queries grouped by the segment they attend to."""
        if self.same_segment:
            return group_together(self.segments[:, 0, 0, 0], self.segments.size(2))
        return group_reads(self.segments, self.max_segments)

    @cached_property
    def recall(self) -> Grouping:
        """Queries grouped by the memory state they read."""
        local = self.local
        if not self.state_follows_segment:
            return group_reads(self.states, self.num_states)
        if self.visited is None:  # state r belongs to segment r: the same numbers
            return local
        # the same groups under other numbers; a group without reads names state 0 and is never collected
        target = self.states.new_zeros(*self.states.shape[:2], local.count)
        target.scatter_(2, local.slot_of_read // local.size, self.states.squeeze(-1))
        return Grouping(target, local.count, local.size, local.query_of_slot, local.slot_of_read)
