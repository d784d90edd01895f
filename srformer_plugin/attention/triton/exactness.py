"""How far an implementation is from the float64 result: what tests and benchmarks of the fused kernels judge by."""

import torch
from torch import Tensor, nn

from ..method.memory import RAFMemory
from ..method.raf import raf_scan_by_steps


def by_entry(memory: nn.Module) -> nn.Module:
    """Give a RAF memory's leak and threshold one value per entry of the state, (D, D); other memories stay.

    Their gradients are then the terms of the sums that they are (`relative_error`).
    """
    if isinstance(memory, RAFMemory):
        size = memory.proj.weight.shape
        memory.leak = nn.Parameter(memory.leak.detach().expand(size).clone())
        memory.threshold = nn.Parameter(memory.threshold.detach().expand(size).clone())
        memory.scan = raf_scan_by_steps
    return memory


def scan_of_firing(fired: Tensor):
    """A `RAFMemory.scan` in which neurons fire where `fired` (B, H, R, D, D) says, whatever their potentials are.

    Where a potential is within rounding of the threshold an implementation may fire or not, and every later
    potential and whole gradient entries hang on it. This is the exact result for the choice that it made.
    """

    def scan(drive, leak, threshold):
        potential, spikes = torch.zeros_like(drive[:, :, 0]), []
        for step, fires in zip(drive.unbind(2), fired.to(drive).unbind(2)):
            potential = leak * potential + step
            spikes.append((potential / threshold - 1) * fires)
            potential = potential - threshold * fires
        return torch.stack(spikes, 2)

    return scan


def relative_error(ours: Tensor, exact: Tensor, upstream: Tensor) -> float:
    """|ours - exact| / |exact|, Euclidean norms in float64.

    Where `exact` has further dimensions, `ours` is the sum over them and is judged against the norm of what it sums:
    a sum of terms that cancel says nothing about their accuracy. Where `exact` is nothing but rounding (the queries'
    gradient at a source of one token), against the norm of the output's gradient `upstream`.
    """
    ours, exact = ours.detach().double(), exact.detach().double().to(ours.device)
    scale, reference = exact.norm(), upstream.double().norm().to(ours.device)
    if exact.numel() > ours.numel():
        exact = exact.reshape(*ours.shape, -1).sum(-1)
    scale = torch.where(scale > 1e-12 * reference, scale, reference)
    return ((ours - exact).norm() / scale.clamp(min=1e-300)).item()
