"""The label-smoothed cross-entropy of a chunk of logits, and its gradients in their place.

Of a row z, p = softmax(z), target t and V classes, fairseq's loss is, with e = `smoothing` and e' = e / (V - 1),

    (1 - e - e') (-log p_t) + e' sum_k (-log p_k),    whose gradient in z_k is    p_k - e' - (1 - e - e') [k = t]

(``fairseq/criterions/label_smoothed_cross_entropy.py``: a target keeps 1 - e, every other class has e').

On a GPU a Triton kernel reads the logits twice and writes gradients once (`label_smoothed_rows_kernel`). Everything
else, which is float64, other devices and a Triton that is missing, too old or without a compiler, is left to PyTorch
operations, which go over logits and probabilities some ten times; the kernel is tested against these. Both compute in
float32 (float64 of float64) and round a gradient once, to the logits' dtype. Relative to the terms of a loss, those of
the two are at most 1e-5 apart, and gradients by one rounding. Where logits are large (1e4) the kernel's losses are the
nearer ones: it sums the distances from the greatest.
"""

import torch
from torch import Tensor

from ..triton_here import can_run_on_gpu

KERNEL_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether logits there are left to the kernel."""
    return device.type == "cuda" and dtype in KERNEL_DTYPES and can_run_on_gpu()


def label_smoothed_rows(
    logits: Tensor, target: Tensor, *, smoothing: float, ignore_index: int, factor: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of rows of logits; their gradients take the place of the logits where a `factor` is given.

    Args:
        logits: (rows, V), contiguous, floating point, V > 1; overwritten if there is a `factor`.
        target: (rows,) int64, contiguous: classes, or `ignore_index`.
        smoothing: e above, from 0 to 1.
        ignore_index: rows with this target have no loss, are not correct, and have gradients of zero.
        factor: (rows,) with which gradients are multiplied before they are rounded, float32, or float64 of float64;
            None: no gradients.

    Returns:
        Loss, loss without smoothing, and whether the target has the greatest logit and the first one of these, each
        (rows,): float32 (float64 of float64), the same, bool.
    """
    if not has_kernel(logits.device, logits.dtype):
        return _by_torch(logits, target, smoothing, ignore_index, factor)
    from .label_smoothed_rows_kernel import launch

    loss, nll_loss = (torch.empty(len(logits), dtype=torch.float32, device=logits.device) for _ in range(2))
    correct = torch.empty(len(logits), dtype=torch.bool, device=logits.device)
    launch(logits, target, ignore_index, smoothing, factor, loss, nll_loss, correct)
    return loss, nll_loss, correct


def _by_torch(logits, target, smoothing, ignore_index, factor):
    """`label_smoothed_rows` by PyTorch operations.

    The log of the sum of exponentials is taken from the best class: its probability is at least 1 / V.
    """
    classes, wide = logits.size(1), torch.promote_types(logits.dtype, torch.float32)
    other = smoothing / (classes - 1)
    ignored = target.eq(ignore_index).unsqueeze(1)
    target = target.unsqueeze(1).masked_fill(ignored, 0)
    probabilities = torch.softmax(logits, dim=1, dtype=wide)
    best = logits.argmax(dim=1, keepdim=True)
    highest, shift = logits.gather(1, best).to(wide), probabilities.gather(1, best).log()
    nll_loss = highest - logits.gather(1, target).to(wide) - shift
    loss = nll_loss
    if smoothing != 0:
        smooth_loss = (classes * highest - logits.sum(dim=1, keepdim=True, dtype=wide)) - classes * shift
        loss = (1 - smoothing - other) * nll_loss + other * smooth_loss
    if factor is not None:
        factor = factor.unsqueeze(1).masked_fill(ignored, 0)
        at_target = (probabilities.gather(1, target) - (1 - smoothing)) * factor
        torch.addcmul(-other * factor, probabilities, factor, out=logits)
        logits.scatter_(1, target, at_target.to(logits.dtype))
    found = loss.masked_fill(ignored, 0), nll_loss.masked_fill(ignored, 0), best.eq(target) & ~ignored
    return tuple(x.squeeze(1) for x in found)
