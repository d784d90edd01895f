"""The same weights with another cross-attention: a checkpoint that decodes, or goes on training, in another way."""

from dataclasses import asdict

from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY
from omegaconf import flag_override

from ..attention.settings import FULL, SegmentSettings
from ..errors import ConfigurationError
from .checkpoint_file import as_before_training, model_options
from .checkpoint_state import MEMORY
from .schedule_record import encode_schedule
from .segmented_model import choose_by_content

RECORD = "decoder.segment_schedule"
# fairseq's name of a model whose weights can be taken -> that of the SRformer that has the same
SRFORMERS = {"bart": "srformer_bart", "srformer_bart": "srformer_bart", "srformer_t5": "srformer_t5"}


def change_attention(content: dict, changes: dict, where: str = "the checkpoint") -> dict:
    """The content of a checkpoint file with other settings of the cross-attention.

    What is not named stays as it is, with two exceptions. Full attention becomes `segmented` where nothing else is
    named: a memory has to be trained. And where a model begins to choose segments by content, what is left open is that
    of the `_content` architectures.

    Args:
        content: of `checkpoint_file.load`; it is not changed, but shares the weights with the result.
        changes: fields of `SegmentSettings` and their values.
        where: how errors call the checkpoint.
    Returns:
        the content of a file that `fairseq-train --restore-file` starts from: without the optimizer's state. Memories
        that the checkpoint does not have start at their initial values.
    Raises:
        ConfigurationError: a model of another kind, or settings that cannot work.
    """
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
    if before == FULL and "cross_attention" not in changes:
        stored.cross_attention = "segmented"
    if getattr(stored, "segment_schedule", None) == "content" and not (by_content_before and before != FULL):
        for name in {"segment_size", "segments_per_query"} - set(changes):
            setattr(stored, name, None)
        choose_by_content(stored)
    ARCH_CONFIG_REGISTRY[architecture](stored)  # options that are younger than the checkpoint

    settings = SegmentSettings.from_namespace(stored).check()
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
    if not settings.is_full:
        state[RECORD] = encode_schedule(settings)
    changed = as_before_training(_with_model(content["cfg"], stored), state)
    if content.get("task_state"):
        changed["task_state"] = content["task_state"]
    return changed


def _with_model(cfg, model):
    cfg = cfg.copy()
    with flag_override(cfg, ["struct", "allow_objects"], [False, True]):
        cfg.model = model
    return cfg
