"""Head-wise positional strides (`--cross-attention hepos`): every head reads every S-th token of the source.

HEPOS of Huang et al., "Efficient Attentions for Long Document Summarization", NAACL 2021 (arXiv 2104.02112): head h of
the decoder's cross-attention attends to the positions p with p = h modulo S, so that S heads read a source once. As in
the authors' code S divides the number of heads. Unlike there, nobody attends to padding, and positions are counted from
a sentence's first real token, so that it does not depend on its batch.

The positions of one head are one slot of the segments of S tokens that `SourceLayout` makes.
"""

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from .method.segments import SourceLayout
from .projections import is_bare
from .settings import HEPOS, SegmentSettings
from .shared_by_beams import add_heads
from .softmax_attention import SoftmaxCrossAttention
from .source_context import SourceContext


def check_head_stride(settings: SegmentSettings, num_heads: int) -> None:
    """Raise a ConfigurationError where the stride that is asked for does not divide a decoder's heads."""
    stride = settings.head_stride
    if settings.cross_attention == HEPOS and num_heads % stride:
        strides = [number for number in range(1, num_heads + 1) if num_heads % number == 0]
        raise ConfigurationError(
            f"--head-stride {stride} does not divide --decoder-attention-heads {num_heads}: some positions would be "
            f"read by fewer heads than others, or by none; use one of {', '.join(map(str, strides))}"
        )


class HeposCrossAttention(SoftmaxCrossAttention):
    """Softmax attention of head h to the tokens h, h + S, ... (modulo S) of the source.

    Keys and values are computed for the head that reads them and for no other, so that projecting a source, reading it
    and what training keeps of it all cost 1 / S of full attention's. Parameters are those of full attention.

    Args:
        embed_dim, num_heads: width of the decoder, and heads, of which S divides the number.
        settings: checked already; its `head_stride` is S.
        heads: further arguments of `add_heads`.
    Raises:
        ConfigurationError: S does not divide num_heads.
    """

    def __init__(self, embed_dim: int, num_heads: int, settings: SegmentSettings, **heads):
        super().__init__()
        check_head_stride(settings, num_heads)
        self.stride = settings.head_stride
        add_heads(self, embed_dim, num_heads, **heads)

    def layout(self, states: Tensor, context: SourceContext) -> SourceLayout:
        """The source's segments of S tokens."""
        length, batch_size, _ = states.shape
        return context.layout(batch_size, length, self.stride, states.device)

    def split_source(self, states, context):
        """As in `SharedByBeams.split_source`, keys and values (B, H, m, D), m = ceil(N / S)."""
        layout = self.layout(states, context)
        cut = context.cut_by_stride(states, layout)
        keys, values = (self._project(projection, cut) for projection in (self.k_proj, self.v_proj))
        return keys, values, context.hide(keys, layout)

    def _project(self, projection: nn.Module, cut: Tensor) -> Tensor:
        """States by slot (S, B, m, C) to keys or values (B, H, m, D), head h from slot h modulo S."""
        heads = (-1, self.stride, self.head_dim)
        if is_bare(projection):
            weight = projection.weight.unflatten(0, heads).permute(1, 3, 0, 2).flatten(2)  # (S, C, H / S * D)
            projected = cut.flatten(1, 2) @ weight
            if projection.bias is not None:
                projected = projected + projection.bias.view(heads).transpose(0, 1).flatten(1).unsqueeze(1)
            projected = projected.view(*cut.shape[:3], -1, self.head_dim)
        else:  # only the module knows its weights, as with quantization noise
            projected = projection(cut).unflatten(3, heads).diagonal(dim1=0, dim2=4).permute(4, 0, 1, 2, 3)
        return projected.permute(1, 3, 0, 2, 4).flatten(1, 2)

    def on_positions(self, weights: Tensor, layout: SourceLayout) -> Tensor:
        """As in `SoftmaxCrossAttention.on_positions`."""
        own = torch.eye(self.stride, device=weights.device).repeat(self.num_heads // self.stride, 1)
        every = torch.arange(weights.size(3), device=weights.device).expand(len(weights), 1, weights.size(2), -1)
        return layout.scatter_weights(weights.unsqueeze(4) * own[:, None, None].to(weights.dtype), every)
