"""The one place that chooses how the attention is computed (`--attention-backend`).

Every backend has the signature and the results of `torch_ops.attend`. To add one: put it into `BACKENDS`
and say in `resolve` where `auto` prefers it.
"""

from collections.abc import Callable

from . import torch_ops
from .registry import choose

BACKENDS: dict[str, Callable] = {
    "torch": torch_ops.attend,
}


def resolve(name: str) -> Callable:
    """The implementation registered as `name`; `auto` takes the fastest that runs here."""
    if name == "auto":
        name = "torch"
    return choose(BACKENDS, name, "--attention-backend")
