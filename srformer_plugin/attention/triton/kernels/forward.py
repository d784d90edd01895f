"""The forward pass: products and local attention per segment, their total, and the neuron's scan with the reading.

Three launches. Tensors, B sentences, H heads, Q queries, m segments of s slots, R memory states:

    q, out, local   (B, H, Q, D) by strides       k, v     (N, B, H * D), the projections
    y               (B * H, R, D, D) float32, phi(S_j) W^T of visited segments
    sums, squares   (B * H, chunks, D, D) and (B * H, chunks, D) float32, of a chunk of segments
    excess          (B * H, R, D, D), U' / threshold - 1: whether it fires, what it emits, and its potential

and the tables of `tables.StateTables`.
"""

import triton
import triton.language as tl

from .common import clip, dot_exact, head_gate, kept, neuron, readers, segment_tiles

UNSPECIALISED = ["Q", "N", "R", "M", "PER", "SEG", "CHUNKS", "ITEMS"]


@triton.jit
def _attend_tile(
    qt, kt, vt, highest, total, output, head, query, slot, left, seed, Q, width, dropout,
    DROPOUT: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """One step of the online softmax: the state (highest, total, output) after this tile's keys."""
    scores = tl.dot(qt, tl.trans(kt), input_precision=PREC)
    scores = tl.where((slot < left)[None, :], scores, float("-inf"))
    new = tl.maximum(highest, tl.max(scores, 1))
    weights = tl.exp(scores - new[:, None])
    shrink = tl.exp(highest - new)
    total = total * shrink + tl.sum(weights, 1)
    if DROPOUT:
        weights *= kept(seed, head, query, slot, Q, width, dropout)
    output = output * shrink[:, None] + tl.dot(weights.to(vt.dtype), vt, input_precision=PREC)
    return new, total, output


@triton.jit(do_not_specialize=UNSPECIALISED)
def segment_forward(
    q, k, v, weight, lengths, index, state_of, starts, y, sums, squares, local, lse, seed,
    H, Q, N, R, M, SEG, PER, CHUNKS, bound, dropout,
    q_b, q_h, q_t, k_n, k_b, v_n, v_b, o_b, o_h, o_t,
    D: tl.constexpr, BLOCK_N: tl.constexpr, SUBS: tl.constexpr, BLOCK_Q: tl.constexpr,
    HAS_INDEX: tl.constexpr, MEMORY: tl.constexpr, CLAMP: tl.constexpr, DROPOUT: tl.constexpr,
    SPLIT_W: tl.constexpr, DOT: tl.constexpr, LOW: tl.constexpr, PREC: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Of a chunk of PER segments: y, the chunk's share of the total and of the key norms, and the local attention.

    K and V are read once. Also stored: `lse` (B * H, Q), the softmax's log-sum-exp.
    """
    chunk, head = tl.program_id(0), tl.program_id(1)
    row, h = head // H, head % H
    cols, rows = tl.arange(0, D), tl.arange(0, BLOCK_N)
    length = tl.load(lengths + row)
    slots, width = M * SEG, SUBS * BLOCK_N
    k_base, v_base = k + h * D, v + h * D
    q_base = q + row.to(tl.int64) * q_b + h * q_h
    local_base = local + row.to(tl.int64) * o_b + h * o_h
    seed_value = 0
    if DROPOUT:
        seed_value = tl.load(seed)
    if MEMORY:
        total = tl.zeros([D, D], tl.float32)
        norms = tl.zeros([D], tl.float32)
        w = tl.load(weight + cols[None, :] * D + cols[:, None]).to(tl.float32)  # W^T
        w_high = w.to(LOW)
        w_low = (w - w_high.to(tl.float32)).to(LOW)
    stop = tl.minimum((chunk + 1) * PER, tl.maximum(1, tl.cdiv(length, SEG)))
    ahead = chunk * PER * SEG
    valid = rows < tl.minimum(SEG, length - ahead)
    k_ahead, v_ahead = segment_tiles(
        k_base, v_base, index, row, ahead, rows, cols, valid, k_n, k_b, v_n, v_b, slots, HAS_INDEX, DOT
    )
    state_ahead, begin_ahead, end_ahead = readers(state_of, starts, row, chunk * PER, M, R)
    for j in range(chunk * PER, stop):
        # everything that is read is asked for before anything is computed: the next segment, the first queries
        first = j * SEG
        left = tl.minimum(SEG, length - first)
        kt, vt = k_ahead, v_ahead
        state, begin, end = state_ahead, begin_ahead, end_ahead
        state_ahead, begin_ahead, end_ahead = readers(state_of, starts, row, tl.minimum(j + 1, M - 1), M, R)
        t = begin + tl.arange(0, BLOCK_Q)
        qt = tl.load(q_base + t[:, None] * q_t + cols[None, :], mask=(t < end)[:, None], other=0.0).to(DOT)
        ahead = first + SEG
        valid = rows < tl.where(j + 1 < stop, tl.minimum(SEG, length - ahead), 0)
        k_ahead, v_ahead = segment_tiles(
            k_base, v_base, index, row, ahead, rows, cols, valid, k_n, k_b, v_n, v_b, slots, HAS_INDEX, DOT
        )
        if MEMORY:
            product = tl.dot(tl.trans(kt), vt, input_precision=EXACT)
            norms += tl.sum(kt.to(tl.float32) * kt.to(tl.float32), 0)
            for sub in range(1, SUBS):
                at = sub * BLOCK_N + rows
                ks, vs = segment_tiles(
                    k_base, v_base, index, row, first, at, cols, at < left, k_n, k_b, v_n, v_b, slots, HAS_INDEX, DOT
                )
                product = tl.dot(tl.trans(ks), vs, product, input_precision=EXACT)
                norms += tl.sum(ks.to(tl.float32) * ks.to(tl.float32), 0)
            total += product
            if state >= 0:
                driven = dot_exact(clip(product, bound, CLAMP), w_high, w_low, LOW, EXACT, SPLIT_W)
                y_tile = y + (head.to(tl.int64) * R + state) * D * D + cols[:, None] * D + cols[None, :]
                tl.store(y_tile, driven)
        for block in range(begin, end, BLOCK_Q):
            t = block + tl.arange(0, BLOCK_Q)
            there = t < end
            # finite, so that a segment without a token gives no NaN
            highest = tl.full([BLOCK_Q], -1e30, tl.float32)
            summed = tl.zeros([BLOCK_Q], tl.float32)
            output = tl.zeros([BLOCK_Q, D], tl.float32)
            highest, summed, output = _attend_tile(
                qt, kt, vt, highest, summed, output, head, t, rows, left, seed_value, Q, width, dropout, DROPOUT, PREC
            )
            for sub in range(1, SUBS):
                at = sub * BLOCK_N + rows
                ks, vs = segment_tiles(
                    k_base, v_base, index, row, first, at, cols, at < left, k_n, k_b, v_n, v_b, slots, HAS_INDEX, DOT
                )
                highest, summed, output = _attend_tile(
                    qt, ks, vs, highest, summed, output, head, t, at, left, seed_value, Q, width, dropout, DROPOUT, PREC
                )
            summed = tl.where(summed > 0, summed, 1.0)
            output /= summed[:, None]
            tl.store(lse + head.to(tl.int64) * Q + t, highest + tl.log(summed), mask=there)
            out_tile = local_base + t[:, None] * o_t + cols[None, :]
            tl.store(out_tile, output.to(local.dtype.element_ty), mask=there[:, None])
            t += BLOCK_Q
            qt = tl.load(q_base + t[:, None] * q_t + cols[None, :], mask=(t < end)[:, None], other=0.0).to(DOT)
    if MEMORY:
        part = head.to(tl.int64) * CHUNKS + chunk
        tl.store(sums + part * D * D + cols[:, None] * D + cols[None, :], total)
        tl.store(squares + part * D + cols, norms)


@triton.jit(do_not_specialize=UNSPECIALISED)
def total_products(
    sums, squares, weight, total, drive, inverse_norm, CHUNKS, bound,
    D: tl.constexpr, ROWS: tl.constexpr, CLAMP: tl.constexpr, SPLIT_W: tl.constexpr,
    LOW: tl.constexpr, EXACT: tl.constexpr, MIN_SQUARE: tl.constexpr,
):  # fmt: skip
    """ROWS rows of S, of phi(S) W^T (`drive`), both (B * H, D, D) float32, and of 1 / nu (B * H, D).

    The sum over chunks runs in their order: the same result every time.
    """
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    rows, cols = block * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    w = tl.load(weight + cols[None, :] * D + cols[:, None]).to(tl.float32)  # W^T
    w_high = w.to(LOW)
    w_low = (w - w_high.to(tl.float32)).to(LOW)
    tile = rows[:, None] * D + cols[None, :]
    added = tl.zeros([ROWS, D], tl.float32)
    norms = tl.zeros([ROWS], tl.float32)
    for chunk in range(CHUNKS):
        added += tl.load(sums + (head * CHUNKS + chunk) * D * D + tile)
        norms += tl.load(squares + (head * CHUNKS + chunk) * D + rows)
    tl.store(total + head * D * D + tile, added)
    driven = dot_exact(clip(added, bound, CLAMP), w_high, w_low, LOW, EXACT, SPLIT_W)
    tl.store(drive + head * D * D + tile, driven)
    alive = norms > MIN_SQUARE
    tl.store(inverse_norm + head * D + rows, tl.where(alive, 1 / tl.sqrt(tl.where(alive, norms, 1.0)), 0.0))


@triton.jit(do_not_specialize=UNSPECIALISED)
def scan_forward(
    q, leak, threshold, gate, item_first, item_state, item_count, y, drive, inverse_norm, local, out, excess,
    H, Q, R, ITEMS, q_b, q_h, q_t, o_b, o_h, o_t,
    D: tl.constexpr, COLS: tl.constexpr, BLOCK_Q: tl.constexpr, HAS_GATE: tl.constexpr, KEEP: tl.constexpr,
    DOT: tl.constexpr, LOW: tl.constexpr, PREC: tl.constexpr, MIN_THRESHOLD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """COLS value channels of one head: the neuron over all visited segments, and what their queries read.

    One loop over items, blocks of at most BLOCK_Q queries that read one state: at the first item of a state the
    neuron takes its step. The potential stays in registers. KEEP: store `excess` for the backward pass.
    """
    block, head = tl.program_id(0), tl.program_id(1)
    row, h = head // H, head % H
    lam, theta = neuron(leak, threshold, MIN_THRESHOLD)
    channels, cols = tl.arange(0, D), block * COLS + tl.arange(0, COLS)
    tile = channels[:, None] * D + cols[None, :]
    constant = tl.load(drive + head.to(tl.int64) * D * D + tile)
    scale = tl.load(inverse_norm + head * D + cols) * head_gate(gate, h, HAS_GATE)
    y_base = y + head.to(tl.int64) * R * D * D + tile
    if KEEP:
        excess_base = excess + head.to(tl.int64) * R * D * D + tile
    q_base = q + row.to(tl.int64) * q_b + h * q_h
    o_base = row.to(tl.int64) * o_b + h * o_h
    first_base, state_base = item_first + row * (ITEMS + 1), item_state + row * ITEMS
    potential = tl.zeros([D, COLS], tl.float32)
    current = tl.zeros([D, COLS], tl.float32)
    previous = -1
    for item in tl.range(0, tl.load(item_count + row), num_stages=STAGES):
        state = tl.load(state_base + item)
        t = tl.load(first_base + item) + tl.arange(0, BLOCK_Q)
        there = t < tl.load(first_base + item + 1)
        drive_tile = constant - tl.load(y_base + state.to(tl.int64) * D * D)
        qt = tl.load(q_base + t[:, None] * q_t + channels[None, :], mask=there[:, None], other=0.0).to(DOT)
        target = o_base + t[:, None] * o_t + cols[None, :]
        near = tl.load(local + target, mask=there[:, None], other=0.0).to(tl.float32)
        step = state != previous
        charged = lam * potential + drive_tile
        current = tl.where(step, charged / theta - 1, current)
        potential = tl.where(step, charged - tl.where(current > 0, theta, 0.0), potential)
        if KEEP:
            tl.store(excess_base + state.to(tl.int64) * D * D, current.to(excess.dtype.element_ty))
        recalled = tl.dot(qt.to(LOW), tl.maximum(current, 0.0).to(LOW), input_precision=PREC)
        tl.store(out + target, (near + recalled * scale[None, :]).to(out.dtype.element_ty), mask=there[:, None])
        previous = state
