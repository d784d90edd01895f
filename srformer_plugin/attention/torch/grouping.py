"""How queries are batched by what they read: the tables of a plan for `attend.py`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..method.plan import SegmentPlan, once_per_plan


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
    highest, most_read, fixed_count = torch.stack((flat.max(), counts.max(), groups_per_target.sum(2).max())).tolist()

    # place of each read among those of the same target, in query order
    order = flat.argsort(dim=2, stable=True)
    first = counts.cumsum(2) - counts
    sorted_place = torch.arange(num_reads, device=flat.device) - first.gather(2, flat.gather(2, order))
    place = torch.empty_like(flat).scatter_(2, order, sorted_place)

    if (highest + 1) * most_read <= MAX_DENSE_OVERHEAD * num_reads:
        count, size, target = highest + 1, most_read, None
        slot = flat * size + place
    else:
        count, size = fixed_count, fixed_size
        first_group = groups_per_target.cumsum(2) - groups_per_target
        group = first_group.gather(2, flat) + place // size
        target = flat.new_zeros(batch_size, num_heads, count).scatter_(2, group, flat)
        slot = group * size + place % size
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


@once_per_plan
def by_segment(plan: SegmentPlan) -> Grouping:
    """Queries grouped by the segment they attend to."""
    if plan.one_position:
        return group_together(plan.segments[:, 0, 0, 0], plan.segments.size(2))
    return group_reads(plan.segments, plan.max_segments)


@once_per_plan
def by_state(plan: SegmentPlan) -> Grouping:
    """Queries grouped by the memory state they read."""
    if plan.one_position and not plan.state_follows_segment:
        return group_together(plan.states[:, 0, 0, 0], plan.states.size(2))
    if not plan.state_follows_segment:
        return group_reads(plan.states, plan.num_states)
    local = by_segment(plan)
    if plan.segment_of_state is None:  # state r belongs to segment r: the same numbers
        return local
    # the same groups under other numbers; a group without reads names state 0 and is never collected
    target = plan.states.new_zeros(*plan.states.shape[:2], local.count)
    target.scatter_(2, local.slot_of_read // local.size, plan.states.squeeze(-1))
    return Grouping(target, local.count, local.size, local.query_of_slot, local.slot_of_read)
