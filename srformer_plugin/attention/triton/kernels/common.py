"""What the forward and the backward kernels share: tiles of a segment, exact products, clipping, dropout.

Arithmetic is chosen by constexprs that `call.py` sets by the inputs' dtype:

    DOT    dtype in which tiles of queries, keys, values and output gradients enter a product
    LOW    dtype in which float32 results (states, probabilities, their gradients) enter a product
    PREC   `input_precision` of products of float32 operands whose rounding stays as small as their factors'
    EXACT  `input_precision` of those that decide whether a neuron fires

A neuron that fires on one side of the comparison and not on the other costs a whole gradient entry, so the
potential is kept to about float32's accuracy whatever the inputs' dtype; `dot_exact` is for it.
"""

import triton
import triton.language as tl


@triton.jit
def segment_tile(
    base, index, row, first, rows, cols, valid, stride_n, stride_b, slots, HAS_INDEX: tl.constexpr, DOT: tl.constexpr
):
    """Keys or values of one sentence and head at slots `first + rows`: a (rows, D) tile, zeros where not `valid`.

    `base` points to the head's columns of the projection (N, B, H * D); `index` (B, slots) says at which position
    of the padded source a slot's token is.
    """
    slot = first + rows
    position = slot
    if HAS_INDEX:
        position = tl.load(index + row.to(tl.int64) * slots + slot, mask=valid, other=0)
    pointers = base + position.to(tl.int64)[:, None] * stride_n + row.to(tl.int64) * stride_b + cols[None, :]
    return tl.load(pointers, mask=valid[:, None], other=0.0).to(DOT)


@triton.jit
def segment_tiles(
    k_base, v_base, index, row, first, rows, cols, valid, k_n, k_b, v_n, v_b, slots,
    HAS_INDEX: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Keys and values at the same slots: two tiles of `segment_tile`."""
    keys = segment_tile(k_base, index, row, first, rows, cols, valid, k_n, k_b, slots, HAS_INDEX, DOT)
    return keys, segment_tile(v_base, index, row, first, rows, cols, valid, v_n, v_b, slots, HAS_INDEX, DOT)


@triton.jit
def readers(state_of, starts, row, segment, M, R):
    """The memory state of a segment, -1 for none, and the range of queries that read it (`tables.StateTables`)."""
    state = tl.load(state_of + row * M + segment)
    begin = tl.load(starts + row * (R + 1) + tl.maximum(state, 0))
    end = tl.load(starts + row * (R + 1) + tl.maximum(state, 0) + 1)
    return state, begin, tl.where(state >= 0, end, begin)


@triton.jit
def write_segment_tile(
    base, index, row, first, rows, cols, tile, seg, stride_n, stride_b, slots, source_length, HAS_INDEX: tl.constexpr
):
    """Store a (rows, D) tile where `segment_tile` read it; slots from N on belong to no position."""
    slot = first + rows
    inside = (rows < seg) & (slot < source_length)
    position = slot
    if HAS_INDEX:
        position = tl.load(index + row.to(tl.int64) * slots + slot, mask=inside, other=0)
    pointers = base + position.to(tl.int64)[:, None] * stride_n + row.to(tl.int64) * stride_b + cols[None, :]
    tl.store(pointers, tile.to(base.dtype.element_ty), mask=inside[:, None])


@triton.jit
def dot_exact(a, b_high, b_low, LOW: tl.constexpr, EXACT: tl.constexpr, SPLIT_B: tl.constexpr):
    """a @ (b_high + b_low) for a float32 `a`, to about 16 bits where products are taken in bfloat16."""
    if tl.float32 == LOW:
        return tl.dot(a, b_high, input_precision=EXACT)
    high = a.to(LOW)
    low = (a - high.to(tl.float32)).to(LOW)
    product = tl.dot(high, b_high) + tl.dot(low, b_high)
    if SPLIT_B:
        product += tl.dot(high, b_low)
    return product


@triton.jit
def clip(x, bound, CLAMP: tl.constexpr):
    """phi: clip to [-bound, bound], or the identity."""
    if CLAMP:
        x = tl.minimum(tl.maximum(x, -bound), bound)
    return x


@triton.jit
def pass_clip(gradient, x, bound, CLAMP: tl.constexpr):
    """The gradient through `clip` at `x`."""
    if CLAMP:
        gradient = tl.where((x >= -bound) & (x <= bound), gradient, 0.0)
    return gradient


@triton.jit
def kept(seed, head, query, slot, num_queries, width, dropout):
    """1 / (1 - dropout) where the weight of `query` (rows) on `slot` (columns) is kept, else 0.

    The random numbers depend on the indices alone, so that the backward pass draws the forward pass's.
    """
    offset = (head * num_queries + query[:, None]) * width + slot[None, :]
    return tl.where(tl.rand(seed, offset) >= dropout, 1 / (1 - dropout), 0.0)


@triton.jit
def neuron(leak, threshold, MIN_THRESHOLD: tl.constexpr):
    """Leak and threshold, constrained as in `raf.constrain_leak` and `raf.constrain_threshold`."""
    lam = tl.load(leak).to(tl.float32)
    theta = tl.load(threshold).to(tl.float32)
    return tl.minimum(tl.maximum(lam, 0.0), 1.0), tl.maximum(theta, MIN_THRESHOLD)


@triton.jit
def head_gate(gate, head, HAS_GATE: tl.constexpr):
    """tanh of the head's gate; 1 without gates."""
    if HAS_GATE:
        return 1 - 2 / (tl.exp(2 * tl.load(gate + head).to(tl.float32)) + 1)
    return 1.0
