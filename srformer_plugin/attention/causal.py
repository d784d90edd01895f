"""A decoder's self-attention in training, without a mask."""

from fairseq.modules import MultiheadAttention
from torch import Tensor

from .dropout import current_rate
from .fused import fused_attention
from .shared_by_beams import split_heads


def attend_without_masks(attention: MultiheadAttention) -> MultiheadAttention:
    """Give fairseq's self-attention of a decoder the class `CausalSelfAttention`; all else stays as fairseq made it."""
    if type(attention) is MultiheadAttention and attention.self_attention:
        attention.__class__ = CausalSelfAttention
    return attention


class CausalSelfAttention(MultiheadAttention):
    """fairseq's self-attention of a decoder whose targets are padded on the right, as `SegmentedDecoder` has them.

    In training it is a fused kernel's causal attention: what is padding lies behind every real position, and is hidden
    from it by the order alone. fairseq adds a mask of the order and one of the padding, (B * H, T, T), which the
    fastest kernels cannot take. Real positions have fairseq's numbers but for rounding; in evaluation all have, to the
    bit.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        incremental_state=None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As in `MultiheadAttention.forward`; a decoder's `attn_mask` (T, T) hides what comes later."""
        whole = incremental_state is None and attn_mask is not None and key is query and value is query
        asked = need_weights or static_kv or before_softmax or need_head_weights
        added = self.bias_k is not None or self.add_zero_attn
        if self.training and whole and not (asked or added or self.onnx_trace or self.skip_embed_dim_check):
            return self._attend_fused(query), None
        return super().forward(
            query, key, value, key_padding_mask, incremental_state,
            need_weights, static_kv, attn_mask, before_softmax, need_head_weights,
        )  # fmt: skip

    def _attend_fused(self, states: Tensor) -> Tensor:
        """(T, B, C) -> (T, B, C)."""
        heads = (split_heads(p(states), self.num_heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        output = fused_attention(*heads, dropout=current_rate(self.dropout_module), causal=True)
        return self.out_proj(output.permute(2, 0, 1, 3).flatten(2))
