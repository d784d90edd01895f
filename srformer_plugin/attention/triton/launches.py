"""Launching a Triton kernel again, for calls that look alike.

`kernel[grid](...)` looks at every argument to find the compiled kernel for it: 0.12 ms a launch of some fifty arguments
on an H100's host, where launching what is compiled takes 0.016 ms (docs/kernels.md). Calls of tensors of
the same dtypes, shapes, strides and alignment need the same compiled kernel with the same numbers, so both are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

ALIGNMENT = 16  # bytes; Triton compiles another kernel for a pointer that is not a multiple


@dataclass
class Launch:
    """How a kernel is launched."""

    warps: int
    stages: int

    def options(self) -> dict:
        return {"num_warps": self.warps, "num_stages": self.stages}


def look(tensor: Tensor | None) -> tuple | None:
    """What a compiled kernel depends on: tensors that look the same can take each other's place."""
    if tensor is None:
        return None
    aligned = tensor.data_ptr() % ALIGNMENT == 0
    return tensor.dtype, tensor.device, tensor.shape, tensor.stride(), aligned


class Launches:
    """The kernels of calls that look alike, each with its grid and with all arguments that are no tensors."""

    def __init__(self):
        self._known = {}

    def launch(self, kernel, grid: tuple, tensors: dict, numbers: Callable[[], dict]) -> None:
        """Launch `kernel` on the current device and stream.

        Args:
            grid: number of programs, of one to three dimensions.
            tensors: the tensor arguments by name, None for one that is not there; always in the same order.
            numbers: gives all other arguments by name, and Triton's options; called where they are not known yet.
        """
        known = self._known.get(kernel.__name__)
        if known is None:
            arguments = {**tensors, **numbers()}
            compiled = kernel[grid](**arguments)
            if compiled is not None:  # the interpreter compiles nothing
                values = [arguments[name] for name in kernel.arg_names]
                places = [kernel.arg_names.index(name) for name in tensors]
                for place in places:
                    values[place] = None  # a kept tensor would stay in memory
                self._known[kernel.__name__] = compiled[(*grid, 1, 1)[:3]], values, places
            return
        run, values, places = known
        values = values.copy()
        for place, tensor in zip(places, tensors.values()):
            values[place] = tensor
        run(*values)


@lru_cache(maxsize=1024)  # batches of an epoch differ in shape
def launches(key: tuple) -> Launches:
    """The `Launches` of all calls with this key: the `look` of their tensors, and their settings."""
    return Launches()
