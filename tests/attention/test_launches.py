"""Kernels that are launched again without Triton looking at their arguments."""

import gc
import weakref

import pytest
import torch

from srformer_plugin.attention.triton.launches import Launches, launches, look


class Kernel:
    """Stands in for a `triton.jit` function: notes what it and what it compiles are launched with."""

    __name__ = "kernel"
    arg_names = ["x", "H", "y", "SIZE"]

    def __init__(self):
        self.bound, self.launched = [], []

    def __getitem__(self, grid):
        def bind(**arguments):
            self.bound.append((grid, arguments))
            return Compiled(self)

        return bind


class Compiled:
    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *arguments: self.kernel.launched.append((grid, arguments))


def test_the_second_launch_gives_the_compiled_kernel_its_own_tensors_and_the_first_ones_numbers():
    kernel, kept, asked = Kernel(), Launches(), []

    def numbers():
        asked.append(True)
        return {"H": 3, "SIZE": 16, "num_warps": 4}

    tensors = [{"y": torch.tensor(i), "x": None if i == 0 else torch.tensor(-i)} for i in range(3)]
    for each in tensors:
        kept.launch(kernel, (5, 2), each, numbers)
    assert kernel.bound == [((5, 2), {**tensors[0], "H": 3, "SIZE": 16, "num_warps": 4})]
    assert asked == [True]
    assert [grid for grid, _ in kernel.launched] == [(5, 2, 1)] * 2
    for (_, (x, heads, y, size)), each in zip(kernel.launched, tensors[1:], strict=True):
        assert x is each["x"] and y is each["y"] and (heads, size) == (3, 16)


def test_no_tensor_is_kept_in_memory():
    kernel, kept, seen = Kernel(), Launches(), []
    for _ in range(2):
        x = torch.zeros(4)
        seen.append(weakref.ref(x))
        kept.launch(kernel, (1,), {"x": x, "y": None}, lambda: {"H": 1, "SIZE": 1})
    del x
    kernel.bound.clear()
    kernel.launched.clear()
    gc.collect()
    assert [ref() for ref in seen] == [None, None]


def test_what_the_interpreter_runs_is_bound_every_time():
    class Interpreted(Kernel):
        def __getitem__(self, grid):
            bind = super().__getitem__(grid)
            return lambda **arguments: bind(**arguments) and None

    kernel, kept = Interpreted(), Launches()
    for _ in range(2):
        kept.launch(kernel, (1,), {"x": None, "y": None}, lambda: {"H": 1, "SIZE": 1})
    assert len(kernel.bound) == 2 and not kernel.launched


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(4, 8, dtype=torch.bfloat16),
        torch.zeros(8, 8),
        torch.zeros(8, 4).T,
        torch.zeros(33)[1:].view(4, 8),
        torch.zeros(4, 8, device="meta"),
        None,
    ],
    ids=["dtype", "shape", "strides", "alignment", "device", "absence"],
)
def test_what_a_compiled_kernel_depends_on_makes_another_key(other):
    assert look(torch.zeros(4, 8)) == look(torch.ones(4, 8))
    assert look(torch.zeros(4, 8)) != look(other)
    assert launches((look(torch.zeros(4, 8)), 1)) is launches((look(torch.ones(4, 8)), 1))
    assert launches((look(torch.zeros(4, 8)), 1)) is not launches((look(other), 1))
