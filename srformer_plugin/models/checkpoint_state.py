"""What is done to a checkpoint's state before an SRformer takes it: prune, check, fill up.

Every function works on a state dictionary (name -> tensor) in place, with the names of the model's own state.
"""

import logging
import re

import torch
from fairseq.checkpoint_utils import prune_state_dict
from omegaconf import DictConfig, open_dict
from torch import Tensor

from ..attention.settings import HEPOS
from ..errors import ConfigurationError
from .schedule_record import FLAGS, decode_schedule

logger = logging.getLogger(__name__)

MEMORY = ".encoder_attn.memory."
POSITIONS_BEFORE_THE_FIRST = 2  # rows of fairseq's learned positions: padding is number 1 in every dictionary


def prune_layers(state: dict[str, Tensor], cfg) -> dict[str, Tensor]:
    """The layers that `--encoder-layers-to-keep` and `--decoder-layers-to-keep` name, renumbered from 0.

    fairseq's own pruning loses every layer of a side for which nothing is named. As it does, this empties both
    options in `cfg`: what the model saves next is the pruned model.

    Args:
        state: of the whole model.
        cfg: the model's configuration, or None.
    Raises:
        ConfigurationError: layers that the checkpoint does not have.
    """
    options = {side: getattr(cfg, f"{side}_layers_to_keep", None) for side in ("encoder", "decoder")}
    if not any(options.values()):
        return state
    chosen = {}
    for side, text in options.items():
        present = {int(number) for number in re.findall(rf"^{side}\.layers\.(\d+)\.", "\n".join(state), flags=re.M)}
        chosen[side] = _layer_numbers(f"--{side}-layers-to-keep", text, present) if text else sorted(present)
    _set(cfg, {f"{side}_layers_to_keep": ",".join(map(str, numbers)) for side, numbers in chosen.items()})
    state = prune_state_dict(state, cfg)
    _set(cfg, {f"{side}_layers_to_keep": None for side in chosen})
    return state


def _layer_numbers(flag, text, present):
    try:
        numbers = sorted(int(number) for number in str(text).split(","))
    except ValueError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers) or not present.issuperset(numbers):
        raise ConfigurationError(
            f"{flag} {text!r} must be different numbers of the checkpoint's layers, 0 to {max(present, default=0)}, "
            "with commas between them"
        )
    return numbers


def _set(cfg, values):
    if isinstance(cfg, DictConfig):
        with open_dict(cfg):
            for name, value in values.items():
                cfg[name] = value
    else:
        for name, value in values.items():
            setattr(cfg, name, value)


def check_memory(state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Raise a ConfigurationError where `state` has memory parameters that the model, with the state `own`, lacks."""
    unknown = sorted(key for key in state if MEMORY in key and key not in own)
    if unknown:
        raise ConfigurationError(
            f"the checkpoint holds memory parameters that this model has no place for ({unknown[0]}"
            f"{' and more' if len(unknown) > 1 else ''}): use the --cross-attention (and --memory-gate) "
            "it was trained with"
        )


def fill_memory(state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Add the memory parameters that no layer of the checkpoint has (it has full cross-attention, or segmented).

    Where only some layers have one, the checkpoint is damaged: left to strict loading to report.
    """
    mine = [key for key in own if MEMORY in key]
    for parameter in sorted({key.split(MEMORY)[1] for key in mine}):
        keys = [key for key in mine if key.endswith(f"{MEMORY}{parameter}")]
        if not any(key in state for key in keys):
            for key in keys:
                state[key] = own[key].clone()
            logger.info(
                f"not in the checkpoint, keeps its initial value: encoder_attn.memory.{parameter} "
                f"in {len(keys)} decoder layers"
            )


def check_schedule(state: dict[str, Tensor], key: str, own: Tensor | None) -> None:
    """Put the model's own record of its schedule in the place of the checkpoint's, which must be of the same kind.

    Args:
        state: has the checkpoint's record under `key`, or none (it has full cross-attention).
        own: the model's record; None: it has full cross-attention.
    Raises:
        ConfigurationError: another segment size, way to choose segments or stride of the heads. Another expected length
            or memory is a warning.
    """
    trained = state.pop(key, None)
    if own is None:
        if trained is not None:
            raise ConfigurationError(
                f"the checkpoint was trained with {_kind(decode_schedule(trained))}, not with --cross-attention full; "
                "start from a checkpoint with full cross-attention"
            )
        return
    state[key] = own.clone()
    ours = decode_schedule(own)
    if trained is None:
        logger.info(f"not in the checkpoint, taken from the flags: schedule {ours}")
        return
    theirs = decode_schedule(trained)
    if _kind(theirs) != _kind(ours):
        raise ConfigurationError(
            f"the checkpoint was trained with {_kind(theirs)}, but this run has {_kind(ours)}; use what it was trained "
            "with, or make one that goes on in the other way by `srformer-convert change-attention`"
        )
    for field in ("segment_size", "segment_schedule", "segments_per_query", "segment_score", "head_stride"):
        if theirs.get(field, ours.get(field)) != ours.get(field, theirs.get(field)):
            raise ConfigurationError(
                f"the checkpoint was trained with {FLAGS[field]} {theirs[field]}, but this run has {ours[field]}; "
                f"use {FLAGS[field]} {theirs[field]}, start from a checkpoint with full cross-attention, or make one "
                "that goes on in the other way by `srformer-convert change-attention`"
            )
    for field in ("expected_target_length", "cross_attention"):
        if theirs.get(field) != ours.get(field):
            logger.warning(
                f"the checkpoint was trained with {FLAGS[field]} {theirs.get(field)}; "
                f"this run goes on with {ours.get(field)}"
            )


def _kind(schedule):
    return f"--cross-attention {HEPOS}" if "head_stride" in schedule else "segmented cross-attention"


def fit_positions(state: dict[str, Tensor], key: str, embedding, flag: str) -> None:
    """Extend a checkpoint's learned position embeddings to those that `flag` gives this model.

    The learned positions are repeated, as Longformer's authors do it: a copy keeps the local order of positions
    that attention heads have learned to use.

    Args:
        key: of the checkpoint's embeddings; they may be missing.
        embedding: the model's, a `LearnedPositionalEmbedding`, or None.
        flag: how errors call the option that says how many there are.
    Raises:
        ConfigurationError: the checkpoint has more positions than the model.
    """
    if embedding is None or key not in state:
        return
    learned, wanted = state[key], embedding.weight
    if learned.size(0) == wanted.size(0):
        return
    offset = wanted.size(0) - embedding.max_positions  # rows before position 0
    have, want = learned.size(0) - offset, wanted.size(0) - offset
    if have > want:
        raise ConfigurationError(
            f"the checkpoint has {have} positions, but this run has {flag} {want}; use {flag} {have} or more"
        )
    repeated = learned[offset:].repeat(-(-want // have), 1)[:want]
    state[key] = torch.cat((learned[:offset], repeated))
    logger.info(f"{key}: extended from {have} to {want} positions by repeating the learned ones")
