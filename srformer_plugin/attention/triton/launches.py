"""Launching a Triton kernel again, for calls that look alike.

`kernel[grid](...)` looks at every argument to find the compiled kernel for it: 0.12 ms a launch of some fifty arguments
on an H100's host, where launching what is compiled takes 0.016 ms (docs/kernels.md). Calls of tensors of
the same dtypes, shapes, strides and alignment need the same compiled kernel with the same numbers, so both are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ...triton_here import triton_series

ALIGNMENT = 16  # bytes; Triton compiles another kernel for a pointer that is not a multiple
MOST_LOOKS = 1024  # that are kept: batches of an epoch differ in shape
# Of these series `CompiledKernel.__getitem__` was read: it calls `run` with what `_relaunching` gives it.
KNOWN_TRITONS = ((3, 6), (3, 7), (3, 8), (3, 9))


@dataclass
class Launch:
    """How a kernel is launched."""

    warps: int
    stages: int

    def options(self) -> dict:
        return {"num_warps": self.warps, "num_stages": self.stages}


class Look(NamedTuple):
    """What a compiled kernel depends on: tensors that look the same can take each other's place."""

    dtype: torch.dtype
    device: torch.device
    shape: torch.Size
    strides: tuple[int, ...]
    aligned: bool


def look(tensor: Tensor | None) -> Look | None:
    """How a tensor looks; None: there is none."""
    if tensor is None:
        return None
    aligned = tensor.data_ptr() % ALIGNMENT == 0
    return Look(tensor.dtype, tensor.device, tensor.shape, tensor.stride(), aligned)


class Launches:
    """The kernels of calls that look alike, each with its grid and with all arguments that are no tensors."""

    def __init__(self):
        self._known = {}

    def launch(self, kernel, grid: tuple, tensors: dict, numbers: Callable[[], dict]) -> None:
        """Launch `kernel` on the current device and stream.

        Args:
            grid: number of programs, of one to three dimensions.
            tensors: the kernel's first arguments, by name and in its order; None for a tensor that is not there.
            numbers: gives all other arguments by name, and Triton's options; called where they are not known yet.
        """
        again = self._known.get(kernel.__name__)
        if again is not None:
            again(*tensors.values())
            return
        if list(tensors) != kernel.arg_names[: len(tensors)]:
            raise TypeError(f"{kernel.__name__} takes {kernel.arg_names[: len(tensors)]}, not {list(tensors)}")
        arguments = numbers()
        compiled = kernel[grid](**tensors, **arguments)
        if compiled is not None:  # the interpreter compiles nothing
            rest = [arguments[name] for name in kernel.arg_names[len(tensors) :]]
            self._known[kernel.__name__] = _relaunching(compiled, (*grid, 1, 1)[:3], rest)


def is_hooked(hook) -> bool:
    """Whether a profiler set one of Triton's launch hooks: a chain of them, or a function in its place."""
    return bool(getattr(hook, "calls", hook))


def _relaunching(compiled, grid: tuple[int, int, int], numbers: list) -> Callable[..., None]:
    """A function of a kernel's tensors that launches what was compiled, `numbers` being its other arguments.

    `compiled[grid]` gathers what hooks of profilers want to know, most of what Python does for a launch. Without hooks
    that is left out.
    """
    plainly = compiled[grid]
    if triton_series() not in KNOWN_TRITONS:
        return lambda *tensors: plainly(*tensors, *numbers)
    from triton import knobs
    from triton.runtime import driver

    run, hooks = compiled.run, knobs.runtime
    function, metadata = compiled.function, compiled.packed_metadata
    device, stream_of = driver.active.get_current_device(), driver.active.get_current_stream

    def launch(*tensors: Tensor | None) -> None:
        if is_hooked(hooks.launch_enter_hook) or is_hooked(hooks.launch_exit_hook):
            plainly(*tensors, *numbers)
        else:
            run(*grid, stream_of(device), function, metadata, None, None, None, *tensors, *numbers)

    return launch


@lru_cache(maxsize=MOST_LOOKS)
def launches(key: tuple) -> Launches:
    """The `Launches` of all calls with this key: the `look` of their tensors, and their settings."""
    return Launches()
