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

SECTIONS = {field.name for field in fields(FairseqConfig)}
# type of an argument -> (test, in words)
KINDS = {
    int: (lambda x: isinstance(x, numbers.Integral) and not isinstance(x, bool), "a whole number"),
    float: (lambda x: isinstance(x, numbers.Real) and not isinstance(x, bool) and not math.isnan(x), "a number"),
    str: (lambda x: isinstance(x, (str, os.PathLike)), "a text"),
    bool: (lambda x: x in (True, False), "True or False"),
}


def check_overrides(overrides: dict, where: str, more=()) -> None:
    """Raise a ConfigurationError for the first name that nothing knows, or value of another kind.

    Args:
        overrides: name -> value, or the name of a section of fairseq's configuration -> such a dictionary. None is of
            every kind.
        where: how errors call them.
        more: other names that are known where they are used, of any kind.
    """
    _check(overrides, where, {**known_options(), **dict.fromkeys(more, {None})})


def _check(overrides, where, known):
    for name, value in overrides.items():
        if name in SECTIONS and isinstance(value, dict):
            _check(value, where, known)
            continue
        if name not in known:
            near = nearest(str(name), known)
            hint = f"did you mean {near}?" if near else "leave it out"
            raise ConfigurationError(f"{where}: there is no option {str(name)!r}; {hint}")
        kinds = known[name]
        if value is not None and None not in kinds and not any(KINDS[kind][0](value) for kind in kinds):
            wanted = " or ".join(sorted(KINDS[kind][1] for kind in kinds))
            raise ConfigurationError(f"{where}: {name} must be {wanted}, got {value!r}")


def known_options() -> dict[str, set]:
    """name -> the kinds that models, tasks and other parts give it, None among them: any; 0.3 s."""
    known: dict[str, set] = {}

    def gather(fill):
        parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
        fill(parser)
        add(parser)

    def add(parser):
        for action in parser._actions:
            plain = bool if action.nargs == 0 else action.type if action.nargs is None else None
            known.setdefault(action.dest, set()).add(plain if plain in KINDS else None)

    add(options.get_training_parser())
    add(options.get_generation_parser(interactive=True))
    parts = [*MODEL_REGISTRY.values(), *TASK_REGISTRY.values()]
    for registry in REGISTRIES.values():
        parts += registry["registry"].values()
        for settings in registry["dataclass_registry"].values():
            gather(partial(gen_parser_from_dataclass, dataclass_instance=settings()))
    for part in parts:
        if hasattr(part, "add_args"):
            gather(part.add_args)
    return known
