"""The backward pass: every segment's keys and values from its readers, then every query from its k segments.

Beside the tensors of forward.py:

    upstream        (B, H, Q, D) by strides, the output's gradient; dq by strides as well
    dq_parts        (B * H, Q * k, D) of the inputs' dtype, a pair's share of its query's gradient
    dk, dv          (N, B, H * D) by strides; zeros at padding and where nobody reads

A segment's gradients are complete in its program, a query's are summed in the order of its choices: no atomic
operations, the same bits every time.
"""

import triton
import triton.language as tl

from ...kernels.common import kept, segment_tiles, write_segment_tile
from .forward import UNSPECIALISED


@triton.jit(do_not_specialize=UNSPECIALISED)
def segment_gradients(
    q, k, v, upstream, out, lse, dk, dv, dq_parts, lengths, index, starts, readers, seed, H, Q, N, M, dropout,
    q_b, q_h, q_t, k_n, k_b, v_n, v_b, u_b, u_h, u_t, o_b, o_h, o_t, g_n, g_b,
    K: tl.constexpr, SEG: tl.constexpr, D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr,
    HAS_INDEX: tl.constexpr, DROPOUT: tl.constexpr, DOT: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """One segment of one head, BLOCK_R readers at a time. Programs of the heads of a segment are neighbours."""
    h, segment, row = tl.program_id(0) % H, tl.program_id(0) // H, tl.program_id(1)
    head = (row * H + h).to(tl.int64)
    cols, slots = tl.arange(0, D), tl.arange(0, BLOCK_S)
    begin = tl.load(starts + head * (M + 1) + segment)
    end = tl.load(starts + head * (M + 1) + segment + 1)
    left = tl.minimum(SEG, tl.load(lengths + row).to(tl.int32) - segment * SEG)
    grad_k = tl.zeros([BLOCK_S, D], tl.float32)
    grad_v = tl.zeros([BLOCK_S, D], tl.float32)
    if begin < end:
        kt, vt = segment_tiles(
            k + h * D, v + h * D, index, row, segment * SEG, slots, cols, slots < left, k_n, k_b, v_n, v_b, M * SEG,
            HAS_INDEX, DOT,
        )  # fmt: skip
        seed_value = 0
        if DROPOUT:
            seed_value = tl.load(seed)
        q_base = q + row.to(tl.int64) * q_b + h * q_h
        u_base = upstream + row.to(tl.int64) * u_b + h * u_h
        o_base = out + row.to(tl.int64) * o_b + h * o_h
        pairs = head * Q * K
        for first in range(begin, end, BLOCK_R):
            at = first + tl.arange(0, BLOCK_R)
            there = at < end
            rows = there[:, None]
            pair = tl.load(readers + pairs + at, mask=there, other=0)
            t = pair // K
            qt = tl.load(q_base + t[:, None] * q_t + cols[None, :], mask=rows, other=0.0).to(DOT)
            ut = tl.load(u_base + t[:, None] * u_t + cols[None, :], mask=rows, other=0.0).to(DOT)
            result = tl.load(o_base + t[:, None] * o_t + cols[None, :], mask=rows, other=0.0).to(tl.float32)
            total = tl.load(lse + head * Q + t, mask=there, other=0.0)
            delta = tl.sum(result * ut.to(tl.float32), 1)
            scores = tl.dot(qt, tl.trans(kt), input_precision=PREC)
            weights = tl.exp(tl.where(rows & (slots < left)[None, :], scores - total[:, None], float("-inf")))
            into_weights = tl.dot(ut, tl.trans(vt), input_precision=PREC)
            dropped = weights
            if DROPOUT:
                keep = kept(seed_value, row * H + h, pair, slots, Q * K, BLOCK_S, dropout)
                dropped = weights * keep
                into_weights *= keep
            into_scores = (weights * (into_weights - delta[:, None])).to(DOT)
            grad_v += tl.dot(tl.trans(dropped.to(DOT)), ut, input_precision=PREC)
            grad_k += tl.dot(tl.trans(into_scores), qt, input_precision=PREC)
            grad_q = tl.dot(into_scores, kt, input_precision=PREC)
            target = dq_parts + (pairs + pair)[:, None] * D + cols[None, :]
            tl.store(target, grad_q.to(dq_parts.dtype.element_ty), mask=rows)
    first_slot = segment * SEG
    write_segment_tile(dk + h * D, index, row, first_slot, slots, cols, grad_k, SEG, g_n, g_b, M * SEG, N, HAS_INDEX)
    write_segment_tile(dv + h * D, index, row, first_slot, slots, cols, grad_v, SEG, g_n, g_b, M * SEG, N, HAS_INDEX)


@triton.jit(do_not_specialize=UNSPECIALISED)
def sum_parts(
    chosen, dq_parts, dq, H, Q, o_b, o_h, o_t,
    K: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """The gradients of BLOCK_Q queries of one head; loads of GROUP parts at once."""
    head = tl.program_id(1)
    row, h = head // H, head % H
    t, cols = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q), tl.arange(0, D)
    first = (head.to(tl.int64) * Q + t) * K
    added = tl.zeros([BLOCK_Q, D], tl.float32)
    for group in range(0, K, GROUP):
        for member in tl.static_range(GROUP):
            pair = first + group + member
            there = tl.load(chosen + pair, mask=(t < Q) & (group + member < K), other=-1) >= 0
            part = tl.load(dq_parts + pair[:, None] * D + cols[None, :], mask=there[:, None], other=0.0)
            added += part.to(tl.float32)
    target = dq + row.to(tl.int64) * o_b + h * o_h + t[:, None] * o_t + cols[None, :]
    tl.store(target, added.to(dq.dtype.element_ty), mask=(t < Q)[:, None])
