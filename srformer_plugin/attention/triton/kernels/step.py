"""One decoding step: the hypotheses of a sentence attend to their segment and read their memory state.

One launch in place of some fifteen. Tensors, B sentences, H heads, X hypotheses, m segments of s slots, R states:

    q, out          (B, H, X, D) by strides
    k, v            (B, N, H * D) by strides, the projections of the padded source, and the tables of
                    `tables.StateTables` that say where a segment's tokens are
    states          (B, H, R, D, D) float32, row = key channel
    segments, ranks (B, T), what the position t of the target attends to and reads; `position` (1,) holds t
"""

import triton
import triton.language as tl

from .common import head_gate, segment_tiles


@triton.jit(do_not_specialize=["T", "M", "R"])
def attend_step(
    q, k, v, lengths, index, states, gate, segments, ranks, position, out, H, T, M, R, SEG, X,
    q_b, q_h, q_x, k_n, k_b, v_n, v_b, o_b, o_h, o_x,
    D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_X: tl.constexpr, HAS_INDEX: tl.constexpr, MEMORY: tl.constexpr,
    HAS_GATE: tl.constexpr, DOT: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """BLOCK_X hypotheses of one sentence and head."""
    head, block = tl.program_id(0), tl.program_id(1)
    row, h = head // H, head % H
    t = tl.load(position)
    first = tl.load(segments + row * T + t).to(tl.int32) * SEG
    cols, slots = tl.arange(0, D), tl.arange(0, BLOCK_S)
    x = block * BLOCK_X + tl.arange(0, BLOCK_X)
    there = (x < X)[:, None]
    qt = tl.load(q + row.to(tl.int64) * q_b + h * q_h + x[:, None] * q_x + cols[None, :], mask=there, other=0.0)
    inside = slots < tl.minimum(SEG, tl.load(lengths + row) - first)
    kt, vt = segment_tiles(
        k + h * D, v + h * D, index, row, first, slots, cols, inside, k_n, k_b, v_n, v_b, M * SEG, HAS_INDEX, DOT
    )
    scores = tl.dot(qt.to(DOT), tl.trans(kt), input_precision=PREC)
    scores = tl.where(inside[None, :], scores, float("-inf"))
    # finite, so that a source without a token gives zeros and no NaN
    weights = tl.exp(scores - tl.maximum(tl.max(scores, 1), -1e30)[:, None])
    summed = tl.sum(weights, 1)
    weights /= tl.where(summed > 0, summed, 1.0)[:, None]
    output = tl.dot(weights.to(DOT), vt, input_precision=PREC)
    if MEMORY:
        rank = tl.load(ranks + row * T + t)
        state = tl.load(states + (head.to(tl.int64) * R + rank) * D * D + cols[:, None] * D + cols[None, :])
        recalled = tl.dot(qt.to(tl.float32), state, input_precision="ieee")
        output += recalled * head_gate(gate, h, HAS_GATE)
    target = out + row.to(tl.int64) * o_b + h * o_h + x[:, None] * o_x + cols[None, :]
    tl.store(target, output.to(out.dtype.element_ty), mask=there)
