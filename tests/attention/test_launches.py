"""Kernels that are launched again without Triton looking at their arguments."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from srformer_plugin.attention.triton import launches as launching
from srformer_plugin.attention.triton.launches import Launches, launches, look

pytest.importorskip("triton", minversion="3.6")
from triton import compiler, knobs, runtime


class Kernel:
    """Stands in for a `triton.jit` function: notes what it and what it compiles are launched with."""

    __name__ = "kernel"
    arg_names = ["x", "y", "H", "SIZE"]

    def __init__(self, compiled=None):
        self.bound, self.launched = [], []
        self.compiled = compiled or compiled_kernel(lambda *arguments: self.launched.append(arguments))

    def __getitem__(self, grid):
        def bind(**arguments):
            self.bound.append((grid, arguments))
            return self.compiled

        return bind


def compiled_kernel(run):
    """Triton's own class for what is compiled, with `run` in the place of its launcher."""
    compiled = object.__new__(compiler.CompiledKernel)
    compiled._run, compiled.module, compiled.function, compiled.packed_metadata = run, "module", 12345, (4, 1, 0)
    compiled.name, compiled.src = "kernel", None
    return compiled


@pytest.fixture(autouse=True)
def streams(monkeypatch):
    """The current stream of every device, which Triton asks a GPU's driver for."""
    streams = [70, 71]
    driver = SimpleNamespace(get_current_device=lambda: 1, get_current_stream=lambda device: streams[device])
    monkeypatch.setattr(runtime.driver, "_active", driver)
    return streams


def numbers():
    return {"H": 3, "SIZE": 16, "num_warps": 4}


def test_the_second_launch_gives_the_compiled_kernel_its_own_tensors_and_the_first_ones_numbers():
    kernel, kept, asked = Kernel(), Launches(), []
    tensors = [{"x": None if i == 0 else torch.tensor(-i), "y": torch.tensor(i)} for i in range(3)]
    for each in tensors:
        kept.launch(kernel, (5, 2), each, lambda: asked.append(True) or numbers())
    assert kernel.bound == [((5, 2), {**tensors[0], **numbers()})]
    assert asked == [True]
    assert [arguments[:3] for arguments in kernel.launched] == [(5, 2, 1)] * 2
    for (*_, x, y, heads, size), each in zip(kernel.launched, tensors[1:], strict=True):
        assert x is each["x"] and y is each["y"] and (heads, size) == (3, 16)


def test_a_launch_is_what_triton_makes_of_the_compiled_kernel(streams):
    """But for what only the hooks of a profiler want to know."""
    kernel, kept = Kernel(), Launches()
    tensors = {"x": torch.zeros(1), "y": None}
    kept.launch(kernel, (5,), tensors, numbers)  # compiles
    streams[1] = 7
    kernel.compiled[(5, 1, 1)](*tensors.values(), 3, 16)
    kept.launch(kernel, (5,), tensors, numbers)
    theirs, ours = kernel.launched
    assert ours == (5, 1, 1, 7, 12345, (4, 1, 0), None, None, None, *tensors.values(), 3, 16)
    assert ours[:6] == theirs[:6] and ours[9:] == theirs[9:]


def test_a_profilers_hooks_are_told_of_every_launch(monkeypatch):
    kernel, kept = Kernel(), Launches()
    tensors = {"x": torch.zeros(1), "y": None}
    kept.launch(kernel, (5,), tensors, numbers)  # compiles
    for name in ("launch_enter_hook", "launch_exit_hook"):
        chain = knobs.HookChain()
        chain.add(print)
        for hook in (chain, print):
            with monkeypatch.context() as patch:
                patch.setattr(knobs.runtime, name, hook)
                kept.launch(kernel, (5,), tensors, numbers)
            metadata, *hooks = kernel.launched[-1][6:9]
            assert metadata.get()["function"] == 12345 and hook in hooks
            assert kernel.launched[-1][9:] == (*tensors.values(), 3, 16)


def test_an_unknown_triton_launches_what_it_compiled(monkeypatch):
    monkeypatch.setattr(launching, "triton_series", lambda: (4, 0))
    kernel, kept = Kernel(), Launches()
    for _ in range(2):
        kept.launch(kernel, (5,), {"x": None, "y": None}, numbers)
    assert kernel.launched[0][6] is not None  # what `CompiledKernel.__getitem__` alone gives


def test_tensors_in_another_order_than_the_kernels_are_refused():
    with pytest.raises(TypeError, match=r"kernel takes \['x', 'y'\], not \['y', 'x'\]"):
        Launches().launch(Kernel(), (1,), {"y": None, "x": None}, numbers)


def test_no_tensor_is_kept_in_memory():
    kernel, kept, seen = Kernel(), Launches(), []
    for _ in range(2):
        x = torch.zeros(4)
        seen.append(weakref.ref(x))
        kept.launch(kernel, (1,), {"x": x, "y": None}, numbers)
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
        kept.launch(kernel, (1,), {"x": None, "y": None}, numbers)
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
