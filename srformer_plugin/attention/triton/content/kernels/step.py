"""One decoding step: every hypothesis chooses its segments and attends to them, in two launches.

Tensors, B sentences, H heads, X hypotheses, m segments of s slots, k choices:

    q, out          (B, H, X, D) by strides       k, v     (B, N, H * D) by strides, the projections
    means           (B, H, m, D) float32, of `choose.mean_keys`
    best            (B * H, X, parts, KEPT) int64, the ranks of the best k segments of every part of a source

The first launch reads the means, once for all hypotheses of a sentence; the second the tokens of chosen segments.
"""

import triton
import triton.language as tl

from .choose import LOWEST, best_segments, segment_of


@triton.jit(do_not_specialize=["M", "PARTS"])
def rank_segments(
    q, means, counts, best, H, M, X, PARTS, q_b, q_h, q_x,
    D: tl.constexpr, BLOCK_X: tl.constexpr, PER: tl.constexpr, BLOCK_M: tl.constexpr, K: tl.constexpr,
    KEPT: tl.constexpr, SPLIT: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """The best K of PER segments for BLOCK_X hypotheses of one sentence and head."""
    part, head = tl.program_id(0), tl.program_id(1)
    row, h = head // H, head % H
    x, cols = tl.program_id(2) * BLOCK_X + tl.arange(0, BLOCK_X), tl.arange(0, D)
    there = (x < X)[:, None]
    qt = tl.load(q + row.to(tl.int64) * q_b + h * q_h + x[:, None] * q_x + cols[None, :], mask=there, other=0.0)
    first = part * PER
    stop = tl.minimum(first + PER, tl.load(counts + row).to(tl.int32))
    base = means + head.to(tl.int64) * M * D
    top = best_segments(qt, base, first, stop, M, D, BLOCK_X, BLOCK_M, K, KEPT, SPLIT, EXACT)
    target = best + ((head.to(tl.int64) * X + x) * PARTS + part)[:, None] * KEPT + tl.arange(0, KEPT)[None, :]
    tl.store(target, top, mask=there)


@triton.jit(do_not_specialize=["M", "PARTS"])
def attend_best(
    q, k, v, lengths, index, best, out, H, M, X, PARTS, q_b, q_h, q_x, k_n, k_b, v_n, v_b, o_b, o_h, o_x,
    D: tl.constexpr, SEG: tl.constexpr, BLOCK_S: tl.constexpr, K: tl.constexpr, KEPT: tl.constexpr,
    GROUP: tl.constexpr, RANKS: tl.constexpr, HAS_INDEX: tl.constexpr,
):  # fmt: skip
    """One hypothesis of one sentence and head: the best K of all parts' best, GROUP segments at a time."""
    x, head = tl.program_id(0), tl.program_id(1)
    row, h = head // H, head % H
    cols, slots, members, ranks = tl.arange(0, D), tl.arange(0, BLOCK_S), tl.arange(0, GROUP), tl.arange(0, RANKS)
    length = tl.load(lengths + row).to(tl.int32)
    qt = tl.load(q + row.to(tl.int64) * q_b + h * q_h + x * q_x + cols).to(tl.float32)
    left = tl.load(best + (head.to(tl.int64) * X + x) * PARTS * KEPT + ranks, mask=ranks < PARTS * KEPT, other=LOWEST)
    highest, total = tl.full([1], -1e30, tl.float32), tl.zeros([1], tl.float32)
    output = tl.zeros([D], tl.float32)
    for first in range(0, K, GROUP):
        segments = tl.full([GROUP], -1, tl.int32)
        for member in tl.static_range(GROUP):
            taken = tl.max(left, 0)
            left = tl.where(left == taken, LOWEST, left)
            segments = tl.where((members == member) & (first + member < K), segment_of(taken), segments)
        slot = segments[:, None] * SEG + slots[None, :]
        real = (segments >= 0)[:, None] & (slots < SEG)[None, :] & (slot < length)
        position = slot
        if HAS_INDEX:
            position = tl.load(index + row.to(tl.int64) * M * SEG + slot, mask=real, other=0)
        position = position.to(tl.int64)[:, :, None]
        columns = h * D + cols[None, None, :]
        kt = tl.load(k + row.to(tl.int64) * k_b + position * k_n + columns, mask=real[:, :, None], other=0.0)
        vt = tl.load(v + row.to(tl.int64) * v_b + position * v_n + columns, mask=real[:, :, None], other=0.0)
        scores = tl.where(real, tl.sum(kt.to(tl.float32) * qt[None, None, :], 2), float("-inf"))
        new = tl.maximum(highest, tl.max(tl.max(scores, 1), 0))
        weights = tl.exp(scores - new[:, None])
        shrink = tl.exp(highest - new)
        total = total * shrink + tl.sum(tl.sum(weights, 1), 0)
        output = output * shrink + tl.sum(tl.sum(weights[:, :, None] * vt.to(tl.float32), 1), 0)
        highest = new
    output /= tl.where(total > 0, total, 1.0)
    tl.store(out + row.to(tl.int64) * o_b + h * o_h + x * o_x + cols, output.to(out.dtype.element_ty))
