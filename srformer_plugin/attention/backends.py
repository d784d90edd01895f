"""The one place that chooses how the attention is computed (`--attention-backend`).

To add a backend: put it into `BACKENDS` and say in `resolve` where `auto` prefers it. fairseq's own step-by-step
decoding (its incremental state) uses `torch_ops.attend` whatever the backend.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import ConfigurationError
from ..registry import choose
from .cpu import attend as cpu_ops
from .torch import attend as torch_ops
from .triton import attend as triton_ops
from .triton import decode as triton_step
from .triton.support import OLDEST_TRITON, unusable


@dataclass(frozen=True)
class Backend:
    """Functions with the signatures and results of those of `torch_ops`.

    Attributes:
        attend_source: all positions of a training or scoring batch at once.
        open_source: what steps read of a source.
        attend_step: one step of `--fast-generate`.
    """

    attend_source: Callable
    open_source: Callable
    attend_step: Callable


# `torch` itself takes the loops of cpu_loop.py for what they cover, and torch_ops.py for all else.
BACKENDS = {
    "torch": Backend(cpu_ops.attend_source, torch_ops.open_source, torch_ops.attend_step),
    "triton": Backend(triton_ops.attend_source, triton_step.open_source, triton_step.attend_step),
}


def resolve(name: str) -> Backend:
    """The backend registered as `name`; `auto` takes the kernels where there is a GPU to run them."""
    if name == "auto":
        name = "triton" if unusable() is None and torch.cuda.is_available() else "torch"
    if name == "triton" and unusable() is not None:
        raise ConfigurationError(
            f"--attention-backend triton needs Triton {'.'.join(map(str, OLDEST_TRITON))} or later, and {unusable()}; "
            "pip install -U triton, or use auto or torch"
        )
    return choose(BACKENDS, name, "--attention-backend")
