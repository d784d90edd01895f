"""Half precision against float64, on the CPU and on a CUDA device."""

import copy

import pytest
import torch

from srformer_plugin.attention.cross_attention import SegmentedCrossAttention
from srformer_plugin.attention.method.memory import RAFMemory
from srformer_plugin.attention.method.schedule import build_schedule
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.source_context import SourceContext
from srformer_plugin.attention.torch.attend import attend


def core(query, keys, values, mask, memory):
    """Attention from projected queries (B, H, T, D) to projected keys and values (N, B, H * D)."""
    layout = SourceContext(mask).layout(keys.size(1), keys.size(0), 64, keys.device)
    keys, values = (layout.split_heads(x, query.size(1)) for x in (keys, values))
    plan = build_schedule("fixed", 60).plan(layout, 0, query.size(2))
    return attend(query, keys, values, layout.is_real, plan, memory, memory.encode(keys, values, layout, plan))[0]


def with_gradients(inputs, mask, memory, upstream, device, dtype):
    memory = copy.deepcopy(memory).to(device, dtype)
    inputs = [x.detach().clone().to(device, dtype).requires_grad_() for x in inputs]
    output = core(*inputs, mask.to(device), memory)
    gradients = torch.autograd.grad(output, [*inputs, memory.proj.weight], upstream.to(device, dtype))
    return [x.detach().cpu().double() for x in (output, *gradients)]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("clamp", [0.0, 2.0])
def test_output_and_gradients_against_float64(device, dtype, tolerance, clamp):
    """Both sides get the same rounded keys and values: their products, and so the spikes, are then the same."""
    mask = torch.zeros(3, 500, dtype=torch.bool)
    mask[1, :137] = True
    mask[2, 301:] = True
    memory = RAFMemory(4, 64, SegmentSettings(kv_clamp=clamp)).to(dtype)
    inputs = [torch.randn(3, 4, 70, 64).to(dtype) * 0.3, *(torch.randn(500, 3, 256).to(dtype) for _ in range(2))]
    upstream = torch.randn(3, 4, 70, 64).to(dtype)
    ours = with_gradients(inputs, mask, memory, upstream, device, dtype)
    exact = with_gradients(inputs, mask, memory, upstream, "cpu", torch.float64)
    for name, a, b in zip(("output", "query", "keys", "values", "W"), ours, exact):
        assert ((a - b).norm() / b.norm()) < tolerance, name


@pytest.mark.gpu
def test_decoding_on_the_gpu_equals_training():
    module = SegmentedCrossAttention(64, 2, SegmentSettings(segment_size=16, expected_target_length=9)).cuda().eval()
    query, encoder = torch.randn(12, 2, 64, device="cuda"), torch.randn(100, 2, 64, device="cuda")
    whole, _ = module(query, encoder, encoder, None)
    state = {}
    steps = [module(query[t : t + 1], encoder, encoder, None, state)[0] for t in range(12)]
    torch.testing.assert_close(torch.cat(steps), whole, rtol=1e-4, atol=1e-4)
