"""The RAF neuron: its scan, its backward pass, and its constraints."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from srformer_plugin.attention.method.raf import (
    MIN_THRESHOLD,
    constrain_leak,
    constrain_threshold,
    raf_scan,
    raf_scan_by_steps,
    raf_step,
)


def scalar(value):
    return torch.tensor([value], dtype=torch.float64, requires_grad=True)


@settings(max_examples=30, deadline=None)
@given(
    steps=st.integers(1, 9),
    size=st.integers(1, 4),
    leak=st.floats(0, 1),
    threshold=st.floats(0.01, 3),
    seed=st.integers(0, 2**31),
)
def test_scan_and_its_gradients_equal_the_steps(steps, size, leak, threshold, seed):
    generator = torch.Generator().manual_seed(seed)
    drive = torch.randn(2, 3, steps, size, size, dtype=torch.float64, generator=generator, requires_grad=True)
    upstream = torch.randn(drive.shape, dtype=torch.float64, generator=generator)
    inputs = (drive, scalar(leak), scalar(threshold))
    ours, plain = raf_scan(*inputs), raf_scan_by_steps(*inputs)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    for a, b in zip(torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(plain, inputs, upstream)):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_scan_passes_gradcheck_away_from_the_threshold():
    drive = torch.randn(1, 2, 5, 2, 2, dtype=torch.float64, requires_grad=True)
    leak, threshold = scalar(0.4), scalar(0.2)
    potential = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    for step in drive.detach().unbind(2):  # a kink within reach of gradcheck's step would spoil its estimate
        assert ((0.4 * potential + step) / 0.2 - 1).abs().min() > 1e-3
        potential, _ = raf_step(potential, step, torch.tensor(0.4), torch.tensor(0.2))
    assert torch.autograd.gradcheck(raf_scan, (drive, leak, threshold))


def test_one_step_by_hand():
    # U' = 0.5 * 1 + 1 = 1.5; P = 1.5 / 0.6 - 1 = 1.5; U = 1.5 - 0.6 = 0.9
    potential, spikes = raf_step(*(torch.tensor([x], dtype=torch.float64) for x in (1.0, 1.0, 0.5, 0.6)))
    assert spikes.item() == pytest.approx(1.5)
    assert potential.item() == pytest.approx(0.9)


def test_a_threshold_away_from_zero_is_unchanged_and_one_at_or_below_zero_is_raised():
    for value in (MIN_THRESHOLD, 0.1, 0.23, 5.0):
        assert constrain_threshold(scalar(value)).item() == value
    for value in (0.0, -0.5):
        assert constrain_threshold(scalar(value)).item() == pytest.approx(MIN_THRESHOLD)


def test_a_leak_inside_the_unit_interval_is_unchanged_and_one_outside_is_clipped():
    for value in (0.0, 0.37, 1.0):
        assert constrain_leak(scalar(value)).item() == value
    assert constrain_leak(scalar(1.5)).item() == 1
    assert constrain_leak(scalar(-0.5)).item() == 0


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_a_threshold_pushed_out_of_bounds_still_receives_its_gradient(value):
    threshold = scalar(value)
    output = raf_scan(torch.rand(1, 1, 3, 2, 2).double(), scalar(0.5).detach(), constrain_threshold(threshold))
    output.sum().backward()
    assert output.isfinite().all()
    assert threshold.grad.isfinite().all()
    assert threshold.grad.abs().item() > 0
