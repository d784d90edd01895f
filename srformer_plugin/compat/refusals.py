"""Settings of fairseq's commands that cannot work, refused before any work.

Each would end in a traceback from inside fairseq, or be taken and do nothing. docs/platform.md has them in one table.
"""

import argparse
import ast
import math
from collections.abc import Mapping, Sequence

from fairseq.tasks import TASK_REGISTRY
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigurationError
from .bounds import check_bound
from .decoding_refusals import check_decoding
from .overrides import check_overrides
from .training_refusals import check_training


def check_command(cfg, command: str) -> None:
    """Check the finished configuration of a command of fairseq, such as "train".

    Raises:
        ConfigurationError: a setting that cannot work, by the name of its flag.
    """
    for name, value in all_settings(cfg):
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, float) and math.isnan(value):
            raise ConfigurationError(f"{flag} nan is no number: leave it out, or give one")
        check_bound(flag, name, value)
    if command == "train":
        check_training(cfg)
    elif command in ("generate", "interactive", "validate", "eval_lm"):
        if cfg.common_eval.path is None:
            raise ConfigurationError(f"fairseq-{command.replace('_', '-')} needs --path, the checkpoint")
        _check_overrides(cfg.common_eval.model_overrides)
        if command in ("generate", "interactive"):
            check_decoding(cfg, command)
        if command == "eval_lm":
            _check_task_of_language_models(cfg.task)


def _check_task_of_language_models(task) -> None:
    """fairseq-eval-lm asks for the method behind the model and the data."""
    name = getattr(task, "_name", None) or getattr(task, "task", None)
    if not hasattr(TASK_REGISTRY.get(name), "eval_lm_dataloader"):
        raise ConfigurationError(
            f"--task {name} has no language model for fairseq-eval-lm: leave it out, or use fairseq-validate for the "
            "loss on pairs"
        )


def all_settings(cfg, name="configuration"):
    """Pairs (name, value) of all plain values within a configuration of fairseq, those of lists one by one."""
    if isinstance(cfg, argparse.Namespace):
        cfg = vars(cfg)
    if isinstance(cfg, Mapping):
        for key in cfg:
            if not (isinstance(cfg, DictConfig) and OmegaConf.is_missing(cfg, key)):
                yield from all_settings(cfg[key], key)
    elif isinstance(cfg, Sequence) and not isinstance(cfg, str):
        for value in cfg:
            yield from all_settings(value, name)
    else:
        yield name, cfg


def _check_overrides(text) -> None:
    try:
        overrides = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise ConfigurationError(f"--model-overrides {text!r} is not a Python dictionary of literals") from error
    if not isinstance(overrides, dict):
        raise ConfigurationError(f"--model-overrides {text!r} is not a dictionary such as \"{{'data': 'folder'}}\"")
    check_overrides(overrides, "--model-overrides", of_model=True)
