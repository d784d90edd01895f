"""The projection to the vocabulary and the label-smoothed cross-entropy in one, a few rows at a time.

Of a row with logits z = W h, p = softmax(z), target t and V classes, fairseq's loss is, with e = `smoothing` and
e' = e / (V - 1),

    (1 - e - e') (-log p_t) + e' sum_k (-log p_k),    whose gradient in z_k is    p_k - e' - (1 - e - e') [k = t]

(``fairseq/criterions/label_smoothed_cross_entropy.py``: a target keeps 1 - e, every other class has e'). No more logits
than those of one chunk of rows exist at a time, so the memory does not grow with rows x V. Logits have the dtype of
`features` and W; everything of a softmax is computed in float32 (float64 of float64) and rounded once, as autograd does
it in fairseq's. What a chunk adds to W's gradient is summed in float32: a sum in bfloat16 would be rounded with every
chunk.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of a chunk of logits, 128 MiB of float32: 667 rows of BART's vocabulary. Larger chunks have fewer sums of
# W's gradient, which is read and written with each.
MAX_ELEMENTS = 2**25


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
    max_elements: int = MAX_ELEMENTS,
) -> Losses:
    """fairseq's label-smoothed cross-entropy of the logits ``features @ weight.T``, without all of these at once.

    Gradients are those of autograd through fairseq's loss, once (`retain_graph` will not do). They are computed with
    the loss, where logits are at hand anyway, and multiplied in the backward pass by what arrives there. In float16
    they are computed in the backward pass, from logits that are computed once more: without the loss scale, which only
    arrives there, they would underflow. So are those of a loss that is not reduced. Under autocast features and weight
    are rounded to its dtype, as `torch.nn.functional.linear` does it.

    Args:
        features: (N, D), floating point.
        weight: (V, D), of the same dtype and device, V > 1.
        target: (N,), int64: classes, or `ignore_index`.
        smoothing: e above, from 0 to 1.
        ignore_index: rows with this target have no loss and no gradient.
        reduce: sum over the rows.
        max_elements: of a chunk of logits; one row at least.

    Returns:
        `Losses`: float32, or float64 of float64.
    """
    device = features.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
    early = torch.is_grad_enabled() and reduce and features.dtype is not torch.float16
    with torch.autocast(device, enabled=False):
        return Losses(*_LinearCrossEntropy.apply(
            features, weight, target, smoothing, ignore_index, reduce, max_elements, early
        ))  # fmt: skip


class _LinearCrossEntropy(torch.autograd.Function):
    """`early`: compute gradients in the forward pass."""

    @staticmethod
    def forward(ctx, features, weight, target, smoothing, ignore_index, reduce, max_elements, early):
        ignored = target.eq(ignore_index).unsqueeze(1)
        target = target.unsqueeze(1).masked_fill(ignored, 0)
        ctx.smoothing, ctx.max_elements, ctx.early, ctx.dtype = smoothing, max_elements, early, features.dtype
        wanted = ctx.needs_input_grad[:2] if early else (False, False)
        gradients = _Gradients(features, weight, wanted)
        ones = ignored.logical_not().to(gradients.wide)

        loss, nll_loss = torch.empty_like(ones), torch.empty_like(ones)
        correct = torch.empty_like(ignored)
        for rows in _chunks(len(features), len(weight), max_elements):
            logits = features[rows] @ weight.t()
            probabilities = torch.softmax(logits, dim=1, dtype=gradients.wide)
            loss[rows], nll_loss[rows], correct[rows] = _losses(logits, probabilities, target[rows], smoothing)
            if any(wanted):
                gradients.add(rows, logits, probabilities, target[rows], smoothing, ones[rows])
            del logits, probabilities  # before the next ones are made
        loss.masked_fill_(ignored, 0)
        nll_loss.masked_fill_(ignored, 0)
        correct = (correct & ~ignored).squeeze(1)

        if early:
            ctx.save_for_backward(gradients.features, gradients.weight)
        else:
            ctx.save_for_backward(features, weight, target, ones)
        if reduce:
            loss, nll_loss = loss.sum(), nll_loss.sum()
        ctx.mark_non_differentiable(nll_loss, correct)
        return loss, nll_loss, correct

    @staticmethod
    @once_differentiable
    def backward(ctx, factor, *_):
        """`factor`: the gradient of the loss, () or (N, 1)."""
        nothing = (None,) * 6
        if ctx.early:
            # In place: they are needed once. A second time PyTorch sees that they were changed, and says so.
            found = (x if x is None else x.mul_(factor).to(ctx.dtype) for x in ctx.saved_tensors)
            return *found, *nothing
        features, weight, target, ones = ctx.saved_tensors
        gradients = _Gradients(features, weight, ctx.needs_input_grad[:2])
        factor = ones * factor
        for rows in _chunks(len(features), len(weight), ctx.max_elements):
            logits = features[rows] @ weight.t()
            probabilities = torch.softmax(logits, dim=1, dtype=gradients.wide)
            gradients.add(rows, logits, probabilities, target[rows], ctx.smoothing, factor[rows])
            del logits, probabilities
        return *(x if x is None else x.to(ctx.dtype) for x in (gradients.features, gradients.weight)), *nothing


def _chunks(rows, classes, max_elements):
    """Slices of nearly equal lengths that cover `rows`."""
    count = -(-rows // max(1, max_elements // classes))
    for number in range(count):
        yield slice(rows * number // count, rows * (number + 1) // count)


def _losses(logits, probabilities, target, smoothing):
    """Loss, loss without smoothing, and whether the target is the best class, (rows, 1) each.

    The log of the sum of exponentials is taken from the best class: its probability is at least 1 / V.
    """
    classes, wide = logits.size(1), probabilities.dtype
    best = logits.argmax(dim=1, keepdim=True)
    highest, shift = logits.gather(1, best).to(wide), probabilities.gather(1, best).log()
    nll_loss = highest - logits.gather(1, target).to(wide) - shift
    if smoothing == 0:
        return nll_loss, nll_loss, best.eq(target)
    smooth_loss = (classes * highest - logits.sum(dim=1, keepdim=True, dtype=wide)) - classes * shift
    other = smoothing / (classes - 1)
    return (1 - smoothing - other) * nll_loss + other * smooth_loss, nll_loss, best.eq(target)


class _Gradients:
    """Gradients of features and weight (None: not wanted), to which chunks of rows add theirs; weight's is wide."""

    def __init__(self, features, weight, wanted):
        self.wide = torch.promote_types(features.dtype, torch.float32)
        self._features, self._weight = features, weight
        self.features = torch.empty_like(features, memory_format=torch.contiguous_format) if wanted[0] else None
        self.weight = torch.zeros_like(weight, dtype=self.wide) if wanted[1] else None

    def add(self, rows, logits, probabilities, target, smoothing, factor):
        """Those of the loss times `factor` (rows, 1); `logits` are overwritten."""
        other = smoothing / (logits.size(1) - 1)
        at_target = (probabilities.gather(1, target) - (1 - smoothing)) * factor
        grad_logits = torch.addcmul(-other * factor, probabilities, factor, out=logits)
        grad_logits.scatter_(1, target, at_target.to(logits.dtype))
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
