"""fairseq's transformer decoder with a segmented cross-attention."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from fairseq.distributed import fsdp_wrap
from fairseq.models.transformer import TransformerDecoderBase
from fairseq.modules import LayerDropModuleList
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor

from ..attention.causal import attend_without_masks
from ..attention.cross_attention import SegmentedCrossAttention
from ..attention.hepos import HeposCrossAttention
from ..attention.projections import is_bare
from ..attention.settings import SegmentSettings
from ..attention.shared_by_beams import FullCrossAttention
from ..attention.source_context import SourceContext
from .checkpoint_state import check_memory, check_schedule, fill_memory
from .schedule_record import encode_schedule


class SegmentedDecoderLayer(TransformerDecoderLayerBase):
    """A decoder layer whose `encoder_attn` the model's settings choose."""

    def __init__(self, cfg, no_encoder_attn=False, *, settings: SegmentSettings):
        self.settings = settings  # first, since the base class builds the attention
        super().__init__(cfg, no_encoder_attn)
        self.need_attn = False  # weights only where the decoder asks for them, in training and evaluation

    def build_self_attention(self, embed_dim, cfg, add_bias_kv=False, add_zero_attn=False):
        return attend_without_masks(super().build_self_attention(embed_dim, cfg, add_bias_kv, add_zero_attn))

    def build_encoder_attention(self, embed_dim, cfg):
        shared = {
            "kdim": cfg.encoder.embed_dim,
            "dropout": cfg.attention_dropout,
            "q_noise": self.quant_noise,
            "qn_block_size": self.quant_noise_block_size,
        }
        heads = cfg.decoder.attention_heads
        if self.settings.is_full:
            return FullCrossAttention(
                embed_dim, heads, vdim=cfg.encoder.embed_dim, encoder_decoder_attention=True, **shared
            )
        return self.partial_kind(embed_dim, heads, self.settings, **shared)

    @property
    def partial_kind(self) -> type:
        """The class of a cross-attention in which no query of a head reads all of the source."""
        return SegmentedCrossAttention if self.settings.has_segments else HeposCrossAttention

    def make_generation_fast_(self, need_attn: bool = False, **kwargs):
        """The decoder, not each layer, decides who returns weights."""


class TargetPadding(NamedTuple):
    """What the host knows of how a batch of targets is padded."""

    exists: bool
    is_left: bool  # in a row padding stands before a token

    @classmethod
    def read(cls, padding: Tensor) -> "TargetPadding":
        """Of a mask (B, T) bool, True at padding. The host waits for the device."""
        is_left = (padding[:, :-1] & ~padding[:, 1:]).any()
        return cls(*torch.stack((padding.any(), is_left)).tolist())


