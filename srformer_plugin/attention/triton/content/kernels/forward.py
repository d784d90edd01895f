"""The forward pass: every segment attends to its readers, then every query merges what its k segments gave it.

Tensors, B sentences, H heads, Q queries, m segments of s slots, k choices, D channels:

    q, out          (B, H, Q, D) by strides       k, v     (N, B, H * D) by strides, the projections
    starts, readers `readers`: the pairs (query * k + place) that read a segment
    parts           (B * H, Q * k, D) of the inputs' dtype, a pair's softmax over its segment alone, times values
    part_lse        (B * H, Q * k) float32, that softmax's log-sum-exp
    lse             (B * H, Q) float32, the log-sum-exp over all chosen segments

A segment's keys and values are read once, and not at all where nobody reads it.
"""

import triton
import triton.language as tl

from ...kernels.common import kept, segment_tiles

UNSPECIALISED = ["Q", "N", "M"]
NO_TOKEN = tl.constexpr(-1e30)  # the log-sum-exp of nothing; finite, so that a source without a token gives no NaN


@triton.jit(do_not_specialize=UNSPECIALISED)
def attend_segment(
    q, k, v, lengths, index, starts, readers, parts, part_lse, seed, H, Q, M, dropout,
    q_b, q_h, q_t, k_n, k_b, v_n, v_b,
    K: tl.constexpr, SEG: tl.constexpr, D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr,
    HAS_INDEX: tl.constexpr, DROPOUT: tl.constexpr, DOT: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """The readers of one segment of one head, BLOCK_R at a time. Programs of the heads of a segment are neighbours."""
    h, segment, row = tl.program_id(0) % H, tl.program_id(0) // H, tl.program_id(1)
    head = (row * H + h).to(tl.int64)
    begin = tl.load(starts + head * (M + 1) + segment)
    end = tl.load(starts + head * (M + 1) + segment + 1)
    if begin < end:
        cols, slots = tl.arange(0, D), tl.arange(0, BLOCK_S)
        left = tl.minimum(SEG, tl.load(lengths + row).to(tl.int32) - segment * SEG)
        kt, vt = segment_tiles(
            k + h * D, v + h * D, index, row, segment * SEG, slots, cols, slots < left, k_n, k_b, v_n, v_b, M * SEG,
            HAS_INDEX, DOT,
        )  # fmt: skip
        seed_value = 0
        if DROPOUT:
            seed_value = tl.load(seed)
        q_base = q + row.to(tl.int64) * q_b + h * q_h
        pairs = head * Q * K
        for first in range(begin, end, BLOCK_R):
            at = first + tl.arange(0, BLOCK_R)
            there = at < end
            pair = tl.load(readers + pairs + at, mask=there, other=0)
            t = pair // K
            qt = tl.load(q_base + t[:, None] * q_t + cols[None, :], mask=there[:, None], other=0.0).to(DOT)
            scores = tl.dot(qt, tl.trans(kt), input_precision=PREC)
            scores = tl.where((slots < left)[None, :], scores, float("-inf"))
            highest = tl.maximum(tl.max(scores, 1), NO_TOKEN)
            weights = tl.exp(scores - highest[:, None])
            total = tl.sum(weights, 1)
            total = tl.where(total > 0, total, 1.0)
            if DROPOUT:
                weights *= kept(seed_value, row * H + h, pair, slots, Q * K, BLOCK_S, dropout)
            output = tl.dot(weights.to(DOT), vt, input_precision=PREC) / total[:, None]
            target = parts + (pairs + pair)[:, None] * D + cols[None, :]
            tl.store(target, output.to(parts.dtype.element_ty), mask=there[:, None])
            tl.store(part_lse + pairs + pair, highest + tl.log(total), mask=there)


@triton.jit(do_not_specialize=UNSPECIALISED)
def merge_parts(
    chosen, parts, part_lse, out, lse, H, Q, o_b, o_h, o_t,
    K: tl.constexpr, KEPT: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """One softmax from those of the chosen segments, for BLOCK_Q queries of one head; loads of GROUP parts at once."""
    head = tl.program_id(1)
    row, h = head // H, head % H
    t, cols, places = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q), tl.arange(0, D), tl.arange(0, KEPT)
    first = (head.to(tl.int64) * Q + t) * K
    inside = (t < Q)[:, None] & (places < K)[None, :]
    segment = tl.load(chosen + first[:, None] + places[None, :], mask=inside, other=-1)
    own = tl.load(part_lse + first[:, None] + places[None, :], mask=segment >= 0, other=NO_TOKEN)
    highest = tl.max(own, 1)
    weights = tl.where(segment >= 0, tl.exp(own - highest[:, None]), 0.0)
    total = highest + tl.log(tl.maximum(tl.sum(weights, 1), 1.0))  # the highest has weight 1
    output = tl.zeros([BLOCK_Q, D], tl.float32)
    for group in range(0, K, GROUP):
        for member in tl.static_range(GROUP):
            pair = first + group + member
            there = tl.load(chosen + pair, mask=(t < Q) & (group + member < K), other=-1) >= 0
            weight = tl.exp(tl.load(part_lse + pair, mask=there, other=NO_TOKEN) - total)
            part = tl.load(parts + pair[:, None] * D + cols[None, :], mask=there[:, None], other=0.0)
            output += weight[:, None] * part.to(tl.float32)
    tl.store(lse + head.to(tl.int64) * Q + t, total, mask=t < Q)
    target = out + row.to(tl.int64) * o_b + h * o_h + t[:, None] * o_t + cols[None, :]
    tl.store(target, output.to(out.dtype.element_ty), mask=(t < Q)[:, None])
