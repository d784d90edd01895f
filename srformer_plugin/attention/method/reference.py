"""Plain reference of segmented attention, its schedules and memories: loops, any dtype, one line per formula.

Every fast path is tested against this file, outputs and gradients (which autograd derives here). It is written to be
read beside docs/attention.md, sections 2 and 9, not to be fast. A row (one sentence) and a head at a time; shapes: T
target positions, N source positions (none of them padding), D head size.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .raf import raf_step


def segment_of_position(position: int, num_segments: int, schedule_length: int) -> int:
    """sigma(t) = min(m - 1, floor(t m / L))."""
    return min(num_segments - 1, position * num_segments // schedule_length)


def chosen_segments(query: Tensor, means: Sequence[Tensor], count: int) -> list[int]:
    """The `count` segments with the highest q . mu_j, of equals the lower ones, in ascending order.

    `query` (D,), `means` the segments' mean keys; in float32, or float64 where they are.
    """
    scores = [(query.to(mean.dtype) @ mean).item() for mean in means]
    return sorted(sorted(range(len(scores)), key=lambda j: (-scores[j], j))[:count])


def softmax_term(
    query: Tensor, keys: Tensor, values: Tensor, attended: Sequence[slice], pooled: Sequence[slice] = ()
) -> Tensor:
    """One softmax over the tokens of some segments and the means of others, for one position -> (D,).

    Args:
        query: (D,).
        keys, values: (N, D), without padding.
        attended: the segments whose tokens are attended to.
        pooled: those that stand for n tokens by their mean key and value, with the logit q . mu_j + log n.
    """
    logits = [keys[part] @ query for part in attended]
    rows = [values[part] for part in attended]
    for part in pooled:
        logits.append((keys[part].mean(0) @ query + math.log(len(keys[part]))).view(1))
        rows.append(values[part].mean(0, keepdim=True))
    return torch.softmax(torch.cat(logits), dim=0) @ torch.cat(rows)


def memory_states(
    keys: Tensor,
    values: Tensor,
    visited: Sequence[int],
    segment_size: int,
    weight: Tensor,
    leak: Tensor,
    threshold: Tensor,
    clamp: float | None,
) -> list[Tensor]:
    """P_r of one row and head for every visited segment, divided by the key norm.

    Args:
        keys, values: (N, D), without padding.
        visited: the distinct segments in the order they are visited.
        weight: W, (D, D), applied to the value channel.
        clamp: phi clips the total product and the segment's product to [-clamp, clamp]; None: identity.
    Returns:
        one (D, D) tensor per visited segment, row = key channel, column = value channel.
    """

    def phi(product: Tensor) -> Tensor:
        return product if clamp is None else product.clamp(-clamp, clamp)

    total = keys.T @ values
    norm = keys.norm(dim=0)
    # a dead key channel reads nothing
    inverse_norm = (norm > 0) / torch.where(norm > 0, norm, torch.ones_like(norm))
    potential = torch.zeros_like(total)
    states = []
    for segment in visited:
        part = slice(segment * segment_size, (segment + 1) * segment_size)
        others = phi(total) - phi(keys[part].T @ values[part])
        potential, spikes = raf_step(potential, others @ weight.T, leak, threshold)
        states.append(spikes * inverse_norm)
    return states


def segmented_recurrent_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Sequence[int],
    segment_size: int,
    schedule_length: int | Sequence[int],
    weight: Tensor | None = None,
    leak: Tensor | None = None,
    threshold: Tensor | None = None,
    clamp: float | None = None,
    first_position: int = 0,
    segments_per_query: int | None = None,
    pooled: bool = False,
    previous: bool = False,
) -> Tensor:
    """Local plus recurrent term of every position (docs/attention.md, sections 2 and 9).

    Args:
        query: (B, H, T, D), scaled already.
        keys, values: (B, H, N, D); row b's real tokens are its first `lengths[b]`.
        segment_size: s.
        schedule_length: L, one for all rows or one per row; of no effect where segments are chosen by content and
            there is no RAF memory.
        weight, leak, threshold, clamp: of the RAF memory; without a weight there is no memory.
        first_position: t of the first query, for decoding step by step.
        segments_per_query: k, segments that every query chooses by content; None: the clock's one.
        pooled: the segments that are not attended to take part in the softmax by their means.
        previous: the segment that was visited before is attended to as well.
    Returns:
        (B, H, T, D).
    """
    rows = []
    for b, length in enumerate(lengths):
        row_length = schedule_length if isinstance(schedule_length, int) else schedule_length[b]
        num_segments = max(1, math.ceil(length / segment_size))
        parts = [slice(j * segment_size, min((j + 1) * segment_size, length)) for j in range(num_segments)]
        positions = range(first_position, first_position + query.size(2))
        # all segments visited up to the last position, those before `first_position` included
        path = [segment_of_position(t, num_segments, row_length) for t in range(positions.stop)]
        visited = sorted(set(path))
        heads = []
        for h in range(query.size(1)):
            k, v = keys[b, h, :length], values[b, h, :length]
            means = [k[part].to(torch.promote_types(k.dtype, torch.float32)).mean(0) for part in parts]
            states = None
            if weight is not None:
                assert leak is not None and threshold is not None
                states = memory_states(k, v, visited, segment_size, weight, leak, threshold, clamp)
            outputs = []
            for i, t in enumerate(positions):
                q, visit = query[b, h, i], visited.index(path[t])
                if segments_per_query is not None:
                    attended = chosen_segments(q, means, segments_per_query)
                else:
                    attended = visited[max(0, visit - 1) : visit + 1] if previous else [path[t]]
                others = [j for j in range(num_segments) if j not in attended] if pooled else []
                output = softmax_term(q, k, v, [parts[j] for j in attended], [parts[j] for j in others])
                if states is not None:
                    output = output + q @ states[visit]
                outputs.append(output)
            heads.append(torch.stack(outputs))
        rows.append(torch.stack(heads))
    return torch.stack(rows)
