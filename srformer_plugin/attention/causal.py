"""A decoder's self-attention in training, without a mask."""

from fairseq.modules import MultiheadAttention
from torch import Tensor

from .dropout import current_rate
from .fused import fused_attention
from .self_attention import OwnSelfAttention, project
from .shared_by_beams import merge_heads, split_heads


def attend_without_masks(attention: MultiheadAttention) -> MultiheadAttention:
    """Give fairseq's self-attention of a decoder the class `CausalSelfAttention`; all else stays as fairseq made it."""
    if type(attention) is MultiheadAttention and attention.self_attention:
        attention.__class__ = CausalSelfAttention
    return attention


class CausalSelfAttention(OwnSelfAttention):
    """fairseq's self-attention of a decoder whose targets are padded on the right, as `SegmentedDecoder` has them.

    In training it is a fused kernel's causal attention: what is padding lies behind every real position, and is hidden
    from it by the order alone. fairseq adds a mask of the order and one of the padding, (B * H, T, T), which the
    fastest kernels cannot take. Real positions have fairseq's numbers but for rounding; in evaluation all have, to the
    bit.
    """

    def _attend_instead(self, states: Tensor, padding_mask: Tensor | None, attn_mask: Tensor | None) -> Tensor | None:
        """A decoder's `attn_mask` (T, T) hides what comes later."""
        return self._attend_fused(states) if self.training and attn_mask is not None else None

    def _attend_fused(self, states: Tensor) -> Tensor:
        """(T, B, C) -> (T, B, C)."""
        heads = (split_heads(x, self.num_heads) for x in self.project_in(states))
        output = fused_attention(*heads, dropout=current_rate(self.dropout_module), causal=True)
        return project(merge_heads(output), self.out_proj)
