"""The one place that chooses how the attention is computed (`--attention-backend`).

Every backend has the signature and the results of `torch_ops.attend_source`: all positions of a training or scoring
batch at once. Decoding reads a source that was encoded before, by `torch_ops.attend` whatever the backend. To add a
backend: put it into `BACKENDS` and say in `resolve` where `auto` prefers it.
"""

from collections.abc import Callable

import torch

from ..errors import ConfigurationError
from . import torch_ops, triton_ops
from .registry import choose

BACKENDS: dict[str, Callable] = {
    "torch": torch_ops.attend_source,
    "triton": triton_ops.attend_source,
}


def resolve(name: str) -> Callable:
    """The implementation registered as `name`; `auto` takes the fastest that runs here."""
    if name == "auto":
        name = "triton" if triton_ops.triton is not None and torch.cuda.is_available() else "torch"
    if name == "triton" and triton_ops.triton is None:
        raise ConfigurationError(
            "--attention-backend triton needs Triton, which is not installed; pip install triton, or use auto or torch"
        )
    return choose(BACKENDS, name, "--attention-backend")
