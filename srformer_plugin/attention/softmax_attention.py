"""Cross-attention that is one softmax for a head and a query, over keys that all queries of the head share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .dropout import current_rate
from .fused import fused_attention, lowest
from .method.segments import SourceLayout
from .shared_by_beams import SharedByBeams
from .source_context import SourceContext, as_context

# Added to the score of a key that must not be seen. Finite in every dtype, so that a query that sees no key at all
# (padding before a left-padded target) is not NaN.
MASKED = lowest(torch.float16)


def attend(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, dropout: float = 0.0, need_weights: bool = False
) -> tuple[Tensor, Tensor | None]:
    """softmax(Q K^T + bias) V, without a scale, the softmax in float32.

    Args:
        query, keys, values: (B, H, T, D), (B, H, S, D), (B, H, S, D).
        bias: broadcastable to (B, H, T, S), or None.
        dropout: probability, on the weights.
    Returns:
        (B, H, T, D), and the weights (B, H, T, S) in float32 where they are needed.
    """
    if not need_weights:
        bias = None if bias is None else bias.to(query.dtype)
        return fused_attention(query, keys, values, bias, dropout, scale=1.0), None
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = query.to(wide) @ keys.to(wide).transpose(-1, -2)
    weights = F.softmax(scores if bias is None else scores + bias, dim=-1)
    if bias is not None:  # 0 already, but for a query that sees no key at all
        weights = weights.masked_fill(bias <= MASKED, 0)
    return F.dropout(weights, dropout, training=dropout > 0).to(values.dtype) @ values, weights


class SoftmaxCrossAttention(SharedByBeams):
    """Attention to the keys of `split_source`, which are kept once per sentence while a target is decoded.

    A subclass has the four projections, `num_heads`, `head_dim`, `scaling` and `dropout_module`. Where the keys are not
    all positions of a source, it also says where they lie (`layout`, `on_positions`).
    """

    def layout(self, states: Tensor, context: SourceContext) -> SourceLayout | None:
        """What `on_positions` needs to know of encoder states (N, B, C_enc)."""
        return None

    def on_positions(self, weights: Tensor, layout: SourceLayout | None) -> Tensor:
        """Weights on keys (B, H, Q, m) as weights on the source's positions (B, H, Q, N)."""
        return weights

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask=None,
        incremental_state: dict | None = None,
        need_weights: bool = False,
        static_kv: bool = True,
        attn_mask: Tensor | None = None,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `SegmentedCrossAttention.forward`: query (T, B * x, C) with x hypotheses a sentence, key (N, B, C)."""
        context, empty = as_context(key_padding_mask), None
        if incremental_state is None:
            layout = self.layout(key, context)
            keys, values, padding = self.split_source(key, context)
            bias, empty = (None, None) if padding is None else padding
            beam = query.size(1) // key.size(1)
        else:
            saved = self._load(incremental_state)
            if not saved:
                source = self.open_source(key, context, length=query.size(0))
                saved = {
                    "prev_key": source["keys"],
                    "prev_value": source["values"],
                    "bias": source.get("bias"),
                    "layout": self.layout(key, context),
                    "beam_size": query.size(1) // key.size(1),
                }
                self.set_incremental_state(incremental_state, "attn_state", saved)
            keys, values, bias, layout = (saved[name] for name in ("prev_key", "prev_value", "bias", "layout"))
            beam = saved["beam_size"]
        q = self.project_query(query, beam)  # hypotheses are more queries to the same keys
        dropout = current_rate(self.dropout_module)
        output, weights = attend(q, keys, values, bias, dropout, need_weights or need_head_weights)
        if empty is not None:
            output = output.masked_fill(empty, 0)
        if weights is not None:
            weights = self.join_weights(self.on_positions(weights, layout), beam, need_head_weights)
        return self.out_proj(self.join_heads(output, beam)), weights
