"""What a decoder's forward pass tells the cross-attention of its layers about the source."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .fused import Padding, hide
from .method.plan import SegmentPlan
from .method.segments import SourceLayout
from .projections import project_together


class SourceContext:
    """What one forward pass of the decoder knows and every layer's cross-attention needs.

    A decoder hands it to its layers in the place of the padding mask, which fairseq's layers pass on untouched.
    It lives for one forward pass, so that layout, plan and what hides the padding are computed once and not per layer.

    Args:
        padding_mask: (B, N) bool, True at padding; None: no padding.
        target_lengths: (B,) int64, true target lengths where they are known (teacher forcing).
        first_position: t of the first query; None: the position that the incremental state has reached.

    Attributes:
        projected: attention -> its keys and values, of attentions whose source was projected for all of them together.
    """

    def __init__(
        self,
        padding_mask: Tensor | None,
        target_lengths: Tensor | None = None,
        first_position: int | None = None,
    ):
        self.padding_mask = padding_mask
        self.target_lengths = target_lengths
        self.first_position = first_position
        self.projected: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._layouts: dict[tuple, SourceLayout] = {}
        self._plans: dict[tuple, SegmentPlan] = {}
        self._hidden: dict[tuple, Padding | None] = {}
        self._cut: tuple[Tensor, tuple, Tensor] | None = None

    def project_for(self, attentions: Sequence[nn.Module], states: Tensor) -> None:
        """Fill `projected` with the keys and values (N, B, H * D) of states (N, B, C), by one product for all."""
        projections = [p for attention in attentions for p in (attention.k_proj, attention.v_proj)]
        parts = project_together(states, projections)
        self.projected = dict(zip(attentions, zip(parts[::2], parts[1::2], strict=True), strict=True))

    def layout(self, batch_size: int, source_length: int, segment_size: int, device) -> SourceLayout:
        """The source's segments, computed once."""
        key = (batch_size, source_length, segment_size)
        if key not in self._layouts:
            mask = self.padding_mask
            if mask is not None and mask.size(0) != batch_size:
                mask = mask.repeat_interleave(batch_size // mask.size(0), dim=0)
            self._layouts[key] = SourceLayout(mask, batch_size, source_length, segment_size, device)
        return self._layouts[key]

    def plan(self, schedule, layout: SourceLayout, **positions) -> SegmentPlan:
        """The schedule's plan, computed once; `positions` are the arguments of its `plan`."""
        key = (schedule.identity, layout.segment_size)
        if key not in self._plans:
            self._plans[key] = schedule.plan(layout, **positions)
        return self._plans[key]

    def cut_by_stride(self, states: Tensor, layout: SourceLayout) -> Tensor:
        """Encoder states (N, B, C) by the slot that they have in a segment of S tokens: every S-th in (S, B, m, C).

        Computed once; anew where a layer is (--checkpoint-activations), whose states are others or had no gradients.
        """
        how = layout.segment_size, torch.is_grad_enabled()
        if self._cut is None or self._cut[0] is not states or self._cut[1] != how:
            self._cut = states, how, layout.split_heads(states, 1).squeeze(1).permute(2, 0, 1, 3).contiguous()
        return self._cut[2]

    def hide(self, keys: Tensor, layout: SourceLayout | None = None) -> Padding | None:
        """What hides padding from queries, computed once for a dtype.

        Args:
            keys: (B, H, N, D); with a `layout` (B, H, m, D), of head h what is in slot h modulo S of every segment.
        """
        key = keys.dtype, None if layout is None else layout.segment_size
        if key not in self._hidden:
            mask = self.padding_mask
            if layout is not None:
                mask = layout.is_real
                if mask is not None:
                    mask = ~mask.transpose(1, 2).repeat(1, keys.size(1) // layout.segment_size, 1)
            self._hidden[key] = hide(mask, keys)
        return self._hidden[key]


def as_context(key_padding_mask) -> SourceContext:
    """A bare padding mask (or None) as the context that a decoder would make of it."""
    return key_padding_mask if isinstance(key_padding_mask, SourceContext) else SourceContext(key_padding_mask)
