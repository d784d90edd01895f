"""What the SRformer models share, whatever fairseq model they extend."""

import logging
from dataclasses import asdict

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf, gen_parser_from_dataclass
from fairseq.models.transformer import TransformerDecoderBase, TransformerEncoderBase
from fairseq.modules import MultiheadAttention
from fairseq.modules.fairseq_dropout import FairseqDropout
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase, TransformerEncoderLayerBase
from torch import Tensor, nn

from ..attention.dropout import ATTENTION
from ..attention.hepos import check_head_stride
from ..attention.method.content import SEGMENTS_PER_QUERY
from ..attention.method.memory import MEMORIES, RAFMemory
from ..attention.settings import SegmentSettings
from ..compat.positions import is_left_open, is_of_checkpoint
from ..errors import ConfigurationError
from .checkpoint_state import prune_layers
from .compiled import CompileSettings, compile_layers
from .encoders.chunked import ANY_LENGTH
from .encoders.settings import EncoderSettings
from .refused_flags import refuse_flags

logger = logging.getLogger(__name__)


class SegmentedModel:
    """To be named before a fairseq model among the bases: adds the flags and settings of segmented attention."""

    @classmethod
    def hub_models(cls):
        """No pretrained SRformer is published; `from_pretrained` takes a local folder."""
        return {}

    @classmethod
    def add_args(cls, parser):
        """Add the fairseq model's flags and those of `SegmentSettings`, `EncoderSettings` and `CompileSettings`."""
        super().add_args(parser)
        for settings in (SegmentSettings(), EncoderSettings(), CompileSettings()):
            gen_parser_from_dataclass(parser, settings, delete_default=True)

    @classmethod
    def check_arguments(cls, args) -> tuple[EncoderSettings, SegmentSettings]:
        """The checked settings among a model's arguments, which the architecture has filled in; no data are needed.

        Raises:
            ConfigurationError: a setting that cannot work.
        """
        refuse_flags(args)
        encoder, settings = EncoderSettings.from_namespace(args).check(), SegmentSettings.from_namespace(args).check()
        check_head_stride(settings, args.decoder_attention_heads)
        return encoder, settings

    @classmethod
    def build_model(cls, args, task):
        """Check the settings, find the schedule's length, build the model.

        Raises:
            ConfigurationError: a setting that cannot work.
        """
        encoder, settings = cls.check_arguments(args)
        compiled = CompileSettings.from_namespace(args).check(getattr(args, "cpu", False)).compile
        args.compile = False  # how this run computes, no property of the model: its checkpoint loads anywhere
        if encoder.reads_any_length and not is_of_checkpoint(task):
            open_source_limit(args, task)
        if settings.needs_target_length and settings.expected_target_length is None:
            settings.expected_target_length = mean_target_length(args, task)
        elif not settings.needs_target_length and not settings.is_full:
            settings.expected_target_length = None  # without effect: the checkpoint should not speak of it
        # fairseq stores `args` in the checkpoint: decoding needs no flag, and a later default changes nothing
        for name, value in {**asdict(encoder), **asdict(settings)}.items():
            setattr(args, name, value)
        say_if_all_is_chosen(settings, getattr(args, "max_source_positions", None))
        model = super().build_model(args, task)
        keep_gelu_in_the_inputs_dtype(model)
        name_dropouts(model)
        if compiled:
            compile_layers(model)
        return model

    def forward(self, src_tokens, src_lengths, prev_output_tokens, *args, **kwargs):
        """As the fairseq model's; what the decoder has to know of the targets is read before the encoder runs."""
        with self.decoder.padding_known(prev_output_tokens):
            return super().forward(src_tokens, src_lengths, prev_output_tokens, *args, **kwargs)

    @classmethod
    def has_memory_parameters(cls, args) -> bool:
        """Whether the memory that a model's arguments ask for has parameters of its own."""
        _, settings = cls.check_arguments(args)
        if not settings.has_segments:
            return False
        with torch.device("meta"):  # draws no random numbers
            return any(True for _ in MEMORIES[settings.cross_attention](1, 1, settings).parameters())

    @classmethod
    def settings_of_weights(cls, args) -> dict:
        """flag -> value, of what changes what the same weights compute and is in no record of theirs.

        What has no effect with the other settings is left out, and so is what an older checkpoint does not say.
        """
        encoder = EncoderSettings.from_namespace(args)
        names = [*encoder.with_an_effect]
        if MEMORIES.get(getattr(args, "cross_attention", None)) is RAFMemory:
            names.append("kv_clamp")
        found = {"encoder_attention": encoder.encoder_attention}
        found |= {name: getattr(args, name) for name in names if hasattr(args, name)}
        return {f"--{name.replace('_', '-')}": value for name, value in found.items()}

    def check_resumed(self, stored) -> None:
        """Raise a ConfigurationError where a training is resumed that had other settings than this one.

        Args:
            stored: the model's options in the checkpoint.
        """
        trained, own = self.settings_of_weights(stored), self.settings_of_weights(self.args)
        for flag in trained:
            if flag in own and trained[flag] != own[flag]:
                theirs, ours = (f"no {flag}" if v is None else f"{flag} {v}" for v in (trained[flag], own[flag]))
                raise ConfigurationError(
                    f"the checkpoint was trained with {theirs}, but this run has {ours}: resume it as it was trained, "
                    "or begin a training from its weights with --finetune-from-model and another --save-dir"
                )

    def load_state_dict(self, state_dict, strict=True, model_cfg=None, args=None):
        """As in `BaseFairseqModel`; layers are pruned first, since what follows compares them with the model's.

        Raises:
            ConfigurationError: a checkpoint that does not fit the settings.
        """
        if model_cfg is None and args is not None:
            model_cfg = convert_namespace_to_omegaconf(args).model
        return super().load_state_dict(prune_layers(state_dict, model_cfg), strict, model_cfg)


