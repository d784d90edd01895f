"""The projection to the vocabulary and the label-smoothed cross-entropy in one, a chunk of rows at a time.

`label_smoothed_rows` has the formula, and a kernel for it. No more logits than those of one chunk exist at a time, so
the memory does not grow with rows x V. Logits have the dtype of `features` and W; everything of a softmax is computed
in float32 (float64 of float64) and rounded once, as autograd does it in fairseq's. What a chunk adds to W's gradient is
summed in float32: a sum in bfloat16 would be rounded with every chunk.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .label_smoothed_rows import has_kernel, label_smoothed_rows

# Bytes of a chunk, 256 MiB, where a kernel needs the logits alone: 2,670 rows of BART's vocabulary in half precision.
# With each chunk the sum of W's gradient (154 MB of float32 for BART-base) is read and written once, and the last tiles
# of the products leave a part of a GPU idle: smaller chunks have more of both, larger ones more memory.
KERNEL_BYTES = 2**28
# Elements of a chunk elsewhere, 128 MiB: PyTorch's operations have probabilities in float32 beside the logits.
MAX_ELEMENTS = 2**25


def chunk_elements(device: torch.device, dtype: torch.dtype) -> int:
    """Logits of a chunk at most, where nobody says how many."""
    return KERNEL_BYTES // dtype.itemsize if has_kernel(device, dtype) else MAX_ELEMENTS


class Losses(NamedTuple):
    """`loss` has gradients; the others are to be logged."""

    loss: Tensor  # (), the sum over rows; (N, 1), with 0 where a row is ignored, if not reduced
    nll_loss: Tensor  # likewise, without smoothing
    correct: Tensor  # (N,) bool: the target has the greatest logit, and is not ignored


def linear_cross_entropy(
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    smoothing: float,
    ignore_index: int,
    reduce: bool = True,
    max_elements: int | None = None,
) -> Losses:
    """fairseq's label-smoothed cross-entropy of the logits ``features @ weight.T``, without all of these at once.

    Gradients are those of autograd through fairseq's loss, and have none of their own. They are computed with the loss,
    where logits are at hand anyway, and multiplied in the backward pass by what arrives there. In float16 they are
    computed in the backward pass, from logits that are computed once more: without the loss scale, which only arrives
    there, they would underflow. So are those of a loss that is not reduced. Under autocast features and weight are
    rounded to its dtype, as `torch.nn.functional.linear` does it.

    Args:
        features: (N, D), floating point.
        weight: (V, D), of the same dtype and device, V > 1.
        target: (N,), int64: classes, or `ignore_index`.
        smoothing: e of `label_smoothed_rows`, from 0 to 1.
        ignore_index: rows with this target have no loss and no gradient.
        reduce: sum over the rows.
        max_elements: of a chunk of logits; one row at least. None: `chunk_elements`.

    Returns:
        `Losses`: float32, or float64 of float64.
    """
    device = features.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
    if max_elements is None:
        max_elements = chunk_elements(features.device, features.dtype)
    early = torch.is_grad_enabled() and reduce and features.dtype is not torch.float16
    with torch.autocast(device, enabled=False):
        return Losses(*_LinearCrossEntropy.apply(
            features, weight, target, smoothing, ignore_index, reduce, max_elements, early
        ))  # fmt: skip


class _LinearCrossEntropy(torch.autograd.Function):
    """`early`: compute gradients in the forward pass."""

    @staticmethod
    def forward(ctx, features, weight, target, smoothing, ignore_index, reduce, max_elements, early):
        ctx.early, ctx.dtype = early, features.dtype
        ctx.settings, ctx.max_elements = {"smoothing": smoothing, "ignore_index": ignore_index}, max_elements
        target = target.contiguous()
        wanted = ctx.needs_input_grad[:2] if early else (False, False)
        gradients = _Gradients(features, weight, wanted)
        loss = torch.empty(len(features), dtype=gradients.wide, device=features.device)
        nll_loss, correct = torch.empty_like(loss), torch.empty_like(loss, dtype=torch.bool)
        factor = torch.ones_like(loss) if any(wanted) else None
        for rows in _chunks(len(features), len(weight), max_elements):
            logits = features[rows] @ weight.t()
            loss[rows], nll_loss[rows], correct[rows] = label_smoothed_rows(
                logits, target[rows], factor=None if factor is None else factor[rows], **ctx.settings
            )
            if factor is not None:
                gradients.add(rows, logits)
            del logits  # before the next ones are made

        if early:
            ctx.save_for_backward(gradients.features, gradients.weight)
        else:
            ctx.save_for_backward(features, weight, target)
        if reduce:
            loss, nll_loss = loss.sum(), nll_loss.sum()
        else:
            loss, nll_loss = loss.unsqueeze(1), nll_loss.unsqueeze(1)
        ctx.mark_non_differentiable(nll_loss, correct)
        return loss, nll_loss, correct

    @staticmethod
    @once_differentiable
    def backward(ctx, factor, *_):
        """`factor`: the gradient of the loss, () or (N, 1)."""
        nothing = (None,) * 6
        if ctx.early:
            return *(x if x is None else _times(x, factor, ctx.dtype) for x in ctx.saved_tensors), *nothing
        features, weight, target = ctx.saved_tensors
        gradients = _Gradients(features, weight, ctx.needs_input_grad[:2])
        factor = factor.reshape(-1).expand(len(features)).contiguous()
        for rows in _chunks(len(features), len(weight), ctx.max_elements):
            logits = features[rows] @ weight.t()
            label_smoothed_rows(logits, target[rows], factor=factor[rows], **ctx.settings)
            gradients.add(rows, logits)
            del logits
        return *(x if x is None else x.to(ctx.dtype) for x in (gradients.features, gradients.weight)), *nothing


def _times(gradient, factor, dtype):
    """Their product, rounded to `dtype` as it is written: W's gradient is large, and is read once."""
    return torch.mul(gradient, factor, out=torch.empty_like(gradient, dtype=dtype))


