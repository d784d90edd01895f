"""Whether Triton can build kernels here: one answer, for the attention, the fused loss and --compile."""

import logging
import os

import pytest
import torch

from srformer_plugin import triton_here
from srformer_plugin.attention.backends import CHOICES, resolve
from srformer_plugin.criterions.label_smoothed_rows import has_kernel
from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.compiled import missing_compiler
from tests.attention.kernel_cases import Case, obstacle

# Reads Python.h where -I says, as a compiler does, and writes down that it was asked.
COMPILER = """#!/bin/sh
echo asked >> "$0.log"
for word; do case $word in -I*) [ -f "${word#-I}/Python.h" ] && exit 0;; esac; done
echo '<stdin>:1:10: fatal error: Python.h: No such file or directory' >&2
exit 1
"""


class Machine:
    """A machine with a GPU and Triton, but no compiler and no headers until it is given them."""

    def __init__(self, folder):
        self.programs, self.headers = folder / "bin", folder / "include"
        self.programs.mkdir()
        self.headers.mkdir()

    def has(self, *compilers, headers=True):
        for name in compilers:
            (self.programs / name).write_text(COMPILER)
            (self.programs / name).chmod(0o755)
        if headers:
            (self.headers / "Python.h").touch()

    def asked(self, name):
        log = self.programs / f"{name}.log"
        return log.read_text().count("asked") if log.exists() else 0


@pytest.fixture
def machine(tmp_path, monkeypatch, triton_asked_anew):
    found = Machine(tmp_path)
    for name in ("CC", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(found.programs))
    monkeypatch.setattr(triton_here.sysconfig, "get_path", lambda name, scheme: str(found.headers))
    monkeypatch.setattr(triton_here, "triton_version", lambda: "3.7.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    return found


@pytest.mark.parametrize(
    ("compilers", "headers", "named", "message"),
    [
        ([], True, None, "a C compiler: apt-get install gcc python3-dev, or name one in the variable CC"),
        (["gcc"], True, None, None),
        (["clang"], True, None, None),
        (["mine"], True, "mine", None),
        (["gcc"], True, "mine", "a C compiler, and CC='mine' cannot be run"),
        (["gcc"], True, "", "a C compiler, and CC='' cannot be run"),  # what Triton would run, too
        (["gcc"], False, None, "Python's C headers, which gcc cannot read (<stdin>:1:10: fatal error: Python.h: "),
        (["gcc", "mine"], False, "mine", "Python's C headers, which mine cannot read"),
    ],
)
def test_what_triton_builds_its_launchers_with(machine, monkeypatch, compilers, headers, named, message):
    machine.has(*compilers, headers=headers)
    if named is not None:
        monkeypatch.setenv("CC", named)
    if message is None:
        assert triton_here.unusable() is None
    else:
        assert message in triton_here.unusable()
        assert "apt-get install" in triton_here.unusable() and "python3-dev" in triton_here.unusable()


def use():
    """Ask as a model, its loss and --compile do: (the attention's backend, whether the loss has a kernel, the lack)."""
    return resolve("auto"), has_kernel(torch.device("cuda"), torch.bfloat16), missing_compiler()


def test_without_a_compiler_all_is_left_to_pytorch_with_one_warning(machine, caplog):
    with caplog.at_level(logging.WARNING):
        found = [use() for _ in range(3)]
    reason = "Triton needs a C compiler: apt-get install gcc python3-dev, or name one in the variable CC"
    assert found == [(CHOICES["torch"], False, reason)] * 3
    said = [record.message for record in caplog.records]
    assert len(said) == 1 and said[0].endswith(reason)


def test_triton_asked_for_without_headers_is_one_clear_error(machine):
    machine.has("gcc", headers=False)
    with pytest.raises(ConfigurationError, match=r"--attention-backend triton: .*python3-dev.*; or use auto or torch"):
        resolve("triton")
    case = Case([40, 25], 6, 8)
    inputs, memory = case._leaves("cpu", torch.float32)
    found = obstacle(inputs, *case.layout_and_plan("cpu"), memory, device="cuda")
    assert found == triton_here.no_launchers()


def test_the_compiler_is_asked_once(machine, caplog):
    machine.has("gcc")
    assert [use() for _ in range(3)] == [(CHOICES["triton"], True, None)] * 3
    assert resolve("triton") is CHOICES["triton"]
    assert machine.asked("gcc") == 1 and not caplog.records


def test_nothing_is_built_without_a_gpu(machine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve("triton") is CHOICES["triton"] and resolve("auto") is CHOICES["torch"]
    case = Case([40, 25], 6, 8)
    inputs, memory = case._leaves("cpu", torch.float32)
    assert obstacle(inputs, *case.layout_and_plan("cpu"), memory) == "tensors are on the device cpu"
    machine.has("gcc")
    assert resolve("auto") is CHOICES["torch"] and machine.asked("gcc") == 0


def test_the_interpreter_builds_nothing(machine, monkeypatch):
    monkeypatch.setattr(triton_here, "is_interpreted", lambda: True)
    assert triton_here.unusable() is None and os.listdir(machine.programs) == []
