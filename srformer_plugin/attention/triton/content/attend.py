"""Cross-attention to k segments chosen per query and head, for training and scoring on a GPU.

Means, choice and attention are three functions: the first two have no gradient, and the choice can be looked at.
Forward and backward are eight launches together, no host synchronisation, no tensor of all targets by all sources or
segments (but for a bit each), no atomic operations: the same inputs and seed give the same bits every time. Keys and
values are read from the projections as they are; padding is skipped by index.

`..support.obstacle` says whether a call can be computed here.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...method.segments import SourceLayout
from ..attend import on
from . import call as launching


def with_contiguous_rows(tensor: Tensor) -> Tensor:
    """The tensor, copied where its last dimension is not contiguous."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


@torch.compiler.disable
def attend_by_content(
    query: Tensor, keys: Tensor, values: Tensor, layout: SourceLayout, k: int, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The three functions below in one, with less work for the processor that launches the kernels.

    Args:
        query: (B, H, Q, D), scaled.
        keys, values: (N, B, H * D), the projections of the padded source.
        layout: where the segments are.
        k: segments per query, 1 to 32.
        dropout: probability, on the attention weights.
    Returns:
        (B, H, Q, D) and the choice, (B, H, Q, k) int32.
    """
    query, keys, values = map(with_contiguous_rows, (query, keys, values))
    with on(query.device):
        means = launching.segment_means(keys, layout, query.size(1))
        chosen = launching.choose(query, means, layout.segment_counts, k)
        return ContentAttention.apply(query, keys, values, layout, chosen, dropout), chosen


@torch.compiler.disable
def segment_means(keys: Tensor, layout: SourceLayout, num_heads: int) -> Tensor:
    """The mean key of every segment, over its real tokens: mu_j.

    Args:
        keys: (N, B, H * D), the projection of the padded source.
        layout: where the segments are.
        num_heads: H.
    Returns:
        (B, H, m, D) float32; zeros for a segment without a token.
    """
    with on(keys.device):
        return launching.segment_means(with_contiguous_rows(keys), layout, num_heads)


@torch.compiler.disable
def choose(query: Tensor, means: Tensor, segment_counts: Tensor, k: int) -> Tensor:
    """The k segments with the highest scores q . mu_j, of equals those that come first.

    Scores are about as exact as float32's products, whatever the queries' dtype.

    Args:
        query: (B, H, Q, D), scaled as the attention scales it.
        means: (B, H, m, D) float32, of `segment_means`.
        segment_counts: (B,), m_b of `SourceLayout`.
        k: segments per query, 1 to 32.
    Returns:
        (B, H, Q, k) int32, ascending; where a sentence has fewer than k segments, -1 in the last places.
    """
    with on(query.device):
        return launching.choose(with_contiguous_rows(query), means, segment_counts, k)


@torch.compiler.disable
def attend_chosen(
    query: Tensor, keys: Tensor, values: Tensor, layout: SourceLayout, chosen: Tensor, dropout: float = 0.0
) -> Tensor:
    """One softmax over the real tokens of the segments that each query chose.

    Args:
        query: (B, H, Q, D), scaled.
        keys, values: (N, B, H * D), the projections of the padded source.
        layout: where the segments are.
        chosen: (B, H, Q, k) int32, of `choose`; a query's segments differ from each other, -1 is none.
        dropout: probability, on the attention weights.
    Returns:
        (B, H, Q, D); zeros for a sentence without a token.
    """
    query, keys, values = map(with_contiguous_rows, (query, keys, values))
    with on(query.device):
        return ContentAttention.apply(query, keys, values, layout, chosen.contiguous(), dropout)


class ContentAttention(torch.autograd.Function):
    """`attend_chosen`; gradients of query, keys and values, none through the choice."""

    @staticmethod
    def forward(ctx, query, keys, values, layout, chosen, dropout):
        call = launching.content_call(query, keys, values, layout, chosen.size(3), dropout)
        seed = None
        if dropout > 0:
            seed = torch.randint(2**31, (1,), device=query.device, dtype=torch.int64)
        output, *found = call.forward(query, keys, values, layout, chosen, seed)
        ctx.layout, ctx.dropout = layout, dropout
        ctx.save_for_backward(query, keys, values, chosen, seed, output, *found)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        query, keys, values, chosen, seed, *found = ctx.saved_tensors
        call = launching.content_call(query, keys, values, ctx.layout, chosen.size(3), ctx.dropout)
        upstream = with_contiguous_rows(upstream)
        gradients = call.backward(upstream, query, keys, values, ctx.layout, chosen, seed, *found)
        return (*gradients, None, None, None)
