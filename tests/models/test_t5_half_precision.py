"""SRformer-T5 in float16 and bfloat16."""

import copy

import pytest
import torch
from models.t5 import KINDS, LENGTHS, VERSIONS, generate, logits, targets

from srformer_plugin.models.t5_modules import RMSNorm, WideLinear


def with_large_activations(model, factor):
    """Let the feed-forward of `model` produce `factor`^2 times as much."""
    with torch.no_grad():
        for layer in (*model.encoder.layers, *model.decoder.layers):
            layer.fc1.weight.mul_(factor)
            layer.fc2.weight.mul_(factor)
    return model


def states_of(model, sample, previous):
    encoded = model.encoder(**{**sample["net_input"], "return_all_hiddens": True})
    output, extra = model.decoder(previous, encoder_out=encoded)
    return output, [*encoded["encoder_states"], *extra["inner_states"]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_fp16_computes_what_float32_does_where_activations_pass_its_largest_number(
    build_t5, make_sample, version, kind
):
    model = build_t5(spread=1.0, cross_attention=kind, **VERSIONS[version])
    with_large_activations(model, 300 if version == "v1.0" else 200).half()
    sample, previous = make_sample(LENGTHS), targets([9, 4, 6, 2])
    expected, wide = states_of(copy.deepcopy(model).float(), sample, previous)
    assert max(state.abs().max() for state in wide) > 2 * torch.finfo(torch.float16).max
    output, states = states_of(model, sample, previous)
    assert output.dtype == torch.float16
    for ours, theirs in zip(states, wide):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.float(), theirs, rtol=0.05, atol=0.01 * theirs.abs().max().item())
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("factor", [1, 300, 60_000])
def test_fp16_trains_to_finite_gradients_whatever_overflows(build_t5, make_sample, version, factor):
    """With 60,000 the first projection overflows as well, and dropout scales what was clamped."""
    model = build_t5(spread=1.0, dropout=0.2, **VERSIONS[version]).half().train()
    with torch.no_grad():
        for layer in (*model.encoder.layers, *model.decoder.layers):
            layer.fc1.weight.mul_(factor).clamp_(-60_000, 60_000)
            layer.fc2.weight.mul_(min(factor, 1000))
    output = logits(model, make_sample(LENGTHS), targets([9, 4, 6, 2]))
    assert output.isfinite().all()
    output.float().log_softmax(-1)[..., 5].mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_the_scaled_product_has_the_values_and_gradients_of_a_plain_one():
    torch.manual_seed(0)
    scaled = WideLinear(64, 16).half()
    plain = copy.deepcopy(scaled).float()
    x = (torch.randn(5, 64) * torch.tensor([1e-3, 1.0, 30.0, 1e3, 1e4]).unsqueeze(1)).half()
    a, b = x.clone().requires_grad_(), x.float().requires_grad_()
    scaled(a).sum().backward()
    plain(b).sum().backward()
    torch.testing.assert_close(scaled(x), plain(x.float()), rtol=2e-3, atol=2e-3 * x.abs().max().item() * 1e-3)
    torch.testing.assert_close(a.grad.float(), b.grad, rtol=5e-3, atol=5e-3)
    torch.testing.assert_close(scaled.weight.grad.float(), plain.weight.grad, rtol=1e-2, atol=20)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_bf16_is_close_to_float32_and_decodes(build_t5, make_sample, kind):
    model = build_t5(spread=1.0, cross_attention=kind).bfloat16()
    sample, previous = make_sample(LENGTHS), targets([9, 4, 6, 2])
    expected = logits(copy.deepcopy(model).float(), sample, previous)
    torch.testing.assert_close(logits(model, sample, previous).float(), expected, rtol=0.05, atol=0.15)
    assert all(beams for beams in generate(model, sample, 4))


@pytest.mark.parametrize("weight", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("stream", [torch.float16, torch.bfloat16, torch.float32])
def test_the_norm_is_computed_in_float32_and_goes_on_in_the_weights_dtype(stream, weight):
    torch.manual_seed(0)
    norm = RMSNorm(16)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(16))
    norm.to(weight)
    # in float16 squares beyond 256 are infinite, and the sum that runs through the layers is beyond its range
    x = (300 * torch.randn(5, 16) * (1e3 if stream == torch.float32 else 1)).to(stream).requires_grad_()
    output = norm(x)
    wide, scale = x.detach().double().requires_grad_(), norm.weight.detach().double().requires_grad_()
    expected = wide / (wide.square().mean(-1, keepdim=True) + norm.eps).sqrt() * scale
    assert output.dtype == weight
    rounding = max(torch.finfo(dtype).eps for dtype in (weight, stream))
    torch.testing.assert_close(output.double(), expected, rtol=2 * rounding, atol=1e-6)
    output.sum().backward()
    expected.sum().backward()
    close = {"rtol": 8 * rounding, "atol": 8 * rounding}
    torch.testing.assert_close(norm.weight.grad.double(), scale.grad, **close)
    torch.testing.assert_close(x.grad.double() * x.detach().abs().max(), wide.grad * wide.detach().abs().max(), **close)
