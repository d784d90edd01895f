"""fairseq's transformer decoder with a segmented cross-attention."""

import json
import logging

import torch
from fairseq.distributed import fsdp_wrap
from fairseq.models.transformer import TransformerDecoderBase
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase

from ..attention.cross_attention import SegmentedCrossAttention
from ..attention.settings import SegmentSettings
from ..attention.shared_by_beams import FullCrossAttention
from ..attention.source_context import SourceContext
from ..errors import ConfigurationError

logger = logging.getLogger(__name__)


class SegmentedDecoderLayer(TransformerDecoderLayerBase):
    """A decoder layer whose `encoder_attn` the settings choose."""

    def __init__(self, cfg, no_encoder_attn=False):
        super().__init__(cfg, no_encoder_attn)
        self.need_attn = False  # weights only where the decoder asks for them, in training and evaluation

    def build_encoder_attention(self, embed_dim, cfg):
        settings = SegmentSettings.from_namespace(cfg)
        shared = {
            "kdim": cfg.encoder.embed_dim,
            "dropout": cfg.attention_dropout,
            "q_noise": self.quant_noise,
            "qn_block_size": self.quant_noise_block_size,
        }
        heads = cfg.decoder.attention_heads
        if settings.is_full:
            return FullCrossAttention(
                embed_dim, heads, vdim=cfg.encoder.embed_dim, encoder_decoder_attention=True, **shared
            )
        return SegmentedCrossAttention(embed_dim, heads, settings, **shared)

    def make_generation_fast_(self, need_attn: bool = False, **kwargs):
        """The decoder, not each layer, decides who returns weights."""


class SegmentedDecoder(TransformerDecoderBase):
    """`TransformerDecoderBase` that tells its cross-attention where in the target a query is.

    The schedule (segment size, policy, expected target length) is kept as a buffer, so that a checkpoint says
    what it was trained with.
    """

    layer_class = SegmentedDecoderLayer

    def __init__(self, cfg, dictionary, embed_tokens, no_encoder_attn=False, output_projection=None):
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn, output_projection)
        self.settings = SegmentSettings.from_namespace(cfg)
        self.need_attn = False
        if not self.settings.is_full:
            self.register_buffer("segment_schedule", encode_schedule(self.settings))

    def build_decoder_layer(self, cfg, no_encoder_attn=False):
        return wrap_layer(self.layer_class(cfg, no_encoder_attn), cfg)

    def make_generation_fast_(self, need_attn: bool = False, **kwargs):
        """Called by fairseq-generate; `need_attn` is set by --print-alignment."""
        self.need_attn = need_attn

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
        padding = prev_output_tokens.eq(self.padding_idx)
        if incremental_state is None and (padding[:, :-1] & ~padding[:, 1:]).any():
            order = padding.to(torch.uint8).argsort(dim=1, stable=True)  # real tokens first
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
            encoder_out = {**encoder_out, "encoder_padding_mask": [context]}
        return super().extract_features(
            prev_output_tokens,
            encoder_out,
            incremental_state,
            full_context_alignment,
            alignment_layer,
            alignment_heads,
        )

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
        self._check_memory(state_dict, own)
        self._fill_memory(state_dict, own)
        self._check_schedule(state_dict, f"{name}.segment_schedule")
        return state_dict

    @staticmethod
    def _check_memory(state_dict, own):
        unknown = sorted(key for key in state_dict if ".encoder_attn.memory." in key and key not in own)
        if unknown:
            raise ConfigurationError(
                f"the checkpoint holds memory parameters that this model has no place for ({unknown[0]}"
                f"{' and more' if len(unknown) > 1 else ''}): use the --cross-attention (and --memory-gate) "
                "it was trained with"
            )

    @staticmethod
    def _fill_memory(state_dict, own):
        """Add the memory parameters that no layer of the checkpoint has (it has full cross-attention, or segmented).

        Where only some layers have one, the checkpoint is damaged: left to strict loading to report.
        """
        mine = [key for key in own if ".encoder_attn.memory." in key]
        for parameter in sorted({key.split(".encoder_attn.memory.")[1] for key in mine}):
            keys = [key for key in mine if key.endswith(f".encoder_attn.memory.{parameter}")]
            if not any(key in state_dict for key in keys):
                for key in keys:
                    state_dict[key] = own[key].clone()
                logger.info(
                    f"not in the checkpoint, keeps its initial value: encoder_attn.memory.{parameter} "
                    f"in {len(keys)} decoder layers"
                )

    def _check_schedule(self, state_dict, key):
        trained = state_dict.pop(key, None)
        if self.settings.is_full:
            if trained is not None:
                raise ConfigurationError(
                    "the checkpoint was trained with segmented cross-attention, not with --cross-attention full; "
                    "start from a checkpoint with full cross-attention"
                )
            return
        if trained is not None:
            theirs, ours = decode_schedule(trained), decode_schedule(self.segment_schedule)
            for field, flag in (("segment_size", "--segment-size"), ("segment_schedule", "--segment-schedule")):
                if theirs[field] != ours[field]:
                    raise ConfigurationError(
                        f"the checkpoint was trained with {flag} {theirs[field]}, but this run has {ours[field]}; "
                        f"use {flag} {theirs[field]}, or start from a checkpoint with full cross-attention"
                    )
            if theirs["expected_target_length"] != ours["expected_target_length"]:
                logger.warning(
                    f"the checkpoint was trained with --expected-target-length {theirs['expected_target_length']}; "
                    f"this run goes on with {ours['expected_target_length']}"
                )
        else:
            schedule = decode_schedule(self.segment_schedule)
            logger.info(f"not in the checkpoint, taken from the flags: schedule {schedule}")
        state_dict[key] = self.segment_schedule.clone()


def wrap_layer(layer, cfg):
    """Activation checkpointing and FSDP for a layer, as the configuration asks for."""
    if cfg.checkpoint_activations:
        layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
    # wrap checkpointed layers whatever their size, as stock fairseq does
    return fsdp_wrap(layer, min_num_params=0 if cfg.checkpoint_activations else cfg.min_params_to_wrap)


def encode_schedule(settings: SegmentSettings) -> torch.Tensor:
    """The schedule as int64 code points of JSON: a tensor, since fairseq's tools (averaging, EMA) expect tensors
    in a model's state, and an integer one of this width survives the averaging of equal values."""
    fields = ("segment_size", "segment_schedule", "expected_target_length")
    text = json.dumps({name: getattr(settings, name) for name in fields})
    return torch.tensor(list(text.encode()), dtype=torch.int64)


def decode_schedule(buffer: torch.Tensor) -> dict:
    """The inverse of `encode_schedule`."""
    return json.loads(bytes(buffer.tolist()))
