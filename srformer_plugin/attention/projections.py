"""Several linear projections of the same states as one product, in training.

An attention's queries, keys and values are projections of the same states, and so are the keys and values of all layers
of a decoder. One by one each costs a launch forward and three backward, and the gradients of the states are added up
one by one; while a batch is small the host's time for these launches is what a training step takes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def is_bare(projection: nn.Module) -> bool:
    """A linear map by the module's weights alone: no hook such as quantization noise's, no class of one's own."""
    return type(projection) is nn.Linear and not (projection._forward_pre_hooks or projection._forward_hooks)


def project_together(states: Tensor, projections: Sequence[nn.Module]) -> Sequence[Tensor]:
    """The projections of states (..., C), each (..., C'), by the modules' weights and biases.

    With gradients they are slices of one product's output: the same numbers but for rounding. Without gradients each is
    a product of its own, to the bit what the modules compute: nobody waits for launches there, and the weights need not
    be put together.
    """
    weights, biases = [p.weight for p in projections], [p.bias for p in projections]
    if not torch.is_grad_enabled() or len({bias is None for bias in biases}) > 1:
        return [F.linear(states, weight, bias) for weight, bias in zip(weights, biases)]
    bias = None if biases[0] is None else torch.cat(biases)
    return F.linear(states.contiguous(), torch.cat(weights), bias).split([len(weight) for weight in weights], dim=-1)
