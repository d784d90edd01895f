"""Read and write fairseq's checkpoints."""

import argparse
import warnings
from pathlib import Path

import torch
from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY

from ..errors import ConfigurationError

CHECKPOINT = "model.pt"


def write_checkpoint(path: Path, architecture: str, model_options: dict, state: dict):
    """Write a checkpoint as fairseq's trainer does, before the first update.

    Args:
        architecture: name of a registered architecture.
        model_options: fairseq's options, those of the model's size among them.
        state: name -> tensor.
    """
    parser = options.get_training_parser()
    # the data folder is given again wherever a checkpoint is used
    arguments = [".", "--task", "translation", "--source-lang", "source", "--target-lang", "target"]
    args = options.parse_args_and_arch(parser, [*arguments, "--arch", architecture])
    vars(args).update(model_options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of hydra, about fairseq's use of it
        cfg = convert_namespace_to_omegaconf(args)
    checkpoint_utils.torch_persistent_save(as_before_training(cfg, state), str(path))


def as_before_training(cfg, state: dict) -> dict:
    """The content of a checkpoint as fairseq's trainer writes it before the first update.

    Args:
        cfg: fairseq's whole configuration.
        state: name -> tensor.
    """
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    iterator = {"version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": True}
    return {
        "args": None,
        "cfg": cfg,
        "model": state,
        "optimizer_history": [history],
        "extra_state": {"train_iterator": iterator, "epoch": 1, "val_loss": None, "metrics": {}},
        "last_optimizer_state": None,
    }


def load(path: Path, overrides: dict | None = None) -> dict:
    """The content of a checkpoint file, as fairseq's `load_checkpoint_to_cpu` returns it.

    Args:
        overrides: options that take the place of stored ones.
    Raises:
        ConfigurationError: no checkpoint.
        UnsafeCheckpointError: it asks for code.
    """
    try:
        content = checkpoint_utils.load_checkpoint_to_cpu(str(path), overrides)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error
    if content.get("cfg") is None or content["cfg"].get("model") is None:
        raise ConfigurationError(f"{path} is no fairseq checkpoint: it holds no model with its options")
    return content


def model_options(content: dict) -> argparse.Namespace:
    """The stored options of the model in a checkpoint's content."""
    stored = content["cfg"]["model"]
    return argparse.Namespace(**(vars(stored) if isinstance(stored, argparse.Namespace) else dict(stored)))


def read_checkpoint(path: Path) -> tuple[str, dict, dict]:
    """(name of the fairseq model, its options, its state) of a checkpoint.

    Raises:
        ConfigurationError: no checkpoint, or of a model that is not registered.
        UnsafeCheckpointError: it asks for code.
    """
    content = load(path)
    args = model_options(content)
    architecture = getattr(args, "arch", None) or getattr(args, "_name", None)
    if architecture not in ARCH_MODEL_NAME_REGISTRY:
        raise ConfigurationError(f"{path} holds a model of the architecture {architecture!r}, which is unknown here")
    # options that are younger than the checkpoint get their defaults
    ARCH_CONFIG_REGISTRY[architecture](args)
    return ARCH_MODEL_NAME_REGISTRY[architecture], vars(args), content["model"]


def dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
