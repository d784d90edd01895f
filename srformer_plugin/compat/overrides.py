"""Options that take the place of a checkpoint's (--model-overrides, `from_pretrained`): which there are, of what kind.

fairseq sets whatever it is given (``dataclass/utils.py:471``): a name that is misspelt does nothing, and a value of
another kind fails far from where it was written.
"""

import argparse
import math
import numbers
import os
from dataclasses import fields
from functools import partial

from fairseq import options
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import MODEL_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_REGISTRY

from ..errors import ConfigurationError
from ..registry import nearest
from .bounds import check_bound

SECTIONS = {field.name for field in fields(FairseqConfig)}
# those of a command, which reads its own and not a checkpoint's
OF_COMMANDS = ("common_eval", "generation", "interactive", "eval_lm", "dataset", "optimization", "checkpoint", "bmuf")
# type of an argument -> (test, in words)
KINDS = {
    int: (lambda x: isinstance(x, numbers.Integral) and not isinstance(x, bool), "a whole number"),
    float: (lambda x: isinstance(x, numbers.Real) and not isinstance(x, bool) and not math.isnan(x), "a number"),
    str: (lambda x: isinstance(x, (str, os.PathLike)), "a text"),
    bool: (lambda x: x in (True, False), "True or False"),
}


def check_overrides(overrides: dict, where: str, more=(), of_model: bool = False) -> None:
    """Raise a ConfigurationError for the first name that nothing knows, or value that cannot be.

    Args:
        overrides: name -> value, or the name of a section of fairseq's configuration -> such a dictionary. None is of
            every kind.
        where: how errors call them.
        more: other names that are known where they are used, of any kind.
        of_model: only a model and its task see them; what is for commands alone is refused.
    """
    known = {**known_options(), **dict.fromkeys(more, {None})}
    _check(overrides, where, known, _options_of_commands() if of_model else frozenset())


def _options_of_commands() -> frozenset:
    """Names that fairseq's commands know, and no model and no task as its own (one may keep a whole section)."""
    sections = (FairseqConfig.__dataclass_fields__[name].type for name in OF_COMMANDS)
    names = {field.name for section in sections for field in fields(section)}
    for part in (*MODEL_REGISTRY.values(), *TASK_REGISTRY.values()):
        settings = getattr(part, "__dataclass", None)
        if settings is not None:
            names -= {field.name for field in fields(settings)}
        elif hasattr(part, "add_args"):
            names -= {action.dest for action in _actions(part.add_args)}
    return frozenset(names)


def _actions(fill) -> list:
    """The arguments that `fill` adds to a parser."""
    parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    fill(parser)
    return parser._actions


def _check(overrides, where, known, useless):
    for name, value in overrides.items():
        if name in SECTIONS and isinstance(value, dict):
            _check(value, where, known, useless.union(value) if useless and name in OF_COMMANDS else useless)
            continue
        if name not in known:
            near = nearest(str(name), known)
            hint = f"did you mean {near}?" if near else "leave it out"
            raise ConfigurationError(f"{where}: there is no option {str(name)!r}; {hint}")
        if name in useless:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigurationError(
                f"{where}: {name} is no setting of a model or task, and does nothing there: give {flag} to the command"
            )
        kinds = known[name]
        if value is not None and None not in kinds and not any(KINDS[kind][0](value) for kind in kinds):
            wanted = " or ".join(sorted(KINDS[kind][1] for kind in kinds))
            raise ConfigurationError(f"{where}: {name} must be {wanted}, got {value!r}")
        check_bound(f"{where}: {name}", name, value)


def known_options() -> dict[str, set]:
    """name -> the kinds that models, tasks and other parts give it, None among them: any; 0.3 s."""
    known: dict[str, set] = {}

    def add(actions):
        for action in actions:
            plain = bool if action.nargs == 0 else action.type if action.nargs is None else None
            known.setdefault(action.dest, set()).add(plain if plain in KINDS else None)

    add(options.get_training_parser()._actions)
    add(options.get_generation_parser(interactive=True)._actions)
    parts = [*MODEL_REGISTRY.values(), *TASK_REGISTRY.values()]
    for registry in REGISTRIES.values():
        parts += registry["registry"].values()
        for settings in registry["dataclass_registry"].values():
            add(_actions(partial(gen_parser_from_dataclass, dataclass_instance=settings())))
    for part in parts:
        if hasattr(part, "add_args"):
            add(_actions(part.add_args))
    return known
