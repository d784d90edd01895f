"""The attention and the model on a CUDA device."""

import copy

import pytest
import torch

from srformer_plugin.attention.cross_attention import SegmentedCrossAttention
from srformer_plugin.attention.settings import SegmentSettings

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)]
)
@pytest.mark.parametrize("clamp", [0.0, 2.0])
def test_output_and_gradients_against_float64_on_the_cpu(dtype, tolerance, clamp):
    settings = SegmentSettings(segment_size=64, expected_target_length=60, kv_clamp=clamp)
    module = SegmentedCrossAttention(256, 4, settings).to(dtype)
    mask = torch.zeros(3, 500, dtype=torch.bool)
    mask[1, :137] = True
    mask[2, 301:] = True
    query, encoder = torch.randn(70, 3, 256).to(dtype), torch.randn(500, 3, 256).to(dtype)
    results = []
    for device, precision in (("cuda", dtype), ("cpu", torch.float64)):
        here = copy.deepcopy(module).to(device, precision)
        q = query.to(device, precision).requires_grad_()
        e = encoder.to(device, precision).requires_grad_()
        output, _ = here(q, e, e, mask.to(device))
        output.square().mean().backward()
        results.append([x.detach().cpu().double() for x in (output, q.grad, e.grad, here.v_proj.weight.grad)])
    for ours, exact in zip(*results):
        assert ((ours - exact).norm() / exact.norm()) < tolerance


def test_decoding_on_the_gpu_equals_training():
    module = SegmentedCrossAttention(64, 2, SegmentSettings(segment_size=16, expected_target_length=9)).cuda().eval()
    query, encoder = torch.randn(12, 2, 64, device="cuda"), torch.randn(100, 2, 64, device="cuda")
    whole, _ = module(query, encoder, encoder, None)
    state = {}
    steps = [module(query[t : t + 1], encoder, encoder, None, state)[0] for t in range(12)]
    torch.testing.assert_close(torch.cat(steps), whole, rtol=1e-4, atol=1e-4)
