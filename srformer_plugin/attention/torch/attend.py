"""Vectorised segmented recurrent attention in ordinary PyTorch operations, for any device and dtype.

No loop over target positions, no (B, H, T, N) tensor. Queries are grouped by the segment they read
(`grouping.py`), so that a group shares its segment's keys, values and memory state.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..method.plan import SegmentPlan
from ..method.segments import SourceLayout
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
    """As `backends.Backend.attend_source`."""
    keys, values = (layout.split_heads(x, query.size(1)) for x in (keys, values))
    states = memory.encode(keys, values, layout, plan)
    return attend(query, keys, values, layout.is_real, plan, memory, states, dropout, need_weights)


def open_source(
    keys: Tensor, values: Tensor, num_heads: int, layout: SourceLayout, plan: SegmentPlan, memory: nn.Module
) -> dict[str, Tensor | None]:
    """As `backends.Backend.open_source`."""
    keys, values = (layout.split_heads(x, num_heads) for x in (keys, values))
    states = memory.encode(keys, values, layout, plan)
    return {
        "keys": keys,
        "values": values,
        "is_real": layout.is_real,
        "memory": states,
        "segment_of_state": plan.segment_of_state,
    }


def attend_step(
    query: Tensor, source: dict[str, Tensor], position: Tensor, memory: nn.Module, segment_size: int
) -> Tensor:
    """As `backends.Backend.attend_step`."""
    hypotheses, states = query.size(2), source.get("memory")
    segments, state_numbers = (
        source[name].index_select(2, position).expand(-1, -1, hypotheses).unsqueeze(3)
        for name in ("segments", "states")
    )
    plan = SegmentPlan(
        segments=segments,
        states=state_numbers,
        segment_of_state=source.get("segment_of_state"),
        num_states=0 if states is None else states.size(2),
        max_segments=source["keys"].size(2),
        state_follows_segment=True,
        same_segment=True,
    )
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
    need_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Local plus recurrent term (docs/attention.md, section 2), before the output projection.

    Args:
        query: (B, H, Q, D), scaled already.
        keys, values: (B, H, m, s, D), zeros in empty slots.
        is_real: (B, m, s) bool, False in empty slots; None: there are none.
        plan: what every query reads.
        memory, states: the memory module and what its `encode` returned; states None: no recurrent term.
        dropout: probability, on the local weights.
        need_weights: also return the local weights.
    Returns:
        (B, H, Q, D) in the query's dtype, and (B, H, Q, k, s) or None.
    """
    by_read = by_segment(plan)
    spread = by_read.spread(query)
    local, weights = _local_term(spread, keys, values, is_real, plan, dropout, need_weights)
    if states is None:
        return by_read.collect(local).sum(3), weights
    recall = by_state(plan)
    if plan.state_follows_segment:  # the same slots: add before collecting
        recalled = memory.read(spread, recall.select(states))
        output = by_read.collect(local + recalled).squeeze(3)
    else:
        recalled = memory.read(recall.spread(query), recall.select(states))
        output = by_read.collect(local).sum(3) + recall.collect(recalled).squeeze(3)
    return output.to(query.dtype), weights


def _local_term(
    spread: Tensor,
    keys: Tensor,
    values: Tensor,
    is_real: Tensor | None,
    plan: SegmentPlan,
    dropout: float,
    need_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """Softmax attention of every slot to its group's segment: (B, H, G, size, D).

    A query that reads k segments has k slots and one softmax over all k * s keys.
    """
    grouping = by_segment(plan)
    keys, values = grouping.select(keys), grouping.select(values)
    scores = spread @ keys.transpose(-1, -2)  # (B, H, G, size, s)
    if is_real is not None:
        empty = ~grouping.select(is_real.unsqueeze(1)).unsqueeze(3)
        scores = scores.masked_fill(empty, torch.finfo(scores.dtype).min)
    if grouping.reads == 1:
        probabilities = F.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    else:
        per_query = grouping.collect(scores)
        merged = F.softmax(per_query.flatten(3), dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        probabilities = grouping.spread_reads(merged.view_as(per_query))
    if is_real is not None:
        # a source without a single token: its softmax is uniform over empty slots
        probabilities = probabilities.masked_fill(empty, 0)
    weights = grouping.collect(probabilities) if need_weights else None
    probabilities = F.dropout(probabilities.to(values.dtype), p=dropout, training=dropout > 0)
    return probabilities @ values, weights
