"""What T5 has in the place of fairseq's layer norm, positions, attention and feed-forward.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020,
section 2.1; Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202 (the gated feed-forward of T5 v1.1).
No module has a bias. Shapes: B batch, H heads, T queries, S keys, D head size, C model width.

Half precision: T5 was trained in bfloat16, and its checkpoints produce activations beyond what float16 holds, first
in the feed-forward. So with float16 weights (`finite_half`, `WideLinear`, `residual_stream`) the sum that runs
through the layers is kept in float32, and the feed-forward's last product is scaled to stay in range.
"""

import math

import torch
import torch.nn.functional as F
from fairseq.incremental_decoding_utils import with_incremental_state
from torch import Tensor, nn

from ..attention.dropout import current_rate
from ..attention.shared_by_beams import add_heads, merge_heads, split_heads
from ..attention.softmax_attention import MASKED, SoftmaxCrossAttention, attend


class RMSNorm(nn.Module):
    """x / rms(x) * weight: no mean is subtracted and no bias added; in float32 whatever the dtype of x.

    PyTorch's own `nn.RMSNorm` has the dtype of x, where T5 goes on in the weight's (float16 behind a float32 stream).
    """

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C), of the weight's dtype."""
        dtype = torch.promote_types(x.dtype, self.weight.dtype)  # of one dtype: a kernel that reads x once
        normed = F.rms_norm(x.to(dtype), self.weight.shape, self.weight.to(dtype), self.eps)
        return normed.to(self.weight.dtype)


class T5Embedding(nn.Embedding):
    """Token embeddings N(0, 1) whose padding row is one like the others: T5 starts its targets with it.

    `padding_idx` only tells fairseq which token is padding; `nn.Embedding` would keep its gradient at 0.
    """

    def reset_parameters(self):
        nn.init.normal_(self.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight)


def relative_position_bucket(
    relative: Tensor, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128
) -> Tensor:
    """The bucket of every relative position (key minus query), int64, in [0, num_buckets).

    The nearest half of the distances have a bucket each, farther ones share buckets whose width grows with the
    logarithm, and from `max_distance` on there is one. Where keys on both sides are seen, each side has half of
    the buckets, keys before the query the lower half; else keys after the query count as distance 0.
    """
    if bidirectional:
        num_buckets //= 2
        side = (relative > 0).long() * num_buckets
        distance = relative.abs()
    else:
        side = torch.zeros_like(relative)
        distance = (-relative).clamp(min=0)
    exact = num_buckets // 2
    octaves = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (octaves * (num_buckets - exact)).long()).clamp(max=num_buckets - 1)
    return side + torch.where(distance < exact, distance, far)


