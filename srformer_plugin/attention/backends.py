"""The one place that chooses how the attention is computed (`--attention-backend`).

Every backend has the signature and the results of `torch_ops.attend_source`: all positions of a training or scoring
batch at once. Decoding reads a source that was encoded before, by `torch_ops.attend` whatever the backend. To add a
backend: put it into `BACKENDS` and say in `resolve` where `auto` prefers it.
"""

from collections.abc import Callable

from ..errors import ConfigurationError
from . import torch_ops, triton_ops
from .registry import choose

BACKENDS: dict[str, Callable] = {
    "torch": torch_ops.attend_source,
    "triton": triton_ops.attend_source,
}


def resolve(name: str) -> Callable:
    """The implementation registered as `name`; `auto` is the one that is tested on every device."""
    if name == "auto":
        name = "torch"  # the kernels have not passed all their tests on a GPU, and full attention is faster yet
    if name == "triton" and triton_ops.triton is None:
        raise ConfigurationError(
            "--attention-backend triton needs Triton, which is not installed; pip install triton, or use auto or torch"
        )
    return choose(BACKENDS, name, "--attention-backend")
