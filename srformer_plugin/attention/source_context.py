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
        self._hidden: dict[torch.dtype, Padding | None] = {}

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

    def hide(self, like: Tensor) -> Padding | None:
        """`fused.hide` of the source, computed once for a dtype."""
        if like.dtype not in self._hidden:
            self._hidden[like.dtype] = hide(self.padding_mask, like)
        return self._hidden[like.dtype]


def as_context(key_padding_mask) -> SourceContext:
    """A bare padding mask (or None) as the context that a decoder would make of it."""
    return key_padding_mask if isinstance(key_padding_mask, SourceContext) else SourceContext(key_padding_mask)