class RelativePositionBias(nn.Embedding):
    """One number per bucket and head, added to the scores of all self-attentions of a stack."""

    def __init__(self, num_heads: int, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128):
        super().__init__(num_buckets, num_heads)
        self.bidirectional = bidirectional
        self.max_distance = max_distance

    def forward(
        self, first: int, length: int, keys: int, padding_mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """What is added to the scores of the queries at positions first, ..., first + length - 1.

        Args:
            keys: S, of keys at positions 0, ..., S - 1.
            padding_mask: (B, S), True at padding, on either side; None: nothing is padded.
            causal: keys after the query are masked.
        Returns:
            (B or 1, H, T, S), `MASKED` where a key must not be seen.
        """
        relative = torch.arange(1 - first - length, keys - first, device=self.weight.device)
        bucket = relative_position_bucket(relative, self.bidirectional, self.num_embeddings, self.max_distance)
        bias = super().forward(bucket).T  # (H, T + S - 1): one look-up per distance, not per pair
        if causal:
            bias = bias.masked_fill(relative > 0, MASKED)
        # the last query's distances come first, every earlier query's one step later
        bias = bias.unfold(1, keys, 1).flip(1).unsqueeze(0)
        return bias if padding_mask is None else bias.masked_fill(padding_mask[:, None, None, :], MASKED)


class _Projections(nn.Module):
    """The four projections of an attention of `num_heads` heads of `head_dim`, which need not divide `embed_dim`."""

    def __init__(self, embed_dim: int, num_heads: int, head_dim: int, **heads):
        super().__init__()
        add_heads(self, embed_dim, num_heads, head_dim=head_dim, bias=False, scale_query=False, **heads)


@with_incremental_state
class T5SelfAttention(_Projections):
    """Self-attention of T5's encoder and decoder."""

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        incremental_state: dict | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend from every position to those that the bias leaves visible.

        Args:
            query: (T, B, C); key, value: the same.
            key_padding_mask: (B or 1, H, T, S), a `RelativePositionBias`, which knows of padding and order: fairseq's
                layers pass the padding mask on untouched, so this comes in its place.
            incremental_state: fairseq's dictionary; keys and values of earlier positions are kept in it.
            need_weights, attn_mask: accepted for `MultiheadAttention`'s signature; not used.
        Returns:
            (T, B, C), and None.
        """
        bias = key_padding_mask
        q, k, v = (split_heads(project(query), self.num_heads) for project in (self.q_proj, self.k_proj, self.v_proj))
        if incremental_state is not None:
            saved = self._get_input_buffer(incremental_state)
            if saved:
                k = torch.cat((saved["prev_key"], k), dim=2)
                v = torch.cat((saved["prev_value"], v), dim=2)
            self.set_incremental_state(incremental_state, "attn_state", {"prev_key": k, "prev_value": v})
            bias = bias[..., -k.size(2) :]  # a first call with a longer prefix has keys of its last token only
        output, _ = attend(q, k, v, bias, current_rate(self.dropout_module))
        return self.out_proj(merge_heads(output)), None

    def _get_input_buffer(self, incremental_state: dict | None) -> dict:
        """What is kept, under the name by which fairseq's layers ask for it."""
        return self.get_incremental_state(incremental_state, "attn_state") or {}

    def reorder_incremental_state(self, incremental_state: dict, new_order: Tensor) -> dict:
        """Follow a beam search's choice of hypotheses, `new_order` (rows that stay, in their new order)."""
        saved = self._get_input_buffer(incremental_state)
        if saved:
            saved = {name: kept.index_select(0, new_order) for name, kept in saved.items()}
            self.set_incremental_state(incremental_state, "attn_state", saved)
        return incremental_state


class T5CrossAttention(SoftmaxCrossAttention, _Projections):
    """Attention to the whole source (`--cross-attention full`), its keys and values kept once per sentence."""


def residual_stream(x: Tensor) -> Tensor:
    """The embeddings as the sum that the layers add to: float16 becomes float32, and what is added follows."""
    return x.float() if x.dtype == torch.float16 else x


def finite_half(x: Tensor) -> Tensor:
    """float16 values clamped to a finite range, for which inf (and NaN after it) would be too late; else untouched."""
    if x.dtype != torch.float16:
        return x
    limit = torch.finfo(torch.float16).max - 1000
    return x.clamp(-limit, limit)


def relu(x: Tensor) -> Tensor:
    return finite_half(F.relu(x))


class GatedLinear(nn.Linear):
    """gelu(W x) * (V x), the GELU in its tanh form: `weight` is W, `linear.weight` is V."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__(width_in, width_out, bias=False)
        self.linear = nn.Linear(width_in, width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # clamped before the product: inf * 0, and the derivative of GELU at inf, are NaN
        return F.gelu(finite_half(super().forward(x)), approximate="tanh") * finite_half(self.linear(x))


class WideLinear(nn.Linear):
    """The feed-forward's last projection, whose float16 output would overflow: a product in float16 of inputs scaled
    down by a power of two per position, scaled up again in float32.

    Nothing is lost: float16 rounds to 2^-11 of an input, and what underflows is below 2^-24 of the largest one.
    """

    LARGEST_INPUT = 2.0  # after scaling; small, since the weights may be large

    def __init__(self, width_in: int, width_out: int):
        super().__init__(width_in, width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width_in) -> (..., width_out), float32 for a float16 input."""
        if x.dtype != torch.float16:
            return super().forward(x)
        x = finite_half(x)  # dropout's 1 / (1 - p) came after the last clamp
        largest = x.detach().abs().amax(dim=-1, keepdim=True).float()
        scale = (largest / self.LARGEST_INPUT).clamp(min=1).log2().ceil().exp2()
        return finite_half(super().forward(x / scale.to(x.dtype))).float() * scale
