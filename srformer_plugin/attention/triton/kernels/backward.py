"""The backward pass: the scan in reverse, then every segment's keys, values and queries, then the parameters.

Three launches. Beside the tensors of forward.py:

    upstream        (B, H, Q, D) by strides, the output's gradient; dq like it
    excess          read from the last state to the first and overwritten by dX, the gradient of the neuron's drive
    total_gradient  (B * H, D, D) float32, of S through phi
    norm_parts      (B * H, blocks, D) float32, a block of rows' share of the gradient of 1 / nu before the gate
    scalar_parts    (B * H * blocks, 2) float32, shares of the gradients of leak and threshold
    weight_parts    (B * H * chunks, D, D) float32, shares of W's gradient

Sums over programs are taken in a fixed order, without atomic operations: gradients are the same every time.
"""

import triton
import triton.language as tl

from .common import clip, dot_exact, head_gate, kept, neuron, pass_clip, readers, segment_tiles, write_segment_tile
from .forward import UNSPECIALISED

UNSPECIALISED = [*UNSPECIALISED, "PARTS", "B"]


@triton.jit(do_not_specialize=UNSPECIALISED)
def scan_backward(
    q, leak, threshold, gate, item_first, item_state, item_count,
    upstream, dq, excess, weight, total, inverse_norm, total_gradient, norm_parts, scalar_parts,
    H, Q, R, ITEMS, bound, q_b, q_h, q_t, u_b, u_h, u_t, o_b, o_h, o_t,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK_Q: tl.constexpr, HAS_GATE: tl.constexpr, CLAMP: tl.constexpr,
    DOT: tl.constexpr, LOW: tl.constexpr, PREC: tl.constexpr, MIN_THRESHOLD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """ROWS key channels of one head: the reading's gradients and the neuron's, from the last item to the first."""
    block, head = tl.program_id(0), tl.program_id(1)
    row, h = head // H, head % H
    lam, theta = neuron(leak, threshold, MIN_THRESHOLD)
    rows, cols = block * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    tile = rows[:, None] * D + cols[None, :]
    scale = tl.load(inverse_norm + head * D + cols) * head_gate(gate, h, HAS_GATE)
    excess_base = excess + head.to(tl.int64) * R * D * D + tile
    q_base = q + row.to(tl.int64) * q_b + h * q_h
    u_base = upstream + row.to(tl.int64) * u_b + h * u_h
    dq_base = dq + row.to(tl.int64) * o_b + h * o_h
    first_base, state_base = item_first + row * (ITEMS + 1), item_state + row * ITEMS
    into_state = tl.zeros([ROWS, D], tl.float32)  # q dO^T summed over the items of a state
    later = tl.zeros([ROWS, D], tl.float32)  # gradient of the next state's charged potential
    drives = tl.zeros([ROWS, D], tl.float32)
    into_norm = tl.zeros([ROWS, D], tl.float32)
    into_leak = tl.zeros([ROWS, D], tl.float32)
    into_threshold = tl.zeros([ROWS, D], tl.float32)
    count = tl.load(item_count + row)
    for turn in tl.range(0, count, num_stages=STAGES):
        item = count - 1 - turn
        state = tl.load(state_base + item)
        t = tl.load(first_base + item) + tl.arange(0, BLOCK_Q)
        there = t < tl.load(first_base + item + 1)
        step = tl.where(item > 0, tl.load(state_base + tl.maximum(item - 1, 0)), -1) != state
        current = tl.load(excess_base + state.to(tl.int64) * D * D).to(tl.float32)
        qt = tl.load(q_base + t[:, None] * q_t + rows[None, :], mask=there[:, None], other=0.0).to(DOT)
        ut = tl.load(u_base + t[:, None] * u_t + cols[None, :], mask=there[:, None], other=0.0).to(DOT)
        emitted = tl.maximum(current, 0.0)
        scaled = (ut.to(tl.float32) * scale[None, :]).to(LOW)
        grad_q = tl.dot(scaled, tl.trans(emitted.to(LOW)), input_precision=PREC)
        tl.store(dq_base + t[:, None] * o_t + rows[None, :], grad_q.to(dq.dtype.element_ty), mask=there[:, None])
        outer = tl.dot(tl.trans(qt), ut, input_precision=PREC)
        into_norm += emitted * outer
        into_state += outer
        fired = current > 0
        through = tl.where(fired, into_state * scale[None, :] / theta, 0.0)
        carried = lam * later
        reset = theta * (current + tl.where(fired, 0.0, 1.0))
        if step:  # faster than masks, measured
            into_threshold -= through * (current + 1) + tl.where(fired, carried, 0.0)
            into_leak += later * reset
            later = through + carried
            stored = later.to(excess.dtype.element_ty)
            drives += stored.to(tl.float32)  # what was stored, since segment_backward takes the difference
            into_state = tl.zeros([ROWS, D], tl.float32)
            tl.store(excess_base + state.to(tl.int64) * D * D, stored)
    w = tl.load(weight + cols[:, None] * D + cols[None, :]).to(LOW)
    own = tl.load(total + head.to(tl.int64) * D * D + tile)
    into_total = pass_clip(dot_exact(drives, w, w, LOW, PREC, False), own, bound, CLAMP)
    tl.store(total_gradient + head.to(tl.int64) * D * D + tile, into_total)
    part = head * (D // ROWS) + block
    tl.store(norm_parts + part * D + cols, tl.sum(into_norm, 0))
    tl.store(scalar_parts + part * 2, tl.sum(into_leak))
    tl.store(scalar_parts + part * 2 + 1, tl.sum(into_threshold))


@triton.jit
def _attend_backward(
    qt, ut, kt, vt, lse_t, delta, dk, dv, head, query, slot, left, seed, Q, width, dropout,
    DROPOUT: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """Add a block of queries' share to this tile's dk and dv; its share of their own gradient comes third."""
    scores = tl.dot(qt, tl.trans(kt), input_precision=PREC)
    weights = tl.where((slot < left)[None, :], tl.exp(scores - lse_t[:, None]), 0.0)
    into_weights = tl.dot(ut, tl.trans(vt), input_precision=PREC)
    dropped = weights
    if DROPOUT:
        keep = kept(seed, head, query, slot, Q, width, dropout)
        dropped = weights * keep
        into_weights *= keep
    into_scores = (weights * (into_weights - delta[:, None])).to(kt.dtype)
    dv += tl.dot(tl.trans(dropped.to(ut.dtype)), ut, input_precision=PREC)
    dk += tl.dot(tl.trans(into_scores), qt, input_precision=PREC)
    return dk, dv, tl.dot(into_scores, kt, input_precision=PREC)


@triton.jit(do_not_specialize=UNSPECIALISED)
def segment_backward(
    q, k, v, weight, lengths, index, state_of, starts, upstream, local, lse, dq, dk, dv,
    excess, total, inverse_norm, total_gradient, norm_parts, weight_parts, gate, seed,
    H, Q, N, R, M, SEG, PER, CHUNKS, bound, dropout,
    q_b, q_h, q_t, k_n, k_b, v_n, v_b, u_b, u_h, u_t, o_b, o_h, o_t, g_n, g_b,
    D: tl.constexpr, BLOCK_N: tl.constexpr, SUBS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCKS: tl.constexpr,
    HAS_INDEX: tl.constexpr, MEMORY: tl.constexpr, CLAMP: tl.constexpr, DROPOUT: tl.constexpr,
    HAS_GATE: tl.constexpr, DOT: tl.constexpr, LOW: tl.constexpr, PREC: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk of PER segments' keys and values, of the queries on them, and the chunk's share of W's.

    Positions of the source that are padding get zeros. `dq` holds the memory's share already.
    """
    chunk, head = tl.program_id(0), tl.program_id(1)
    row, h = head // H, head % H
    cols, rows = tl.arange(0, D), tl.arange(0, BLOCK_N)
    square = cols[:, None] * D + cols[None, :]
    length = tl.load(lengths + row)
    slots, width = M * SEG, SUBS * BLOCK_N
    k_base, v_base, dk_base, dv_base = k + h * D, v + h * D, dk + h * D, dv + h * D
    q_base = q + row.to(tl.int64) * q_b + h * q_h
    u_base = upstream + row.to(tl.int64) * u_b + h * u_h
    o_base = row.to(tl.int64) * o_b + h * o_h
    seed_value = 0
    if DROPOUT:
        seed_value = tl.load(seed)
    if MEMORY:
        into_weight = tl.zeros([D, D], tl.float32)
        # float32: where one segment has most of the sum, the others' share is what is left of a difference
        into_total = tl.load(total_gradient + head.to(tl.int64) * D * D + square)
        clipped = clip(tl.load(total + head.to(tl.int64) * D * D + square), bound, CLAMP).to(LOW)
        w = tl.load(weight + square).to(LOW)
        into_norm = tl.zeros([D], tl.float32)
        for part in range(BLOCKS):
            into_norm += tl.load(norm_parts + (head * BLOCKS + part) * D + cols)
        inverse = tl.load(inverse_norm + head * D + cols)
        # d(1 / nu) / dk = -k / nu^3
        by_norm = -into_norm * head_gate(gate, h, HAS_GATE) * inverse * inverse * inverse
    stop = tl.minimum((chunk + 1) * PER, M)
    state_ahead, begin_ahead, end_ahead = readers(state_of, starts, row, chunk * PER, M, R)
    for j in range(chunk * PER, stop):
        # the next segment and this one's state are asked for before anything is computed
        first = j * SEG
        left = tl.minimum(SEG, length - first)
        state, begin, end = state_ahead, begin_ahead, end_ahead
        state_ahead, begin_ahead, end_ahead = readers(state_of, starts, row, tl.minimum(j + 1, M - 1), M, R)
        if MEMORY:
            drive_tile = excess + (head.to(tl.int64) * R + tl.maximum(state, 0)) * D * D + square
            driven = tl.load(drive_tile, mask=(square >= 0) & (state >= 0), other=0.0).to(LOW)
        valid = rows < left
        kt, vt = segment_tiles(
            k_base, v_base, index, row, first, rows, cols, valid, k_n, k_b, v_n, v_b, slots, HAS_INDEX, DOT
        )
        if left <= 0:
            for sub in range(SUBS):
                at = sub * BLOCK_N + rows
                zero = tl.zeros([BLOCK_N, D], tl.float32)
                write_segment_tile(dk_base, index, row, first, at, cols, zero, SEG, g_n, g_b, slots, N, HAS_INDEX)
                write_segment_tile(dv_base, index, row, first, at, cols, zero, SEG, g_n, g_b, slots, N, HAS_INDEX)
            if not MEMORY:  # the queries of a source without a single token
                for block in range(begin, end, BLOCK_Q):
                    t = block + tl.arange(0, BLOCK_Q)
                    nothing = tl.zeros([BLOCK_Q, D], dq.dtype.element_ty)
                    tl.store(dq + o_base + t[:, None] * o_t + cols[None, :], nothing, mask=(t < end)[:, None])
        else:
            if MEMORY:
                into_product = into_total
                if state >= 0:
                    product = tl.dot(tl.trans(kt), vt, input_precision=EXACT)
                    for sub in range(1, SUBS):
                        at = sub * BLOCK_N + rows
                        valid = at < left
                        ks, vs = segment_tiles(
                            k_base, v_base, index, row, first, at, cols, valid, k_n, k_b, v_n, v_b, slots,
                            HAS_INDEX, DOT,
                        )  # fmt: skip
                        product = tl.dot(tl.trans(ks), vs, product, input_precision=EXACT)
                    others = (clipped - clip(product, bound, CLAMP)).to(LOW)
                    into_weight = tl.dot(tl.trans(driven), others, into_weight, input_precision=PREC)
                    into_others = tl.dot(driven, w, input_precision=PREC)
                    into_product = into_total - pass_clip(into_others, product, bound, CLAMP)
                into_product = into_product.to(LOW)
            for sub in range(SUBS):
                at = sub * BLOCK_N + rows
                if SUBS > 1:
                    valid = at < left
                    kt, vt = segment_tiles(
                        k_base, v_base, index, row, first, at, cols, valid, k_n, k_b, v_n, v_b, slots, HAS_INDEX, DOT
                    )
                if MEMORY:
                    grad_k = tl.dot(vt.to(LOW), tl.trans(into_product), input_precision=PREC)
                    grad_k += kt.to(tl.float32) * by_norm[None, :]
                    grad_v = tl.dot(kt.to(LOW), into_product, input_precision=PREC)
                else:
                    grad_k = tl.zeros([BLOCK_N, D], tl.float32)
                    grad_v = tl.zeros([BLOCK_N, D], tl.float32)
                for block in range(begin, end, BLOCK_Q):
                    t = block + tl.arange(0, BLOCK_Q)
                    there = (t < end)[:, None]
                    qt = tl.load(q_base + t[:, None] * q_t + cols[None, :], mask=there, other=0.0).to(DOT)
                    ut = tl.load(u_base + t[:, None] * u_t + cols[None, :], mask=there, other=0.0).to(DOT)
                    target = o_base + t[:, None] * o_t + cols[None, :]
                    near = tl.load(local + target, mask=there, other=0.0).to(tl.float32)
                    lse_t = tl.load(lse + head.to(tl.int64) * Q + t, mask=t < end, other=0.0)
                    before = tl.zeros([BLOCK_Q, D], tl.float32)
                    if MEMORY or SUBS > 1:
                        written = there & (MEMORY | (sub > 0))
                        before = tl.load(dq + target, mask=written, other=0.0).to(tl.float32)
                    delta = tl.sum(near * ut.to(tl.float32), 1)
                    grad_k, grad_v, grad_q = _attend_backward(
                        qt, ut, kt, vt, lse_t, delta, grad_k, grad_v, head, t, at, left, seed_value, Q, width,
                        dropout, DROPOUT, PREC,
                    )  # fmt: skip
                    tl.store(dq + target, (before + grad_q).to(dq.dtype.element_ty), mask=there)
                if SUBS > 1:  # the next tile reads the dq that this one wrote
                    tl.debug_barrier()
                write_segment_tile(dk_base, index, row, first, at, cols, grad_k, SEG, g_n, g_b, slots, N, HAS_INDEX)
                write_segment_tile(dv_base, index, row, first, at, cols, grad_v, SEG, g_n, g_b, slots, N, HAS_INDEX)
    if MEMORY:
        tl.store(weight_parts + (head.to(tl.int64) * CHUNKS + chunk) * D * D + square, into_weight)


@triton.jit(do_not_specialize=UNSPECIALISED)
def parameter_gradients(
    weight_parts, scalar_parts, norm_parts, inverse_norm, gate, d_weight, d_leak, d_threshold, d_gate,
    B, H, PARTS, CHUNKS,
    D: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, HAS_GATE: tl.constexpr,
):  # fmt: skip
    """Sum the shares: programs 0 ... D * D / COLS - 1 for W, the next for leak and threshold, one a head for gates."""
    pid = tl.program_id(0)
    rows, cols = tl.arange(0, ROWS), tl.arange(0, COLS)
    if pid < D * D // COLS:
        at = pid * COLS + cols
        added = tl.zeros([ROWS, COLS], tl.float32)
        for part in tl.range(0, PARTS, ROWS, num_stages=3):
            mask = (part + rows < PARTS)[:, None]
            pointers = weight_parts + (part + rows).to(tl.int64)[:, None] * D * D + at[None, :]
            added += tl.load(pointers, mask=mask, other=0.0)
        tl.store(d_weight + at, tl.sum(added, 0).to(d_weight.dtype.element_ty))
    elif pid == D * D // COLS:
        into_leak = tl.zeros([ROWS], tl.float32)
        into_threshold = tl.zeros([ROWS], tl.float32)
        for part in range(0, B * H * BLOCKS, ROWS):
            mask = part + rows < B * H * BLOCKS
            into_leak += tl.load(scalar_parts + (part + rows) * 2, mask=mask, other=0.0)
            into_threshold += tl.load(scalar_parts + (part + rows) * 2 + 1, mask=mask, other=0.0)
        tl.store(d_leak, tl.sum(into_leak).to(d_leak.dtype.element_ty))
        tl.store(d_threshold, tl.sum(into_threshold).to(d_threshold.dtype.element_ty))
    elif HAS_GATE:
        h = pid - D * D // COLS - 1
        channels = tl.arange(0, D)
        into_gate = tl.zeros([D], tl.float32)
        for b in range(B):
            head = b * H + h
            inverse = tl.load(inverse_norm + head * D + channels)
            for part in range(BLOCKS):
                into_gate += inverse * tl.load(norm_parts + (head * BLOCKS + part) * D + channels)
        gated = head_gate(gate, h, HAS_GATE)
        tl.store(d_gate + h, (tl.sum(into_gate) * (1 - gated * gated)).to(d_gate.dtype.element_ty))
