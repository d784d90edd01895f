"""What every cross-attention of the decoders shares: projections, and a source kept once for all hypotheses."""

import torch
import torch.nn.functional as F
from fairseq.incremental_decoding_utils import with_incremental_state
from fairseq.modules import MultiheadAttention
from fairseq.modules.quant_noise import quant_noise
from torch import Tensor, nn

from ..errors import ConfigurationError
from .dropout import attention_dropout, current_rate
from .fused import Padding, fused_attention
from .source_context import SourceContext, as_context


def add_heads(
    module: nn.Module,
    embed_dim: int,
    num_heads: int,
    kdim: int | None = None,
    dropout: float = 0.0,
    bias: bool = True,
    scale_query: bool = True,
    head_dim: int | None = None,
    q_noise: float = 0.0,
    qn_block_size: int = 8,
) -> None:
    """Give an attention its heads: `num_heads`, `head_dim`, `scaling`, `dropout_module`, and the four projections under
    fairseq's names.

    Args:
        embed_dim, num_heads: width of the queries, and H.
        kdim: width of the keys (default: embed_dim).
        dropout: probability, on the attention weights.
        bias: biases in the four projections (BART yes, T5 no).
        scale_query: multiply queries by D^-1/2 (BART yes, T5 no).
        head_dim: D, where it is not embed_dim / num_heads (T5).
        q_noise, qn_block_size: fairseq's quantisation noise.
    """
    module.num_heads, module.head_dim = num_heads, head_dim or embed_dim // num_heads
    module.scaling = module.head_dim**-0.5 if scale_query else 1.0
    module.dropout_module = attention_dropout(dropout)
    inner, kdim = num_heads * module.head_dim, kdim or embed_dim
    for name, width_in, width_out in (
        ("k_proj", kdim, inner),
        ("v_proj", kdim, inner),
        ("q_proj", embed_dim, inner),
        ("out_proj", inner, embed_dim),
    ):
        setattr(module, name, quant_noise(nn.Linear(width_in, width_out, bias=bias), q_noise, qn_block_size))


def split_heads(projected: Tensor, num_heads: int) -> Tensor:
    """(N, B, H * D) -> (B, H, N, D)."""
    return projected.unflatten(2, (num_heads, -1)).permute(1, 2, 0, 3)


def merge_heads(output: Tensor) -> Tensor:
    """The inverse of `split_heads`: (B, H, N, D) -> (N, B, H * D)."""
    return output.permute(2, 0, 1, 3).flatten(2)


