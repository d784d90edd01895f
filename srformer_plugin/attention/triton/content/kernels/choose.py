"""The mean key of every segment, and the k segments whose means a query likes best.

Tensors, B sentences, H heads, Q queries, m segments of s slots, k choices:

    keys            (N, B, H * D) by strides, the projection of the padded source
    means           (B, H, m, D) float32; zeros for a segment without a token
    q               (B, H, Q, D) by strides
    chosen          (B, H, Q, k) int32, ascending; -1 in the last places where there are fewer than k segments

A score and its segment are one integer of 64 bits, higher for a higher score and, of equals, for the lower segment: the
best of a row is then a maximum, and no two are equal. The best k so far stay in registers; no tensor of all queries by
all segments is written.
"""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-(2**63))
LAST = tl.constexpr(0x7FFFFFFF)


@triton.jit(do_not_specialize=["M"])
def mean_keys(
    keys, means, lengths, index, M, WIDTH, k_n, k_b,
    SEG: tl.constexpr, D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr, HAS_INDEX: tl.constexpr,
):  # fmt: skip
    """BLOCK_C columns of one segment: of one or several heads, which lie side by side."""
    blocks = tl.cdiv(WIDTH, BLOCK_C)
    segment, row = tl.program_id(0) // blocks, tl.program_id(1)
    cols = (tl.program_id(0) % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    slot = tl.arange(0, BLOCK_S)
    left = tl.minimum(SEG, tl.load(lengths + row).to(tl.int32) - segment * SEG)
    real = slot < left
    position = segment * SEG + slot
    if HAS_INDEX:
        position = tl.load(index + row.to(tl.int64) * M * SEG + position, mask=real, other=0)
    pointers = keys + position.to(tl.int64)[:, None] * k_n + row.to(tl.int64) * k_b + cols[None, :]
    tile = tl.load(pointers, mask=real[:, None] & (cols < WIDTH)[None, :], other=0.0)
    mean = tl.sum(tile.to(tl.float32), 0) / tl.maximum(left, 1).to(tl.float32)
    head = row.to(tl.int64) * (WIDTH // D) + cols // D
    tl.store(means + (head * M + segment) * D + cols % D, mean, mask=cols < WIDTH)


@triton.jit
def exact_scores(qt, mean, SPLIT: tl.constexpr, EXACT: tl.constexpr):
    """q . mu to about float32's accuracy: queries (rows, D) of the inputs' dtype, means (columns, D) float32.

    SPLIT: queries are bfloat16, which one part holds exactly; the means are split into three.
    """
    if SPLIT:
        high = mean.to(tl.bfloat16)
        rest = mean - high.to(tl.float32)
        middle = rest.to(tl.bfloat16)
        low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
        scores = tl.dot(qt, tl.trans(low))
        scores = tl.dot(qt, tl.trans(middle), scores)
        return tl.dot(qt, tl.trans(high), scores)
    return tl.dot(qt.to(tl.float32), tl.trans(mean), input_precision=EXACT)


@triton.jit
def rank(scores, segments, there):
    """One integer a score (rows, columns) that orders by score and then by segment; LOWEST where not `there`."""
    bits = tl.where(scores == 0, 0.0, scores).to(tl.int32, bitcast=True)  # -0 and 0 are equals
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    ranked = (ordered.to(tl.int64) << 32) | (segments ^ LAST).to(tl.int64)[None, :]
    return tl.where(there[None, :], ranked, LOWEST)


@triton.jit
def segment_of(ranked):
    """The segment of a `rank`; -1 where nothing was ranked."""
    segment = (ranked & LAST).to(tl.int32) ^ LAST
    return tl.where((ranked >> 32) == LOWEST // 2**32, -1, segment)


@triton.jit
def nothing_ranked(ROWS: tl.constexpr, KEPT: tl.constexpr):
    """The (ROWS, KEPT) best of no segments: below all that is ranked, and no two equal."""
    empty = tl.arange(0, KEPT).to(tl.int64) + (LOWEST + 1)
    return tl.broadcast_to(empty[None, :], [ROWS, KEPT])


@triton.jit
def keep_best(top, ranked, K: tl.constexpr):
    """The best K of `top` (rows, KEPT), in any order, and `ranked` (rows, columns).

    The places from K on of `top` take nothing. As many rounds as the row that changes most has changes.
    """
    usable = (tl.arange(0, top.shape[1]) < K)[None, :]
    lowest = tl.min(tl.where(usable, top, 0x7FFFFFFFFFFFFFFF), 1)
    best = tl.max(ranked, 1)
    while tl.max((best > lowest).to(tl.int32), 0) > 0:
        takes = (top == lowest[:, None]) & (best > lowest)[:, None]
        top = tl.where(takes, best[:, None], top)
        ranked = tl.where(ranked == best[:, None], LOWEST, ranked)
        lowest = tl.min(tl.where(usable, top, 0x7FFFFFFFFFFFFFFF), 1)
        best = tl.max(ranked, 1)
    return top


@triton.jit
def best_segments(
    qt, means_base, first, stop, M, D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_M: tl.constexpr, K: tl.constexpr,
    KEPT: tl.constexpr, SPLIT: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """The ranks (BLOCK_Q, KEPT) of the best K segments from `first` to `stop`, in any order."""
    cols, rows = tl.arange(0, D), tl.arange(0, BLOCK_M)
    top = nothing_ranked(BLOCK_Q, KEPT)
    pointers = means_base + rows[:, None] * D + cols[None, :]
    ahead = tl.load(pointers + first * D, mask=(first + rows < stop)[:, None], other=0.0)
    for block in range(first, stop, BLOCK_M):
        segments = block + rows
        mean = ahead
        following = block + BLOCK_M
        ahead = tl.load(pointers + following * D, mask=(following + rows < stop)[:, None], other=0.0)
        scores = exact_scores(qt, mean, SPLIT, EXACT)
        top = keep_best(top, rank(scores, segments, segments < stop), K)
    return top


@triton.jit
def store_chosen(chosen, top, first, there, K: tl.constexpr, KEPT: tl.constexpr):
    """Write the segments of `top` (rows, KEPT), ascending, as the rows `first` (rows,) of `chosen`; -1 comes last."""
    segments = segment_of(top)
    segments = tl.sort(tl.where(segments < 0, LAST, segments), 1)
    segments = tl.where(segments == LAST, -1, segments)
    place = tl.arange(0, KEPT)[None, :]
    tl.store(chosen + first[:, None] * K + place, segments, mask=there & (place < K))


@triton.jit(do_not_specialize=["Q", "M", "PER", "PARTS"])
def choose_segments(
    q, means, counts, best, chosen, H, Q, M, PER, PARTS, q_b, q_h, q_t,
    D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_M: tl.constexpr, K: tl.constexpr, KEPT: tl.constexpr,
    WHOLE: tl.constexpr, SPLIT: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Of PER segments the best K, for BLOCK_Q queries of one head.

    WHOLE: PER are all segments, and the choice is written; otherwise the ranks go to `best` (B * H, Q, parts, KEPT).
    """
    head, part = tl.program_id(1), tl.program_id(2)
    row, h = head // H, head % H
    t, cols = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q), tl.arange(0, D)
    there = (t < Q)[:, None]
    qt = tl.load(q + row.to(tl.int64) * q_b + h * q_h + t[:, None] * q_t + cols[None, :], mask=there, other=0.0)
    first = part * PER
    stop = tl.minimum(first + PER, tl.load(counts + row).to(tl.int32))
    base = means + head.to(tl.int64) * M * D
    top = best_segments(qt, base, first, stop, M, D, BLOCK_Q, BLOCK_M, K, KEPT, SPLIT, EXACT)
    query = head.to(tl.int64) * Q + t
    if WHOLE:
        store_chosen(chosen, top, query, there, K, KEPT)
    else:
        tl.store(best + (query * PARTS + part)[:, None] * KEPT + tl.arange(0, KEPT)[None, :], top, mask=there)


@triton.jit(do_not_specialize=["QUERIES", "PARTS"])
def pick_segments(
    best, chosen, QUERIES, PARTS, BLOCK_Q: tl.constexpr, RANKS: tl.constexpr, K: tl.constexpr, KEPT: tl.constexpr
):
    """The best K of all parts' best, for BLOCK_Q of the QUERIES of all sentences and heads."""
    query = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    ranks, there = tl.arange(0, RANKS)[None, :], (query < QUERIES)[:, None]
    inside = there & (ranks < PARTS * KEPT)
    ranked = tl.load(best + query[:, None] * PARTS * KEPT + ranks, mask=inside, other=LOWEST)
    store_chosen(chosen, keep_best(nothing_ranked(BLOCK_Q, KEPT), ranked, K), query, there, K, KEPT)
