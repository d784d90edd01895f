"""Where the fused kernels are not used, and what a user is told."""

import pytest
import torch

from srformer_plugin import triton_here
from srformer_plugin.attention import backends
from srformer_plugin.attention.backends import resolve
from srformer_plugin.attention.torch import attend as torch_ops
from srformer_plugin.attention.triton import support as triton_support
from srformer_plugin.attention.triton.exactness import by_entry
from srformer_plugin.errors import ConfigurationError
from tests.attention.kernel_cases import DEVICE, Case, obstacle


def test_what_the_kernels_cannot_do_is_done_by_pytorch_and_said_once(caplog):
    case = Case([40, 25], 6, 8, head_dim=24)
    inputs, memory = case._leaves(DEVICE, torch.float32)
    layout, plan = case.layout_and_plan(DEVICE)
    backends._told.clear()
    with caplog.at_level("INFO"):
        results = [resolve("triton").attend_source(*inputs, layout, plan, memory)[0] for _ in range(2)]
    expected = torch_ops.attend_source(*inputs, layout, plan, memory)[0]
    assert all(torch.equal(result, expected) for result in results)
    assert [r.message.split(": ")[1] for r in caplog.records] == ["the head size 24 is none of 16, 32, 64, 128"]


@pytest.mark.parametrize(("version", "message"), [(None, "is not installed"), ("3.3.1", "3.3.1 is older")])
def test_triton_asked_for_and_missing_or_old_is_one_clear_error(monkeypatch, triton_asked_anew, version, message):
    monkeypatch.setattr(triton_here, "triton_version", lambda: version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(
        ConfigurationError, match=f"--attention-backend triton: Triton 3.6 or later is needed, .*{message}.*pip"
    ):
        resolve("triton")
    assert resolve("auto") is resolve("torch")
    case = Case([40, 25], 6, 8)
    inputs, memory = case._leaves("cpu", torch.float32)
    assert message in obstacle(inputs, *case.layout_and_plan("cpu"), memory)


def test_a_gpu_with_too_little_shared_memory_is_an_obstacle(monkeypatch):
    case = Case([40, 25], 6, 8)
    inputs, memory = case._leaves(DEVICE, torch.float32)
    arguments = (*case.layout_and_plan(DEVICE), memory)
    for size, dtype, fits in (
        (64, torch.bfloat16, False),  # T4
        (99, torch.bfloat16, True),  # A10
        (99, torch.float32, False),
        (227, torch.float32, True),  # H100
    ):
        monkeypatch.setattr(triton_support, "shared_memory", lambda _, size=size: size * 1024)
        found = obstacle([x.to(dtype) for x in inputs], *arguments, device="cuda")
        assert (found is None) == fits, found
        assert fits or "more shared memory than this GPU has" in found


def test_a_memory_with_another_scan_is_left_to_pytorch():
    case = Case([40, 25], 6, 8)
    inputs, memory = case._leaves(DEVICE, torch.float32)
    by_entry(memory)
    found = obstacle(inputs, *case.layout_and_plan(DEVICE), memory)
    assert found == "the memory's scan is not its own"