def _chunks(rows, classes, max_elements):
    """Slices of nearly equal lengths that cover `rows`."""
    count = -(-rows // max(1, max_elements // classes))
    for number in range(count):
        yield slice(rows * number // count, rows * (number + 1) // count)


class _Gradients:
    """Gradients of features and weight (None: not wanted), to which chunks of rows add theirs; weight's is wide."""

    def __init__(self, features, weight, wanted):
        self.wide = torch.promote_types(features.dtype, torch.float32)
        self._features, self._weight = features, weight
        self.features = torch.empty_like(features, memory_format=torch.contiguous_format) if wanted[0] else None
        self.weight = torch.zeros_like(weight, dtype=self.wide) if wanted[1] else None

    def add(self, rows, grad_logits):
        """Those that come from the gradients of the logits of `rows`."""
        if self.features is not None:
            torch.mm(grad_logits, self._weight, out=self.features[rows])
        if self.weight is not None:
            _add_product(self.weight, grad_logits.t(), self._features[rows])


def _add_product(total, a, b):
    """``total += a @ b``; `total` may be float32 where `a` and `b` are half."""
    if a.dtype is total.dtype:
        total.addmm_(a, b)
    elif _adds_half_to_float32(total.device, a.dtype):
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total.add_(a @ b)


@functools.cache
def _adds_half_to_float32(device, dtype):
    """Whether this PyTorch multiplies half by half into float32 there: on CUDA, from 2.8 on."""
    total, half = torch.zeros(8, 8, device=device), torch.zeros(8, 8, device=device, dtype=dtype)
    try:
        torch.addmm(total, half, half, out_dtype=total.dtype, out=total)
    except (RuntimeError, TypeError):  # NotImplementedError is one of the first kind
        return False
    return True
