"""fairseq's self-attention, some calls of which are computed in another way."""

from collections.abc import Sequence

import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from .projections import project_together


class OwnSelfAttention(MultiheadAttention):
    """fairseq's self-attention, whose plain calls a subclass may take over; what it leaves is fairseq's to the bit.

    An instance is made of fairseq's by setting its `__class__`: parameters, their names and hooks stay.
    """

    @property
    def is_plain(self) -> bool:
        """None of fairseq's options changes what is computed, or asks for another library's kernels."""
        changed = self.bias_k is not None or self.add_zero_attn or self.onnx_trace or self.skip_embed_dim_check
        return not (changed or self.use_xformers)

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
        """As in `MultiheadAttention.forward`: (N, B, C), and attention weights if they are asked for."""
        whole = key is query and value is query and incremental_state is None
        asked = need_weights or static_kv or before_softmax or need_head_weights
        if whole and self.is_plain and not asked:
            attended = self._attend_instead(query, key_padding_mask, attn_mask)
            if attended is not None:
                return attended, None
        return super().forward(
            query, key, value, key_padding_mask, incremental_state,
            need_weights, static_kv, attn_mask, before_softmax, need_head_weights,
        )  # fmt: skip

    def _attend_instead(self, states: Tensor, padding_mask: Tensor | None, attn_mask: Tensor | None) -> Tensor | None:
        """(N, B, C) -> (N, B, C), of one call on the whole sequence that wants no weights; None: fairseq's way."""
        raise NotImplementedError

    def project_in(self, states: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values, of the states' shape; in training slices of one tensor."""
        return project_together(states, (self.q_proj, self.k_proj, self.v_proj))


def project(states: Tensor, projection: nn.Module) -> Tensor:
    """By the weights and not the module, as fairseq does: hooks such as quantization noise's do not run."""
    return F.linear(states, projection.weight, projection.bias)
