"""Read and write fairseq's checkpoints."""

import argparse
import warnings
from pathlib import Path

import torch
from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY

import srformer_plugin  # noqa: F401 (registers the architectures; mends the reading of checkpoints)

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
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    iterator = {"version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of hydra, about fairseq's use of it
        cfg = convert_namespace_to_omegaconf(args)
    content = {
        "args": None,
        "cfg": cfg,
        "model": state,
        "optimizer_history": [history],
        "extra_state": {"train_iterator": iterator, "epoch": 1, "val_loss": None, "metrics": {}},
        "last_optimizer_state": None,
    }
    checkpoint_utils.torch_persistent_save(content, str(path))


def read_checkpoint(path: Path) -> tuple[str, dict, dict]:
    """(name of the fairseq model, its options, its state) of a checkpoint.

    Raises:
        ConfigurationError: no checkpoint, or of a model that is not registered.
        UnsafeCheckpointError: it asks for code.
    """
    try:
        content = checkpoint_utils.load_checkpoint_to_cpu(str(path))
    except ConfigurationError:
        raise
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        raise ConfigurationError(f"{path} is no fairseq checkpoint: {error or type(error).__name__}") from error
    stored = content["cfg"]["model"] if content.get("cfg") is not None else None
    if stored is None or "model" not in content:
        raise ConfigurationError(f"{path} is no fairseq checkpoint: it holds no model with its options")
    stored = dict(vars(stored) if isinstance(stored, argparse.Namespace) else stored)
    architecture = stored.get("arch") or stored.get("_name")
    if architecture not in ARCH_MODEL_NAME_REGISTRY:
        raise ConfigurationError(f"{path} holds a model of the architecture {architecture!r}, which is unknown here")
    # options that are younger than the checkpoint get their defaults
    args = argparse.Namespace(**stored)
    ARCH_CONFIG_REGISTRY[architecture](args)
    return ARCH_MODEL_NAME_REGISTRY[architecture], vars(args), content["model"]


def dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
