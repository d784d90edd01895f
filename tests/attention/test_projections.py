"""Projections of the same states: one product with gradients, and then the numbers of one each."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from srformer_plugin.attention.projections import project_together


class Products(TorchDispatchMode):
    """Counts products of matrices."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        return function(*args, **(kwargs or {}))


def inputs(biases):
    """States (5, 2, 6) in the layout of a transposed batch, and projections to 4, 3 and 4 features."""
    torch.manual_seed(2)
    states = torch.randn(2, 5, 6, dtype=torch.float64).transpose(0, 1).requires_grad_()
    return states, [nn.Linear(6, width, bias).double() for width, bias in zip((4, 3, 4), biases)]


@pytest.mark.parametrize("biases", [(True,) * 3, (False,) * 3, (True, False, True)])
def test_outputs_and_gradients_are_those_of_one_product_each(biases):
    states, projections = inputs(biases)
    parameters = [states, *(p for projection in projections for p in projection.parameters())]
    results = []
    for outputs in (project_together(states, projections), [p(states) for p in projections]):
        weighted = sum((x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum() for x in outputs)
        results.append([*outputs, *torch.autograd.grad(weighted, parameters)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("bias", [True, False])
def test_with_gradients_it_is_one_product_forward_and_two_backward(bias):
    states, projections = inputs((bias,) * 3)
    with Products() as products:
        outputs = project_together(states, projections)
        assert products.count == 1
        sum(x.sum() for x in outputs).backward()
        assert products.count == 3


def test_without_gradients_it_is_the_modules_to_the_bit():
    states, projections = inputs((True,) * 3)
    with torch.no_grad():
        for got, projection in zip(project_together(states, projections), projections, strict=True):
            assert torch.equal(got, projection(states)) and got.is_contiguous()


def test_autocast_rounds_as_for_one_product_each():
    states, projections = inputs((True,) * 3)
    states, projections = states.detach().float(), [p.float() for p in projections]
    with torch.autocast("cpu", torch.bfloat16):
        for got, projection in zip(project_together(states, projections), projections, strict=True):
            assert got.dtype == torch.bfloat16
            torch.testing.assert_close(got, projection(states), rtol=2e-2, atol=2e-2)
