"""The launches of training's kernels: their arguments, their scratch memory, their grids."""

from functools import cached_property

import torch
from torch import Tensor

from ...method.segments import SourceLayout
from ..call import arithmetic_of
from ..launches import Launch, launches, look
from ..support import is_interpreted, unusable

if unusable() is None:
    from .kernels import backward, forward, readers
    from .kernels import choose as choosing

# How kernels are launched (benchmarks/attention_content.py).
MEAN_KEYS = Launch(1, 1)
MEAN_TILE = 2048  # numbers of one program
CHOOSE = Launch(4, 1)
CHOOSE_QUERIES, CHOOSE_SEGMENTS = 64, 64  # of one program, and of one step of it
CHOOSE_PROGRAMS = 396  # for fewer, long sources are cut into parts: three for each multiprocessor of an H100
LEAST_PART, MOST_PARTS = 256, 16  # segments of a part, and parts
PICK = Launch(1, 1)
PICK_QUERIES = 4
MARK_READERS = Launch(1, 1)
LIST_READERS = Launch(4, 1)
LIST_PAIRS = 128
SEGMENT_FORWARD = Launch(1, 1)
SEGMENT_BACKWARD = Launch(2, 1)
READERS = 16  # of a segment at a time: the fewest rows that a matrix product takes
MERGE = Launch(4, 1)
MERGE_QUERIES = 16
MERGE_GROUP = 8  # parts of a query whose loads are under way
TILE = 2048  # bytes of a segment's keys per warp


