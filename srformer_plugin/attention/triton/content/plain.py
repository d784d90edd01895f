"""What the kernels compute, in plain PyTorch operations: same functions, same arguments, any dtype, any device.

Short and slow: they make tensors of all queries by all segments, and copies of every chosen segment's tokens. The
kernels' tests compare with them in float64.
"""

import torch
from torch import Tensor

from ...method.segments import SourceLayout


def segment_means(keys: Tensor, layout: SourceLayout, num_heads: int) -> Tensor:
    """As `attend.segment_means`, of the keys' dtype where that is float64."""
    dtype = torch.promote_types(keys.dtype, torch.float32)
    total = layout.split_heads(keys.to(dtype), num_heads).sum(dim=3)
    numbers = torch.arange(layout.max_segments, device=keys.device) * layout.segment_size
    tokens = (layout.lengths.unsqueeze(1) - numbers).clamp(1, layout.segment_size)
    return total / tokens[:, None, :, None]


def scores(query: Tensor, means: Tensor, segment_counts: Tensor) -> Tensor:
    """q . mu_j (B, H, Q, m); minus infinity from a sentence's last segment on."""
    found = query.to(means.dtype) @ means.transpose(2, 3)
    beyond = torch.arange(means.size(2), device=means.device) >= segment_counts.unsqueeze(1)
    return found.masked_fill(beyond[:, None, None, :], float("-inf"))


def choose(query: Tensor, means: Tensor, segment_counts: Tensor, k: int) -> Tensor:
    """As `attend.choose`."""
    order = scores(query, means, segment_counts).argsort(dim=3, descending=True, stable=True)[..., :k]
    none = means.size(2)
    chosen = order.masked_fill(order >= segment_counts.view(-1, 1, 1, 1), none).sort(dim=3).values
    chosen = torch.nn.functional.pad(chosen, (0, k - chosen.size(3)), value=none)
    return chosen.masked_fill(chosen == none, -1).to(torch.int32)


def attend_chosen(
    query: Tensor, keys: Tensor, values: Tensor, layout: SourceLayout, chosen: Tensor, dropout: float = 0.0
) -> Tensor:
    """As `attend.attend_chosen`."""
    segments = chosen.long().clamp(min=0)
    batch, head = (torch.arange(size, device=query.device) for size in query.shape[:2])
    batch, head = batch.view(-1, 1, 1, 1), head.view(-1, 1, 1)
    real = (chosen >= 0).unsqueeze(4).expand(*chosen.shape, layout.segment_size)
    if layout.is_real is not None:
        real = real & layout.is_real[batch, segments]
    real = real.flatten(3)
    key_tokens, value_tokens = (
        layout.split_heads(x, query.size(1))[batch, head, segments].flatten(3, 4) for x in (keys, values)
    )
    logits = torch.einsum("bhqd,bhqnd->bhqn", query, key_tokens)
    # finite, so that a source without a token gives zeros and no NaN
    weights = logits.masked_fill(~real, -1e30).softmax(dim=3) * real
    weights = torch.nn.functional.dropout(weights, dropout)
    return torch.einsum("bhqn,bhqnd->bhqd", weights, value_tokens)


def attend_step_chosen(
    query: Tensor, keys: Tensor, values: Tensor, means: Tensor, layout: SourceLayout, k: int
) -> Tensor:
    """As `step.attend_step_chosen`."""
    chosen = choose(query, means, layout.segment_counts, k)
    return attend_chosen(query, keys.transpose(0, 1), values.transpose(0, 1), layout, chosen)
