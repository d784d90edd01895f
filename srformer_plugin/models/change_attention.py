"""The same weights with another attention: a checkpoint that decodes, or goes on training, in another way."""

import copy
from dataclasses import asdict

from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY
from omegaconf import flag_override

from ..attention.hepos import check_head_stride
from ..attention.method.memory import MEMORIES
from ..attention.settings import FULL, HEPOS, SegmentSettings
from ..errors import ConfigurationError
from .checkpoint_file import as_before_training, model_options
from .checkpoint_state import MEMORY, POSITIONS_BEFORE_THE_FIRST
from .encoders.chunked import ANY_LENGTH
from .encoders.settings import CHANGEABLE as ENCODER
from .encoders.settings import EncoderSettings
from .encoders.window import is_global_projection
from .schedule_record import encode_schedule
from .segmented_model import choose_by_content

RECORD = "decoder.segment_schedule"
# fairseq's name of a model whose weights can be taken -> that of the SRformer that has the same
SRFORMERS = {"bart": "srformer_bart", **{name: name for name in ("srformer_bart", "srformer_led", "srformer_t5")}}


def change_attention(
    content: dict, changes: dict, where: str = "the checkpoint", source_limit: int | None = None
) -> dict:
    """The content of a checkpoint file with other settings of the cross-attention or of the encoder.

    What is not named stays as it is, with these exceptions. Cross-attention without segments becomes `hepos` with a
    `head_stride`, else `segmented`, where settings of the cross-attention, and not which, are named: a memory has to be
    trained. Where a model begins to choose segments
    by content, what is left open is that of the `_content` architectures. And an encoder that reads any length is not
    limited to the positions that the checkpoint has.

    Args:
        content: of `checkpoint_file.load`; it is not changed, but shares the weights with the result.
        changes: fields of `SegmentSettings` and `EncoderSettings`, and their values.
        where: how errors call the checkpoint.
        source_limit: tokens of a source that are read; None: all that the encoder can. Learned positions of an encoder
            that is not for any length are repeated up to that when the checkpoint is loaded.
    Returns:
        the content of a file that `fairseq-train --finetune-from-model` starts from: without the optimizer's state.
        Memories that the checkpoint does not have start at their initial values.
    Raises:
        ConfigurationError: a model of another kind, or settings that cannot work.
    """
    if source_limit is not None and source_limit < 1:
        raise ConfigurationError(f"--max-source-positions must be at least 1, got {source_limit}")
    stored = model_options(content)
    architecture = getattr(stored, "arch", None) or getattr(stored, "_name", None)
    model = ARCH_MODEL_NAME_REGISTRY.get(architecture)
    if model not in SRFORMERS:
        raise ConfigurationError(
            f"{where} holds a model of the architecture {architecture!r}: attention can be changed in "
            f"{', '.join(SRFORMERS)}"
        )
    if model != SRFORMERS[model]:
        # what fairseq's own interface does with a stock BART
        stored.prepend_bos = getattr(stored, "prepend_bos", True)
        stored.cross_attention, architecture = FULL, f"srformer_{architecture}"
        if architecture not in ARCH_MODEL_NAME_REGISTRY:
            architecture = SRFORMERS[model]
    before = getattr(stored, "cross_attention", None) or SegmentSettings.cross_attention
    by_content_before = getattr(stored, "segment_schedule", None) == "content"
    for name, value in changes.items():
        setattr(stored, name, value)
    _change_encoder(stored, changes, content, source_limit)
    if before not in MEMORIES and "cross_attention" not in changes and set(changes) - set(ENCODER):
        stored.cross_attention = HEPOS if "head_stride" in changes else "segmented"
    if getattr(stored, "segment_schedule", None) == "content" and not (by_content_before and before in MEMORIES):
        for name in {"segment_size", "segments_per_query"} - set(changes):
            setattr(stored, name, None)
        choose_by_content(stored)
    ARCH_CONFIG_REGISTRY[architecture](stored)  # options that are younger than the checkpoint

    settings = SegmentSettings.from_namespace(stored).check()
    check_head_stride(settings, stored.decoder_attention_heads)
    if not settings.needs_target_length:
        settings.expected_target_length = None
    elif settings.expected_target_length is None:
        raise ConfigurationError(
            f"--expected-target-length is needed: {where} does not say how long targets are, and "
            f"--segment-schedule {settings.segment_schedule} with --cross-attention {settings.cross_attention} goes by "
            "it"
        )
    vars(stored).update(asdict(settings))
    stored.arch = stored._name = architecture
    state = {name: tensor for name, tensor in content["model"].items() if name != RECORD}
    if settings.cross_attention != before:
        state = {name: tensor for name, tensor in state.items() if MEMORY not in name}
    if changes.get("encoder_attention", "window") != "window" and model != "srformer_led":
        state = {name: tensor for name, tensor in state.items() if not is_global_projection(name)}
    if not settings.is_full:
        state[RECORD] = encode_schedule(settings)
    changed = as_before_training(_with_model(content["cfg"], stored), state)
    if content.get("task_state"):
        changed["task_state"] = content["task_state"]
    return changed


def _change_encoder(stored, changes, content, source_limit):
    """Put the checked settings of the encoder, and its limit of positions, into a model's options.

    A full encoder has as many positions as it reads tokens; with one that reads any length, those of the checkpoint are
    the positions of a chunk.
    """
    if not set(changes) & set(ENCODER) and source_limit is None:
        return
    table = content["model"].get("encoder.embed_positions.weight")
    limit, had = stored.max_source_positions, getattr(stored, "encoder_positions", None)
    positions = had or limit if table is None else len(table) - POSITIONS_BEFORE_THE_FIRST
    if {"encoder_attention", "encoder_context", "encoder_positions"} & set(changes) and "encoder_chunk" not in changes:
        stored.encoder_chunk = None
    if table is not None and "encoder_positions" not in changes:
        stored.encoder_positions = positions
    settings = EncoderSettings.from_namespace(stored).check()
    if not settings.reads_any_length:
        settings.encoder_positions = settings.encoder_chunk = None
        limit = positions if limit == ANY_LENGTH else limit
    elif limit == positions:
        limit = ANY_LENGTH
    limit = limit if source_limit is None else source_limit
    vars(stored).update(asdict(settings), max_source_positions=limit)


def _with_model(cfg, model):
    """A whole configuration with other options of the model, whose task reads as much of a source as the model does."""
    cfg = cfg.copy()
    with flag_override(cfg, ["struct", "allow_objects"], [False, True]):
        cfg.model = model
        if getattr(cfg.get("task"), "max_source_positions", None) is not None:
            cfg.task = copy.copy(cfg.task)
            cfg.task.max_source_positions = model.max_source_positions
    return cfg
