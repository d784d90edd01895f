"""SRformer-BART: fairseq's BART with segmented recurrent cross-attention in every decoder layer."""

import logging
from dataclasses import asdict

import torch
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import register_model, register_model_architecture
from fairseq.models.bart import BARTModel
from fairseq.models.bart.model import bart_base_architecture, bart_large_architecture
from fairseq.models.transformer import TransformerConfig

from ..attention.settings import SegmentSettings
from ..errors import ConfigurationError
from .segmented_decoder import SegmentedDecoder

logger = logging.getLogger(__name__)


@register_model("srformer_bart")
class SRformerBARTModel(BARTModel):
    """BART whose decoder attends to one source segment per position and to a recurrent memory of the others.

    With `--cross-attention full`, or where the segment size is at least the source length, its logits are
    BART's. A stock BART checkpoint starts it (`--restore-file bart.pt --reset-optimizer --reset-lr-scheduler
    --reset-dataloader --reset-meters`).
    """

    @classmethod
    def hub_models(cls):
        """No pretrained SRformer is published; `from_pretrained` takes a local folder."""
        return {}

    @staticmethod
    def add_args(parser):
        """Add BART's flags and those of `SegmentSettings`."""
        super(SRformerBARTModel, SRformerBARTModel).add_args(parser)
        gen_parser_from_dataclass(parser, SegmentSettings(), delete_default=True)

    @classmethod
    def build_model(cls, args, task):
        """Check the settings, find the schedule's length, build the model.

        Raises:
            ConfigurationError: a setting that cannot work.
        """
        settings = SegmentSettings.from_namespace(args).check()
        for side in ("encoder", "decoder"):
            width, heads = getattr(args, f"{side}_embed_dim"), getattr(args, f"{side}_attention_heads")
            if heads < 1 or width % heads != 0:
                raise ConfigurationError(
                    f"--{side}-attention-heads {heads} does not divide --{side}-embed-dim {width}"
                )
        if not settings.is_full and settings.expected_target_length is None:
            settings.expected_target_length = mean_target_length(args, task)
        # fairseq stores `args` in the checkpoint: decoding needs no flag, and a later default changes nothing
        for name, value in asdict(settings).items():
            setattr(args, name, value)
        return super().build_model(args, task)

    @classmethod
    def build_decoder(cls, args, tgt_dict, embed_tokens):
        cfg = TransformerConfig.from_namespace(args)
        return SegmentedDecoder(cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention)

    def upgrade_state_dict_named(self, state_dict, name):
        super().upgrade_state_dict_named(state_dict, name)
        prefix = f"{name}." if name else ""
        for side in ("encoder", "decoder"):
            _fit_positions(state_dict, f"{prefix}{side}.embed_positions.weight", getattr(self, side))


def mean_target_length(args, task) -> int:
    """Mean number of tokens (end of sentence included) of the training targets, at least 1.

    Targets count up to `--max-target-positions`, as in training.

    Raises:
        ConfigurationError: the task's training data has no target sizes.
    """
    subset = getattr(args, "train_subset", "train")
    sizes = None
    try:
        if subset not in task.datasets:
            task.load_dataset(subset, epoch=1)
        sizes = task.dataset(subset).tgt_sizes
    except (AttributeError, FileNotFoundError, KeyError, NotImplementedError) as error:
        logger.info(f"no target sizes in training data {subset!r}: {error}")
    if sizes is None or len(sizes) == 0:
        raise ConfigurationError(
            "--expected-target-length is not set and cannot be read off the training data; "
            "set it to about the mean target length in tokens"
        )
    mean = max(1, round(float(sizes.clip(max=args.max_target_positions).mean())))
    logger.info(f"--expected-target-length {mean}: the mean of {len(sizes):,} training targets")
    return mean


def _fit_positions(state_dict, key, module):
    """Extend a checkpoint's learned position embeddings to `--max-{source,target}-positions` of this model.

    The learned positions are repeated, as Longformer's authors do it: a copy keeps the local order of positions
    that attention heads have learned to use.
    """
    embedding = getattr(module, "embed_positions", None)
    if embedding is None or key not in state_dict:
        return
    learned, wanted = state_dict[key], embedding.weight
    if learned.size(0) == wanted.size(0):
        return
    offset = wanted.size(0) - embedding.max_positions  # rows before position 0
    have, want = learned.size(0) - offset, wanted.size(0) - offset
    side = "source" if "encoder" in key else "target"
    if have > want:
        raise ConfigurationError(
            f"the checkpoint has {have} positions, but this run has --max-{side}-positions {want}; "
            f"use --max-{side}-positions {have} or more"
        )
    repeated = learned[offset:].repeat(-(-want // have), 1)[:want]
    state_dict[key] = torch.cat((learned[:offset], repeated))
    logger.info(f"{key}: extended from {have} to {want} positions by repeating the learned ones")


@register_model_architecture("srformer_bart", "srformer_bart_large")
def srformer_bart_large(args):
    """bart_large's sizes: 12 + 12 layers of 1,024."""
    bart_large_architecture(args)


@register_model_architecture("srformer_bart", "srformer_bart_base")
def srformer_bart_base(args):
    """bart_base's sizes: 6 + 6 layers of 768."""
    bart_base_architecture(args)


@register_model_architecture("srformer_bart", "srformer_bart")
def srformer_bart(args):
    """The default: base sizes."""
    srformer_bart_base(args)


@register_model_architecture("srformer_bart", "srformer_bart_tiny")
def srformer_bart_tiny(args):
    """1 + 1 layers of 32 with segments of 4 tokens, for tests."""
    args.encoder_embed_dim = getattr(args, "encoder_embed_dim", 32)
    args.encoder_ffn_embed_dim = getattr(args, "encoder_ffn_embed_dim", 64)
    args.encoder_layers = getattr(args, "encoder_layers", 1)
    args.encoder_attention_heads = getattr(args, "encoder_attention_heads", 2)
    args.decoder_layers = getattr(args, "decoder_layers", 1)
    args.decoder_attention_heads = getattr(args, "decoder_attention_heads", 2)
    args.segment_size = getattr(args, "segment_size", 4)
    srformer_bart_base(args)