@with_incremental_state
class SharedByBeams(nn.Module):
    """Incremental state kept once per sentence, whatever the number of hypotheses.

    `set_beam_size` only tells fairseq that the encoder's output need not be copied per hypothesis (it then calls
    `BARTModel.set_beam_size`). How many hypotheses share a row is read off the tensors and kept in the
    incremental state, not on the module, which another generator or a training step may use next.
    """

    def set_beam_size(self, beam_size: int) -> None:
        """Answer fairseq's question whether this attention can share keys and values between hypotheses."""

    def _load(self, incremental_state) -> dict:
        return self.get_incremental_state(incremental_state, "attn_state") or {}

    def project_source(self, states: Tensor, context: SourceContext) -> tuple[Tensor, Tensor]:
        """Keys and values of encoder states (N, B, C_enc), each (N, B, H * D), unless `context` has them already."""
        return context.projected.get(self) or (self.k_proj(states), self.v_proj(states))

    def split_source(self, states: Tensor, context: SourceContext) -> tuple[Tensor, Tensor, Padding | None]:
        """Keys and values of encoder states (N, B, C_enc), each (B, H, N, D), and what hides their padding."""
        keys, values = (split_heads(x, self.num_heads) for x in self.project_source(states, context))
        return keys, values, context.hide(keys)

    def project_query(self, query: Tensor, hypotheses: int) -> Tensor:
        """Scaled queries: (T, B * x, C) -> (B, H, x * T, D)."""
        projected = self.q_proj(query)
        return self.split_query(projected if self.scaling == 1 else projected * self.scaling, hypotheses)

    def split_query(self, projected: Tensor, hypotheses: int) -> Tensor:
        """Heads of projected queries, hypotheses folded into positions: (T, B * x, H * D) -> (B, H, x * T, D)."""
        if hypotheses == 1:  # fewer views: in training the host's time counts
            return split_heads(projected, self.num_heads)
        length, rows, _ = projected.shape
        heads = projected.view(length, rows // hypotheses, hypotheses, self.num_heads, self.head_dim)
        return heads.permute(1, 3, 2, 0, 4).flatten(2, 3)

    def open_source(self, encoder_states: Tensor, context: SourceContext, length: int) -> "dict[str, Tensor]":
        """What `step` needs of the sources, computed once: tensors whose first dimension is the sentence.

        Here for attention to the whole source.

        Args:
            encoder_states: (N, B, C_enc).
            context: of these sources, the same for all layers.
            length: of the longest hypothesis that `step` will be asked for.
        Raises:
            ConfigurationError: this attention cannot be computed with tensors of fixed shapes.
        """
        keys, values, padding = self.split_source(encoder_states, context)
        if padding is None:
            return {"keys": keys, "values": values}
        # the values and not each step's output: once for all steps
        return {"keys": keys, "values": values.masked_fill(padding.empty, 0), "bias": padding.bias}

    def step(self, query: Tensor, source: "dict[str, Tensor]", position: Tensor) -> Tensor:
        """`forward` for one position that only the device knows: no host synchronisation, the same shapes every time.

        Args:
            query: (1, B * x, C), x hypotheses per sentence.
            source: what `open_source` returned.
            position: (1,) int64, of the query in the target.
        Returns:
            (1, B * x, C).
        """
        hypotheses = query.size(1) // next(iter(source.values())).size(0)
        queries = self.project_query(query, hypotheses)
        return self.out_proj(self.join_heads(self._attend_step(queries, source, position), hypotheses))

    def _attend_step(self, queries: Tensor, source: "dict[str, Tensor]", position: Tensor) -> Tensor:
        """(B, H, x, D) -> (B, H, x, D)."""
        return F.scaled_dot_product_attention(queries, source["keys"], source["values"], source.get("bias"), scale=1.0)

    @staticmethod
    def join_heads(output: Tensor, hypotheses: int) -> Tensor:
        """The inverse of `split_query`: (B, H, x * T, D) -> (T, B * x, H * D)."""
        if hypotheses == 1:
            return merge_heads(output)
        return output.unflatten(2, (hypotheses, -1)).permute(3, 0, 2, 1, 4).flatten(3).flatten(1, 2)

    @staticmethod
    def join_weights(weights: Tensor, hypotheses: int, per_head: bool) -> Tensor:
        """Attention weights (B, H, x * T, N) -> (B * x, T, N), averaged over heads, or (H, B * x, T, N)."""
        weights = weights.unflatten(2, (hypotheses, -1)).permute(1, 0, 2, 3, 4).flatten(1, 2)
        return weights if per_head else weights.mean(dim=0)

    def reorder_incremental_state(self, incremental_state, new_order: Tensor):
        """Follow a search's reordering, `new_order` (B' * x,) into (B * x), x hypotheses per sentence."""
        saved = self._load(incremental_state)
        if not saved:
            return incremental_state
        hypotheses, rows = saved["beam_size"], saved["prev_key"].size(0)
        # As many hypotheses as before: they were exchanged within their sentences, whose rows are shared.
        if new_order.numel() != rows * hypotheses:
            sentences = new_order.view(-1, hypotheses)[:, 0] // hypotheses
            for name, value in saved.items():
                if hasattr(value, "index_select"):
                    saved[name] = value.index_select(0, sentences)
        return incremental_state


class FullCrossAttention(SharedByBeams, MultiheadAttention):
    """fairseq's own attention to the whole source (`--cross-attention full`).

    Stock to the bit in evaluation; in training by fused kernels. And hypotheses are counted: stock leaves the last
    generator's beam size on the module, and a training step after it attends to every beam-th sentence only. A source
    of padding alone gives zeros before the output projection, where stock's numbers, and gradients, are NaN.
    """

    def forward(self, query, key, value, key_padding_mask=None, incremental_state=None, need_weights=True, **kwargs):
        """As in `MultiheadAttention.forward`; `key_padding_mask` may be a `SourceContext`."""
        context = as_context(key_padding_mask)
        if self.training and incremental_state is None and not need_weights and self._is_plain(kwargs):
            return self._attend_fused(query, key, context), None
        before = self._load(incremental_state) if incremental_state is not None else {}
        mask, empty = context.padding_mask, None
        if mask is not None and not before and not self._adds_keys:
            mask = mask.bool()
            empty = mask.all(dim=1)
            mask = mask & ~empty.unsqueeze(1)  # so that stock's softmax is not NaN
        output = super().forward(query, key, value, mask, incremental_state, need_weights, **kwargs)
        if incremental_state is not None:
            saved = self._load(incremental_state)
            saved["beam_size"] = before.get("beam_size", query.size(1) // saved["prev_key"].size(0))
            if empty is not None:  # for the later steps
                saved["prev_value"] = saved["prev_value"].masked_fill(empty[:, None, None, None], 0)
        if empty is None or kwargs.get("before_softmax"):
            return output
        return self._fill_empty(*output, empty)

    def _fill_empty(self, output: Tensor, weights: Tensor | None, empty: Tensor) -> tuple[Tensor, Tensor | None]:
        """What stock computed, (T, B * x, C) and weights, where the sources `empty` (B,) are read as nothing."""
        empty = empty.repeat_interleave(output.size(1) // empty.size(0))[:, None]
        nothing = output.new_zeros(()) if self.out_proj.bias is None else self.out_proj.bias.to(output.dtype)
        weights = None if weights is None else weights.masked_fill(empty.unsqueeze(2), 0)
        return torch.where(empty, nothing, output), weights

    @property
    def _adds_keys(self) -> bool:
        """Whether fairseq's options add keys, so that there is something to attend to in any source."""
        return self.bias_k is not None or self.add_zero_attn

    def _is_plain(self, options) -> bool:
        """Whether nothing but keys and padding is asked for, by the call's further options or by the module's."""
        asked = any(options.get(name) for name in ("before_softmax", "need_head_weights"))
        return not (asked or self._adds_keys or self.onnx_trace) and options.get("attn_mask") is None

    def _attend_fused(self, query: Tensor, key: Tensor, context: SourceContext) -> Tensor:
        """Without fairseq's scores and weights, (B * H, T, N) several times over. The same but for rounding."""
        hypotheses = query.size(1) // key.size(1)
        queries = self.split_query(self.q_proj(query), hypotheses)
        keys, values, padding = self.split_source(key, context)
        dropout = current_rate(self.dropout_module)
        output = fused_attention(queries, keys, values, padding and padding.bias, dropout, self.scaling)
        if padding is not None:
            output = output.masked_fill(padding.empty, 0)
        return self.out_proj(self.join_heads(output, hypotheses))

    def open_source(self, encoder_states, context, length):
        """As in `SharedByBeams.open_source`."""
        if self._adds_keys:
            raise ConfigurationError("cross-attention with --add-bias-kv or --add-zero-attn")
        return super().open_source(encoder_states, context, length)
