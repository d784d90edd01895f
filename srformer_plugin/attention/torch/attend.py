"""Vectorised segmented recurrent attention in ordinary PyTorch operations, for any device and dtype.

No loop over target positions, no (B, H, T, N) tensor. Where a clock says what is read, queries are grouped by it
(`grouping.py`), so that a group shares its segment's keys, values and memory state; all else is `chosen.py`'s.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..method.plan import SegmentPlan
from ..method.segments import SourceLayout
from ..protocol import OpenedSource
from .chosen import attend_all, attend_segments, merge
from .grouping import by_segment, by_state


def attend_source(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    layout: SourceLayout,
    plan: SegmentPlan,
    memory: nn.Module,
    dropout: float = 0.0,
    need_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """As `protocol.Backend.attend_source`."""
    keys, values = (layout.split_heads(x, query.size(1)) for x in (keys, values))
    states = memory.encode(keys, values, layout, plan)
    if plan.choice is not None:
        plan = plan.decide(query, plan.choice.summarise(keys, layout), layout.segment_counts)
    weights_on = layout if need_weights else None
    return attend(query, keys, values, layout.is_real, plan, memory, states, dropout, weights_on)


def open_source(
    keys: Tensor, values: Tensor, num_heads: int, layout: SourceLayout, plan: SegmentPlan, memory: nn.Module
) -> dict[str, Tensor | None]:
    """As `protocol.Backend.open_source`."""
    keys, values = (layout.split_heads(x, num_heads) for x in (keys, values))
    return {
        "keys": keys,
        "values": values,
        "is_real": layout.is_real,
        "memory": memory.encode(keys, values, layout, plan),
        "segment_of_state": plan.segment_of_state,
        "summaries": None if plan.choice is None else plan.choice.summarise(keys, layout),
        "segment_counts": None if plan.choice is None else layout.segment_counts,
    }


def attend_step(query: Tensor, source: OpenedSource, position: Tensor, memory: nn.Module, segment_size: int) -> Tensor:
    """As `protocol.Backend.attend_step`."""
    states = source.get("memory")
    segments, state_numbers = (
        None
        if name not in source
        else source[name].index_select(2, position).expand(-1, -1, query.size(2)).unsqueeze(3)
        for name in ("segments", "states")
    )
    plan = SegmentPlan(
        segments=segments,
        states=state_numbers,
        segment_of_state=source.get("segment_of_state"),
        num_states=0 if states is None else states.size(2),
        max_segments=source["keys"].size(2),
        state_follows_segment=source.choice is None,
        one_position=True,
        choice=source.choice,
    ).decide(query, source.get("summaries"), source.get("segment_counts"))
    return attend(query, source["keys"], source["values"], source.get("is_real"), plan, memory, states)[0]


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    is_real: Tensor | None,
    plan: SegmentPlan,
    memory: nn.Module,
    states: Tensor | None,
    dropout: float = 0.0,
    weights_on: SourceLayout | None = None,
) -> tuple[Tensor, Tensor | None]:
    """What queries read (docs/attention.md, sections 2 and 9), before the output projection.

    Args:
        query: (B, H, Q, D), scaled already.
        keys, values: (B, H, m, s, D), zeros in empty slots.
        is_real: (B, m, s) bool, False in empty slots; None: there are none.
        plan: what every query reads.
        memory, states: the memory module and what its `encode` returned.
        dropout: probability, on the weights of the softmax.
        weights_on: also return the weights, on the positions of this layout's source.
    Returns:
        (B, H, Q, D) in the query's dtype, and (B, H, Q, N) or None.
    """
    if plan.state_follows_segment and not memory.joins_softmax and memory.attended(plan) is plan.segments:
        output, weights = _attend_by_visits(query, keys, values, is_real, plan, memory, states, dropout, weights_on)
    else:
        output, weights = _attend_apart(query, keys, values, is_real, plan, memory, states, dropout, weights_on)
    return output.to(query.dtype), weights


def _attend_apart(query, keys, values, is_real, plan, memory, states, dropout, layout):
    """`attend` where queries read several segments, each other ones, or where more takes part in the softmax."""
    segments = memory.attended(plan)
    if plan.choice is not None and segments.size(3) == keys.size(2) and layout is None:  # nobody has more
        output, weights, pooled = attend_all(query, keys, values, is_real, dropout), None, False
    else:
        output, log_sum, weights = attend_segments(query, keys, values, is_real, segments, dropout, layout is not None)
        pooled = memory.joins_softmax
    weights = None if layout is None else layout.scatter_weights(weights, segments)
    if pooled:
        other, other_log_sum, other_weights = memory.pool(query, states, segments, dropout)
        output, share = merge(output, log_sum, other, other_log_sum)
        if layout is not None:
            weights = weights * share + layout.spread_over_segments(other_weights) * (1 - share)
    elif states is not None and not memory.joins_softmax:
        recall = by_state(plan)
        recalled = memory.read(recall.spread(query), recall.select(states))
        output = output + recall.collect(recalled).squeeze(3)
    return output, weights


def _attend_by_visits(query, keys, values, is_real, plan, memory, states, dropout, layout):
    """`attend` where those that attend to the same segment also read the same state: both are read by one grouping."""
    by_read = by_segment(plan)
    spread = by_read.spread(query)
    output, weights = _local_term(spread, keys, values, is_real, by_read, dropout)
    if states is not None:
        output = output + memory.read(spread, by_state(plan).select(states))
    weights = None if layout is None else layout.scatter_weights(by_read.collect(weights), plan.segments)
    return by_read.collect(output).squeeze(3), weights


def _local_term(spread, keys, values, is_real, grouping, dropout) -> tuple[Tensor, Tensor]:
    """Softmax attention of every slot to its group's segment: (B, H, G, size, D), and weights (B, H, G, size, s)."""
    keys, values = grouping.select(keys), grouping.select(values)
    scores = spread @ keys.transpose(-1, -2)
    if is_real is not None:
        empty = ~grouping.select(is_real.unsqueeze(1)).unsqueeze(3)
        scores = scores.masked_fill(empty, torch.finfo(scores.dtype).min)
    weights = F.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    if is_real is not None:
        # a source without a single token: its softmax is uniform over empty slots
        weights = weights.masked_fill(empty, 0)
    return F.dropout(weights.to(values.dtype), p=dropout, training=dropout > 0) @ values, weights
