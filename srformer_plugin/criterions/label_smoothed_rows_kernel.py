"""The Triton kernel of `label_smoothed_rows`: losses of a row of logits, and its gradients in the row's place.

One program a row. It reads the row once for the losses and once more for gradients, which it writes over the logits,
and computes in float32, whatever the logits' dtype. Nothing is added up among programs: the same logits give the same
bits.
"""

import contextlib

import torch
import triton
import triton.language as tl

# Columns that a program has in its registers at once, 16 a thread: with 64 registers an H100's multiprocessor has four
# programs, of which some load while others wait for their sums.
BLOCK = 4096
COLUMNS_PER_WARP = 512


def launch(logits, target, ignore_index, smoothing, factor, loss, nll_loss, correct, block=BLOCK):
    """Arguments as `label_smoothed_rows` has them; `loss`, `nll_loss` and `correct` (rows,) are written.

    Args:
        logits: (rows, V), contiguous, on a GPU, or on the CPU where Triton interprets.
        factor: (rows,) float32, contiguous; None: no gradients.
        block: columns at once, a power of two; fewer where V is small.
    """
    rows, classes = logits.shape
    if rows == 0:
        return
    block = min(block, triton.next_power_of_2(classes))
    smoothing = float(smoothing)
    other = smoothing / (classes - 1)
    with torch.cuda.device(logits.device) if logits.is_cuda else contextlib.nullcontext():
        _label_smoothed_row[(rows,)](
            logits, target, factor, loss, nll_loss, correct, ignore_index, smoothing, other, V=classes, BLOCK=block,
            SMOOTH=smoothing != 0, GRADIENTS=factor is not None, num_warps=max(1, block // COLUMNS_PER_WARP),
        )  # fmt: skip


# V is a constexpr: the compiler then knows how a row is aligned, and loads 16 bytes a thread where it may. Chunks begin
# at any target, which is no reason to compile anew.
@triton.jit(do_not_specialize_on_alignment=["target", "factor"])
def _label_smoothed_row(
    logits, target, factor, loss, nll_loss, correct, ignore_index, smoothing, other, V: tl.constexpr,
    BLOCK: tl.constexpr, SMOOTH: tl.constexpr, GRADIENTS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * V  # of more than 2^31 elements
    columns = tl.arange(0, BLOCK)
    goal = tl.load(target + row)
    if goal == ignore_index:
        tl.store(loss + row, 0.0)
        tl.store(nll_loss + row, 0.0)
        tl.store(correct + row, False)
        if GRADIENTS:
            nothing = tl.zeros([BLOCK], tl.float32).to(logits.dtype.element_ty)
            for start in range(0, V, BLOCK):
                tl.store(base + start + columns, nothing, mask=start + columns < V)
    else:
        # a class that does not exist has a loss that is no number
        at_goal = tl.load(base + goal, mask=(goal >= 0) & (goal < V), other=float("nan")).to(tl.float32)
        place = goal.to(tl.int32)  # as a column is: registers are short
        highest = tl.full([], float("-inf"), tl.float32)
        shift = tl.full([], 0.0, tl.float32)  # `highest`, but 0 as long as that is -inf
        total = tl.full([], 0.0, tl.float32)  # of exp(z - shift)
        below = tl.full([], 0.0, tl.float32)  # of shift - z: the logits' own sum would lose digits where they are large
        beaten = tl.full([], 0, tl.int32)  # by a greater logit, by an equal one of a lower class, or by NaN
        for start in range(0, V, BLOCK):
            column = start + columns
            inside = column < V
            z = tl.load(base + column, mask=inside, other=float("-inf")).to(tl.float32)
            new = tl.maximum(highest, tl.max(z, 0))
            new_shift = tl.where(new == float("-inf"), 0.0, new)
            total = total * tl.exp(highest - new_shift) + tl.sum(tl.exp(z - new_shift), 0)
            if SMOOTH:
                rise = tl.where(highest == float("-inf"), 0.0, new_shift - shift)
                below += start * rise + tl.sum(tl.where(inside, new_shift - z, 0.0), 0)
            beats = (z > at_goal) | ((z == at_goal) & (column < place)) | (z != z)
            beaten = tl.maximum(beaten, tl.max(beats.to(tl.int32), 0))
            highest, shift = new, new_shift
        log_total = tl.log(total)
        nll = (shift - at_goal) + log_total
        tl.store(nll_loss + row, nll)
        if SMOOTH:
            tl.store(loss + row, (1.0 - smoothing - other) * nll + other * (below + V * log_total))
        else:
            tl.store(loss + row, nll)
        tl.store(correct + row, (beaten == 0) & (at_goal == at_goal))
        if GRADIENTS:
            scale = tl.load(factor + row)
            inverse = 1.0 / total
            for start in range(0, V, BLOCK):
                column = start + columns
                inside = column < V
                z = tl.load(base + column, mask=inside, other=float("-inf")).to(tl.float32)
                less = tl.where(column == place, 1.0 - smoothing, other)
                gradient = (tl.exp(z - shift) * inverse - less) * scale
                tl.store(base + column, gradient.to(logits.dtype.element_ty), mask=inside)
