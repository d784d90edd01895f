"""Who reads a segment: from the choice of every query to a list of readers for every segment, as a counting sort.

Tensors, B sentences, H heads, Q queries, m segments, k choices, `pair` = query * k + place:

    chosen          (B, H, Q, k) int32, -1: no segment
    marks           (B * H, m, words) int32, bit i of word w: query 32 w + i chose the segment
    starts          (B * H, m + 1) int32, where a segment's readers begin in `readers`
    readers         (B * H, Q * k) int32, the pairs sorted by segment and then by query

A query chooses a segment once at most, so that a bit counts it, and a reader's rank among those of its segment is a
count of bits: nothing is added by several programs, and the order is the same every time. The marks take 1/32 of a
float32 number per query and segment.
"""

import triton
import triton.language as tl

WORD = tl.constexpr(32)


@triton.jit
def count_bits(words):
    """How many bits of every int32 are set."""
    x = words.to(tl.uint32, bitcast=True)
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return ((x + (x >> 8) + (x >> 16) + (x >> 24)) & 0x3F).to(tl.int32)


@triton.jit(do_not_specialize=["Q", "M", "WORDS"])
def mark_readers(chosen, marks, starts, Q, M, WORDS, K: tl.constexpr, KEPT: tl.constexpr):
    """Marks and starts of 32 segments of one head: of 32 queries and 32 segments a matrix of bits, turned over."""
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    first, bit, places = block * WORD, tl.arange(0, WORD), tl.arange(0, KEPT)[None, :]
    segments = first + bit
    counts = tl.zeros([WORD], tl.int32)
    before = tl.zeros([WORD], tl.int32)  # pairs of earlier segments
    for word in range(WORDS):
        t = word * WORD + bit
        inside = (t < Q)[:, None] & (places < K)
        segment = tl.load(chosen + (head * Q + t[:, None]) * K + places, mask=inside, other=-1)
        here = (segment >= first) & (segment < first + WORD)
        # different bits: sums are unions
        chosen_here = tl.sum(tl.where(here, tl.full([WORD, KEPT], 1, tl.int32) << ((segment - first) & 31), 0), 1)
        turned = tl.sum(((chosen_here[:, None] >> bit[None, :]) & 1) << bit[:, None], 0)
        tl.store(marks + (head * M + segments) * WORDS + word, turned, mask=segments < M)
        counts += count_bits(turned)
        before += tl.sum(((segment >= 0) & (segment < first)).to(tl.int32), 1)
    ends = tl.sum(before) + tl.cumsum(counts, 0)
    tl.store(starts + head * (M + 1) + segments, ends - counts, mask=segments < M)
    tl.store(starts + head * (M + 1) + segments + 1, ends, mask=segments == M - 1)


@triton.jit(do_not_specialize=["Q", "M", "WORDS"])
def list_readers(
    chosen, marks, starts, readers, Q, M, WORDS, K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_W: tl.constexpr
):
    """Put BLOCK_P pairs of one head to their places."""
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    pair, words = block * BLOCK_P + tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_W)
    segment = tl.load(chosen + head * Q * K + pair, mask=pair < Q * K, other=-1)
    there = segment >= 0
    t = pair // K
    place = tl.load(starts + head * (M + 1) + segment, mask=there, other=0)
    base = marks + (head * M + segment) * WORDS
    own = (1 << (t % WORD)) - 1  # the bits of earlier queries in the word that holds t
    for first in range(0, WORDS, BLOCK_W):
        word = (first + words)[None, :]
        earlier = there[:, None] & (word <= (t // WORD)[:, None])
        bits = tl.load(base[:, None] + word, mask=earlier, other=0)
        bits = tl.where(word == (t // WORD)[:, None], bits & own[:, None], bits)
        place += tl.sum(count_bits(bits), 1)
    tl.store(readers + head * Q * K + place, pair, mask=there)
