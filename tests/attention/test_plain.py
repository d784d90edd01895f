"""The kernels' plain twins: together the reference, with every gradient, and one by one what the kernels store."""

import math

import pytest
import torch

from srformer_plugin.attention.method.reference import segment_of_position, segmented_recurrent_attention
from srformer_plugin.attention.triton import plain

SIZE, TARGETS, D = 4, 9, 5


def whole(query, keys, values, weight, leak, threshold, gate, expected, bound, upstream):
    """Output and all gradients of one head of one sentence by the plain twins, in the kernels' order."""
    count = math.ceil(len(keys) / SIZE)
    segments = torch.tensor([segment_of_position(t, count, expected) for t in range(len(query))])
    segment_of_state, states = segments.unique(return_inverse=True)
    tanh = gate.tanh()
    local, lse, y, total, squares = plain.segment_forward(
        query, keys, values, weight, segments, segment_of_state, SIZE, bound
    )
    drive, inverse_norm = plain.total_products(total, squares, weight, bound)
    output, excess = plain.scan_forward(query, states, y, drive, inverse_norm, local, leak, threshold, tanh)
    dq, drives, into_total, into_norm, *scalars = plain.scan_backward(
        query, upstream, states, excess, weight, total, inverse_norm, leak, threshold, tanh, bound
    )
    dq, dk, dv, d_weight = plain.segment_backward(
        query, keys, values, weight, upstream, local, lse, dq, drives, total, inverse_norm, into_total, into_norm,
        tanh, segments, segment_of_state, SIZE, bound,
    )  # fmt: skip
    parameters = plain.parameter_gradients([d_weight], [scalars], [into_norm], [inverse_norm], tanh)
    return output, (dq, dk, dv, *parameters)


@pytest.mark.parametrize("bound", [None, 0.8])
@pytest.mark.parametrize(("tokens", "expected"), [(14, 9), (14, 3), (40, 5), (3, 6)])
def test_together_they_are_the_reference_and_its_gradients(tokens, expected, bound):
    generator = torch.Generator().manual_seed(tokens + expected)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    leaves = [draw(TARGETS, D), draw(tokens, D), draw(tokens, D), draw(D, D) / 2]
    leaves += [torch.tensor(x, dtype=torch.float64) for x in (0.6, 0.2, 0.4)]
    upstream = draw(TARGETS, D)
    output, gradients = whole(*leaves, expected, bound, upstream)

    query, keys, values, weight, leak, threshold, gate = (x.requires_grad_() for x in leaves)
    arguments = (*(x[None, None] for x in (query, keys, values)), [tokens], SIZE, expected)
    local = segmented_recurrent_attention(*arguments)
    memory = segmented_recurrent_attention(*arguments, weight, leak, threshold, bound) - local
    exact = (local + gate.tanh() * memory)[0, 0]
    torch.testing.assert_close(output, exact)
    expected_gradients = torch.autograd.grad(exact, leaves, upstream, allow_unused=True)
    for name, ours, theirs in zip(("q", "k", "v", "W", "leak", "threshold", "gate"), gradients, expected_gradients):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, msg=name)
    if tokens > SIZE:
        assert all(x.abs().sum() > 0 for x in gradients)