def choose_by_content(args) -> None:
    """The preset of the `_content` architectures, for what the command line leaves open.

    With the default of 8 segments per query and head, those of 16 tokens came closest to full attention with 128 keys
    (docs/attention.md, section 9).
    """
    preset = {"cross_attention": "segmented", "segment_schedule": "content", "segment_size": 16}
    for name, value in {**preset, "segments_per_query": SEGMENTS_PER_QUERY}.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)


def keep_gelu_in_the_inputs_dtype(model: nn.Module) -> None:
    """Replace fairseq's GELU, which copies its input to float32 and back, by PyTorch's.

    PyTorch's computes in float32 too, inside its kernel: the same numbers, without float32 activations in memory.
    """
    stock = utils.get_activation_fn("gelu")
    for module in model.modules():
        if getattr(module, "activation_fn", None) is stock:
            module.activation_fn = gelu


# --retain-dropout-modules' documented names
DROPOUT_NAMES = {
    TransformerEncoderBase: "TransformerEncoder",
    TransformerDecoderBase: "TransformerDecoder",
    TransformerEncoderLayerBase: "TransformerEncoderLayer",
    TransformerDecoderLayerBase: "TransformerDecoderLayer",
    MultiheadAttention: ATTENTION,
}


def name_dropouts(model: nn.Module) -> None:
    """Give every dropout the name by which fairseq's documentation selects it (`--retain-dropout-modules`).

    fairseq names a dropout after the class of the module that has it: ours have other names, and its own classes got
    others when they were split into TransformerEncoderLayerBase and TransformerEncoderLayer.
    """
    for module in model.modules():
        for kind, name in DROPOUT_NAMES.items():
            if isinstance(module, kind):
                for child in module.children():
                    if isinstance(child, FairseqDropout):
                        child.module_name = name


def gelu(x: Tensor) -> Tensor:
    """GELU of what a layer made for it alone: in place where no gradients go through, since it is the widest tensor.

    Without gradients a hook that keeps the output of `fc1` finds the GELU's in it.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return F.gelu(x)
    return torch.ops.aten.gelu_(x)


def say_if_all_is_chosen(settings: SegmentSettings, limit: int | None) -> None:
    """Log it where sources of at most `limit` tokens have no more segments than every query chooses."""
    chosen = settings.segments_per_query * settings.segment_size
    if limit and settings.by_content and chosen >= limit:
        logger.warning(
            f"--segments-per-query {settings.segments_per_query} of --segment-size {settings.segment_size} are all of "
            f"a source, which has at most {limit:,} tokens: every query attends to all of it, as with full attention"
        )


def open_source_limit(args, task) -> None:
    """Let sources of any length into a training, where no `--max-source-positions` says how much of them is read."""
    for holder in (args, getattr(task, "cfg", None)):
        if not is_left_open("max_source_positions", getattr(holder, "max_source_positions", None)):
            break
        holder.max_source_positions = ANY_LENGTH


def mean_target_length(args, task) -> int:
    """Mean number of tokens (end of sentence included) of the training targets, at least 1.

    Targets count up to `--max-target-positions`, as in training.

    Raises:
        ConfigurationError: the task's training data has no target sizes.
    """
    subset = getattr(args, "train_subset", "train")
    sizes, reason = None, ""
    try:
        if subset not in task.datasets:
            task.load_dataset(subset, epoch=1)
        sizes = task.dataset(subset).tgt_sizes
    except (AttributeError, FileNotFoundError, KeyError, NotImplementedError) as error:
        reason = f" ({error})"
    if sizes is None or len(sizes) == 0:
        raise ConfigurationError(
            f"--expected-target-length is not set and cannot be read off the training data {subset!r}{reason}; "
            "set it to about the mean target length in tokens"
        )
    mean = max(1, round(float(sizes.clip(max=args.max_target_positions).mean())))
    logger.info(f"--expected-target-length {mean}: the mean of {len(sizes):,} training targets")
    return mean