# Triton's functions of these names are for kernels: on the host one call takes three microseconds.
def ceil_div(number: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-number // divisor)


def power_of_2(number: int) -> int:
    """The smallest power of two that is not below the number."""
    return 1 << (number - 1).bit_length()


def exactness(dtype: torch.dtype) -> dict:
    """The constexprs of `choose.exact_scores`."""
    return {
        "SPLIT": dtype == torch.bfloat16 and not is_interpreted(),  # its products of bfloat16 are wrong
        "EXACT": arithmetic_of(dtype)["EXACT"],
    }


def kept_places(k: int) -> int:
    """KEPT of the kernels: places of a row of registers that holds k choices, a power of two."""
    return max(2, power_of_2(k))


def strides(name: str, tensor: Tensor) -> dict:
    """Strides of a (B, H, Q, D) tensor as kernel arguments."""
    return {f"{name}_{axis}": tensor.stride(i) for i, axis in enumerate("bht")}


def source_strides(name: str, tensor: Tensor) -> dict:
    """Strides of a (N, B, H * D) tensor as kernel arguments."""
    return {f"{name}_n": tensor.stride(0), f"{name}_b": tensor.stride(1)}


def segment_means(keys: Tensor, layout: SourceLayout, num_heads: int) -> Tensor:
    """`attend.segment_means` of keys whose last dimension is contiguous."""
    batch_size, width, size, count = keys.size(1), keys.size(2), layout.segment_size, layout.max_segments
    head_dim = width // num_heads
    means = torch.empty(batch_size, num_heads, count, head_dim, dtype=torch.float32, device=keys.device)
    rows = power_of_2(size)
    columns = min(max(16, MEAN_TILE // rows), power_of_2(width))
    launches(("means", look(keys), size, num_heads, layout.source_index is None)).launch(
        choosing.mean_keys, (count * ceil_div(width, columns), batch_size),
        {"keys": keys, "means": means, "lengths": layout.lengths, "index": layout.source_index},
        lambda: {
            "M": count, "WIDTH": width, "SEG": size, "D": head_dim, "BLOCK_S": rows, "BLOCK_C": columns,
            "HAS_INDEX": layout.source_index is not None, **source_strides("k", keys), **MEAN_KEYS.options(),
        },
    )  # fmt: skip
    return means


def choose(query: Tensor, means: Tensor, segment_counts: Tensor, k: int) -> Tensor:
    """`attend.choose` of queries whose last dimension is contiguous."""
    batch_size, num_heads, num_queries, head_dim = query.shape
    heads, count, kept = batch_size * num_heads, means.size(2), kept_places(k)
    block = min(CHOOSE_QUERIES, max(16, power_of_2(num_queries)))
    blocks = ceil_div(num_queries, block)
    per, parts = cut(count, blocks * heads)
    shape = (batch_size, num_heads, num_queries, k)
    chosen, best = torch.empty(shape, dtype=torch.int32, device=query.device), None
    if parts > 1:
        best = torch.empty((heads, num_queries, parts, kept), dtype=torch.int64, device=query.device)
    launch = launches(("choose", look(query), means.shape, k)).launch
    launch(
        choosing.choose_segments, (blocks, heads, parts),
        {"q": query, "means": means, "counts": segment_counts, "best": best, "chosen": chosen},
        lambda: {
            "H": num_heads, "Q": num_queries, "M": count, "PER": per, "PARTS": parts, "D": head_dim,
            "BLOCK_Q": block, "BLOCK_M": CHOOSE_SEGMENTS, "K": k, "KEPT": kept, "WHOLE": parts == 1,
            **strides("q", query), **exactness(query.dtype), **CHOOSE.options(),
        },
    )  # fmt: skip
    if parts > 1:
        launch(
            choosing.pick_segments,
            (ceil_div(heads * num_queries, PICK_QUERIES),),
            {"best": best, "chosen": chosen},
            lambda: {
                "QUERIES": heads * num_queries,
                "PARTS": parts,
                "BLOCK_Q": PICK_QUERIES,
                "RANKS": power_of_2(parts * kept),
                "K": k,
                "KEPT": kept,
                **PICK.options(),
            },
        )
    return chosen


def cut(count: int, programs: int) -> tuple[int, int]:
    """Segments per part of a source and parts: more than one where there are few programs and many segments."""
    parts = max(1, min(MOST_PARTS, CHOOSE_PROGRAMS // programs, count // LEAST_PART))
    per = ceil_div(ceil_div(count, parts), CHOOSE_SEGMENTS) * CHOOSE_SEGMENTS
    return per, ceil_div(count, per)


class ContentCall:
    """The launches for one set of inputs; arguments as `attend.attend_chosen`'s, last dimensions contiguous."""

    def __init__(self, query: Tensor, keys: Tensor, values: Tensor, layout: SourceLayout, chosen: Tensor, dropout):
        self.query, self.keys, self.values, self.chosen = query, keys, values, chosen
        self.lengths, self.index, self.dropout = layout.lengths, layout.source_index, dropout
        self.segment_size, self.max_segments, self.k = layout.segment_size, layout.max_segments, chosen.size(3)
        self.batch_size, self.num_heads, self.num_queries, self.head_dim = query.shape
        self.batch_heads, self.pairs = self.batch_size * self.num_heads, self.num_queries * self.k
        indexed = self.index is not None
        self.key = (look(query), look(keys), look(values), self.segment_size, self.k, indexed, dropout)

    @cached_property
    def arithmetic(self) -> dict:
        return {name: value for name, value in arithmetic_of(self.query.dtype).items() if name in ("DOT", "PREC")}

    def like_output(self) -> Tensor:
        """(B, H, Q, D) with positions outermost in memory: joining the heads then copies nothing."""
        shape = (self.num_queries, self.batch_size, self.num_heads, self.head_dim)
        return self.query.new_empty(shape).permute(1, 2, 0, 3)

    def _new(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.query.device)

    def _parts(self) -> Tensor:
        return self._new(self.batch_heads, self.pairs, self.head_dim, dtype=self.query.dtype)

    def _segment_grid(self) -> tuple[int, int]:
        return self.max_segments * self.num_heads, self.batch_size

    def _merge_grid(self) -> tuple[int, int]:
        return ceil_div(self.num_queries, MERGE_QUERIES), self.batch_heads

    def _segment_numbers(self, launch: Launch) -> dict:
        """Numbers of both segment kernels."""
        rows = max(16, power_of_2(self.segment_size))
        warps = max(launch.warps, min(8, rows * self.head_dim * self.query.itemsize // TILE))
        return {
            "H": self.num_heads, "Q": self.num_queries, "M": self.max_segments, "dropout": self.dropout, "K": self.k,
            "SEG": self.segment_size, "D": self.head_dim, "BLOCK_S": rows, "BLOCK_R": READERS,
            "HAS_INDEX": self.index is not None, "DROPOUT": self.dropout > 0, **self.arithmetic,
            **strides("q", self.query), **source_strides("k", self.keys), **source_strides("v", self.values),
            "num_warps": warps, "num_stages": launch.stages,
        }  # fmt: skip

    def _merge_numbers(self) -> dict:
        """Numbers of both kernels that go from pairs to queries."""
        return {
            "H": self.num_heads,
            "Q": self.num_queries,
            "K": self.k,
            "GROUP": min(MERGE_GROUP, kept_places(self.k)),
            "D": self.head_dim,
            "BLOCK_Q": MERGE_QUERIES,
            **MERGE.options(),
        }

    def readers(self) -> tuple[Tensor, Tensor]:
        """`starts` and `readers` of kernels/readers.py."""
        launch = launches(("readers", self.chosen.shape, self.max_segments)).launch
        words = ceil_div(self.num_queries, 32)
        marks = self._new(self.batch_heads, self.max_segments, words, dtype=torch.int32)
        starts = self._new(self.batch_heads, self.max_segments + 1, dtype=torch.int32)
        listed = self._new(self.batch_heads, self.pairs, dtype=torch.int32)
        sizes = {"Q": self.num_queries, "M": self.max_segments, "WORDS": words, "K": self.k}
        launch(
            readers.mark_readers,
            (ceil_div(self.max_segments, 32), self.batch_heads),
            {"chosen": self.chosen, "marks": marks, "starts": starts},
            lambda: {**sizes, "KEPT": kept_places(self.k), **MARK_READERS.options()},
        )
        launch(
            readers.list_readers,
            (ceil_div(self.pairs, LIST_PAIRS), self.batch_heads),
            {"chosen": self.chosen, "marks": marks, "starts": starts, "readers": listed},
            lambda: {
                **sizes,
                "BLOCK_P": LIST_PAIRS,
                "BLOCK_W": min(16, power_of_2(words)),
                **LIST_READERS.options(),
            },
        )
        return starts, listed

    def forward(self, seed: Tensor | None) -> tuple[Tensor, ...]:
        """The output, and for the backward pass the log-sum-exp of its softmax and who reads which segment."""
        starts, listed = self.readers()
        launch = launches(self.key).launch
        parts, part_lse = self._parts(), self._new(self.batch_heads, self.pairs, dtype=torch.float32)
        launch(
            forward.attend_segment, self._segment_grid(),
            {
                "q": self.query, "k": self.keys, "v": self.values, "lengths": self.lengths, "index": self.index,
                "starts": starts, "readers": listed, "parts": parts, "part_lse": part_lse, "seed": seed,
            },
            lambda: self._segment_numbers(SEGMENT_FORWARD),
        )  # fmt: skip
        output, lse = self.like_output(), self._new(self.batch_heads, self.num_queries, dtype=torch.float32)
        launch(
            forward.merge_parts,
            self._merge_grid(),
            {"chosen": self.chosen, "parts": parts, "part_lse": part_lse, "out": output, "lse": lse},
            lambda: {
                "KEPT": kept_places(self.k),
                **strides("o", output),
                **self._merge_numbers(),
            },
        )
        return output, lse, starts, listed

    def backward(self, upstream: Tensor, seed: Tensor | None, output, lse, starts, listed) -> tuple[Tensor, ...]:
        """Gradients of query, keys and values."""
        launch = launches((self.key, look(upstream), output.stride())).launch
        dq, dq_parts = self.like_output(), self._parts()
        dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (self.keys, self.values))
        launch(
            backward.segment_gradients, self._segment_grid(),
            {
                "q": self.query, "k": self.keys, "v": self.values, "upstream": upstream, "out": output, "lse": lse,
                "dk": dk, "dv": dv, "dq_parts": dq_parts, "lengths": self.lengths, "index": self.index,
                "starts": starts, "readers": listed, "seed": seed,
            },
            lambda: {
                "N": self.keys.size(0), **strides("u", upstream), **strides("o", output), **source_strides("g", dk),
                **self._segment_numbers(SEGMENT_BACKWARD),
            },
        )  # fmt: skip
        launch(
            backward.sum_parts,
            self._merge_grid(),
            {"chosen": self.chosen, "dq_parts": dq_parts, "dq": dq},
            lambda: {**strides("o", dq), **self._merge_numbers()},
        )
        return dq, dk, dv