class SegmentedDecoder(TransformerDecoderBase):
    """`TransformerDecoderBase` that tells its cross-attention where in the target a query is.

    The schedule (segment size, policy, expected target length) is kept as a buffer, so that a checkpoint says
    what it was trained with.
    """

    layer_class = SegmentedDecoderLayer

    def __init__(self, cfg, dictionary, embed_tokens, no_encoder_attn=False, output_projection=None):
        self.settings = SegmentSettings.from_namespace(cfg)  # first, since the base class builds the layers
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn, output_projection)
        self.need_attn = False
        if not self.settings.is_full:
            self.register_buffer("segment_schedule", encode_schedule(self.settings))

    def build_decoder_layer(self, cfg, no_encoder_attn=False):
        return wrap_layer(self.layer_class(cfg, no_encoder_attn, settings=self.settings), cfg)

    def make_generation_fast_(self, need_attn: bool = False, **kwargs):
        """Called by fairseq-generate; `need_attn` is set by --print-alignment."""
        self.need_attn = need_attn

    _known = (None, None)  # targets, and their `TargetPadding`

    @contextmanager
    def padding_known(self, prev_output_tokens: Tensor) -> Iterator[None]:
        """Read how these targets are padded now, and not when the decoder asks within.

        To be entered before the encoder is called: whoever reads from a GPU waits for all that was launched, and the
        decoder would begin with the device idle.
        """
        self._known = prev_output_tokens, self.target_padding(prev_output_tokens)
        try:
            yield
        finally:
            vars(self).pop("_known", None)  # the class's again

    def target_padding(self, prev_output_tokens: Tensor) -> TargetPadding:
        """How targets (B, T) are padded."""
        known, found = self._known
        if known is prev_output_tokens:
            return found
        return TargetPadding.read(prev_output_tokens.eq(self.padding_idx))

    def extract_features(
        self,
        prev_output_tokens,
        encoder_out,
        incremental_state=None,
        full_context_alignment=False,
        alignment_layer=None,
        alignment_heads=None,
    ):
        """As the base class, with two differences.

        Attention weights are returned only when asked for: by an `alignment_layer`, or by fairseq-generate's
        --print-alignment. And targets that are padded on the left are computed as if it were on the right, since the
        schedule counts from a target's first token.
        """
        padding = self.target_padding(prev_output_tokens) if incremental_state is None else None
        if padding is not None and padding.is_left:
            is_padding = prev_output_tokens.eq(self.padding_idx).to(torch.uint8)
            order = is_padding.argsort(dim=1, stable=True)  # real tokens first
            tokens = prev_output_tokens.gather(1, order)
            x, extra = self.extract_features(
                tokens, encoder_out, None, full_context_alignment, alignment_layer, alignment_heads
            )
            back = order.argsort(dim=1).unsqueeze(2)
            attn = [weights if weights is None else weights.take_along_dim(back, dim=1) for weights in extra["attn"]]
            states = [state.take_along_dim(back.transpose(0, 1), dim=0) for state in extra["inner_states"]]
            return x.take_along_dim(back, dim=1), {**extra, "attn": attn, "inner_states": states}
        if alignment_layer is None and not (self.need_attn and not self.training):
            alignment_layer = -1  # no layer has this number, so none computes weights
        if encoder_out is not None and len(encoder_out["encoder_out"]) > 0:
            masks = encoder_out["encoder_padding_mask"]
            if incremental_state is None:
                target_lengths, position = prev_output_tokens.ne(self.padding_idx).sum(dim=1), 0
            else:
                target_lengths, position = None, prev_output_tokens.size(1) - 1
            context = SourceContext(masks[0] if len(masks) > 0 else None, target_lengths, position)
            if self.training and incremental_state is None:
                self.project_source(context, encoder_out["encoder_out"][0])
            encoder_out = {**encoder_out, "encoder_padding_mask": [context]}
        # fairseq then makes a mask without asking the device whether there is padding. In training none is looked at.
        self.cross_self_attention = padding is not None and (padding.exists or self.training)
        try:
            return super().extract_features(
                prev_output_tokens,
                encoder_out,
                incremental_state,
                full_context_alignment,
                alignment_layer,
                alignment_heads,
            )
        finally:
            self.cross_self_attention = False

    def project_source(self, context: SourceContext, states: Tensor) -> None:
        """Project encoder states (N, B, C) for all layers' cross-attention at once, where all will read them.

        Not where layers are dropped, computed anew (--checkpoint-activations) or gathered one by one (FSDP), nor where
        a projection is more than its weights, or is not needed of the whole source.
        """
        if not torch.is_grad_enabled() or isinstance(self.layers, LayerDropModuleList):
            return
        is_own = all(type(x) is self.layer_class and not hasattr(x, "precheckpoint_forward") for x in self.layers)
        attentions = [layer.encoder_attn for layer in self.layers] if is_own else []
        if any(isinstance(attention, HeposCrossAttention) for attention in attentions):
            return
        if attentions and all(a is not None and is_bare(a.k_proj) and is_bare(a.v_proj) for a in attentions):
            context.project_for(attentions, states)

    def position_table(self, length: int, device) -> torch.Tensor | None:
        """Embeddings of target positions 0, ..., length - 1, (length, C); None: the model has none."""
        if self.embed_positions is None:
            return None
        return self.embed_positions(torch.full((1, length), self.padding_idx + 1, device=device)).squeeze(0)

    def self_attention_bias_table(self, length: int, device) -> torch.Tensor | None:
        """What is added to the scores of query t and key s, (length, H, length); None: nothing is."""
        return None

    def embed_step(self, tokens, position, positions) -> torch.Tensor:
        """The first layer's input for one target position of several hypotheses.

        Args:
            tokens: (1, rows) int64.
            position: (1,) int64.
            positions: what `position_table` returned.
        Returns:
            (1, rows, C).
        """
        x = self.embed_scale * self.embed_tokens(tokens)
        if positions is not None:
            x = x + positions.index_select(0, position)
        return x if self.layernorm_embedding is None else self.layernorm_embedding(x)

    def upgrade_state_dict_named(self, state_dict, name):
        """Give parameters that a checkpoint lacks their initial values; refuse one of another schedule."""
        state_dict = super().upgrade_state_dict_named(state_dict, name)
        own = self.state_dict(prefix=f"{name}.")
        check_memory(state_dict, own)
        fill_memory(state_dict, own)
        check_schedule(state_dict, f"{name}.segment_schedule", own.get(f"{name}.segment_schedule"))
        return state_dict


def wrap_layer(layer, cfg):
    """Activation checkpointing and FSDP for a layer, as the configuration asks for."""
    if cfg.checkpoint_activations:
        layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
    # wrap checkpointed layers whatever their size, as stock fairseq does
    return fsdp_wrap(layer, min_num_params=0 if cfg.checkpoint_activations else cfg.min_params_to_wrap)
