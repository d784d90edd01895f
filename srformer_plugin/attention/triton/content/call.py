"""The launches of training's kernels: their arguments, their scratch memory, their grids.

All that depends on how the inputs look alone (`launches.look`) is computed once for calls that look alike.
"""

from collections import defaultdict
from functools import lru_cache

import torch
from torch import Tensor

from ....triton_here import is_interpreted, missing
from ...method.segments import SourceLayout
from ..call import arithmetic_of
from ..launches import MOST_LOOKS, Launch, Launches, Look, look

if missing() is None:
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


once_per_look = lru_cache(maxsize=MOST_LOOKS)  # a class's instances, by the arguments that make them


def strides(name: str, numbers: tuple[int, ...]) -> dict:
    """Strides of a (B, H, Q, D) tensor as kernel arguments."""
    return {f"{name}_{axis}": number for axis, number in zip("bht", numbers)}


def source_strides(name: str, numbers: tuple[int, ...]) -> dict:
    """Strides of a (N, B, H * D) tensor as kernel arguments."""
    return {f"{name}_{axis}": number for axis, number in zip("nb", numbers)}


def num_segments(source_length: int, segment_size: int) -> int:
    """m, `SourceLayout.max_segments`."""
    return max(1, ceil_div(source_length, segment_size))


def cut(count: int, programs: int) -> tuple[int, int]:
    """Segments per part of a source and parts: more than one where there are few programs and many segments."""
    parts = max(1, min(MOST_PARTS, CHOOSE_PROGRAMS // programs, count // LEAST_PART))
    per = ceil_div(ceil_div(count, parts), CHOOSE_SEGMENTS) * CHOOSE_SEGMENTS
    return per, ceil_div(count, per)


@once_per_look
class MeansCall:
    """The launch of `attend.segment_means`."""

    def __init__(self, keys: Look, segment_size: int, num_heads: int, indexed: bool):
        source_length, batch_size, width = keys.shape
        count, head_dim = num_segments(source_length, segment_size), width // num_heads
        rows = power_of_2(segment_size)
        columns = min(max(16, MEAN_TILE // rows), power_of_2(width))
        self.shape, self.device = (batch_size, num_heads, count, head_dim), keys.device
        self.grid, self.launch = (count * ceil_div(width, columns), batch_size), Launches().launch
        self.numbers = {
            "M": count, "WIDTH": width, "SEG": segment_size, "D": head_dim, "BLOCK_S": rows, "BLOCK_C": columns,
            "HAS_INDEX": indexed, **source_strides("k", keys.strides), **MEAN_KEYS.options(),
        }  # fmt: skip

    def __call__(self, keys: Tensor, lengths: Tensor, index: Tensor | None) -> Tensor:
        means = torch.empty(self.shape, dtype=torch.float32, device=self.device)
        tensors = {"keys": keys, "means": means, "lengths": lengths, "index": index}
        self.launch(choosing.mean_keys, self.grid, tensors, lambda: self.numbers)
        return means


@once_per_look
class ChoiceCall:
    """The launches of `attend.choose`, from `count` segments."""

    def __init__(self, query: Look, count: int, k: int):
        batch_size, num_heads, num_queries, head_dim = query.shape
        heads, kept = batch_size * num_heads, kept_places(k)
        block = min(CHOOSE_QUERIES, max(16, power_of_2(num_queries)))
        blocks = ceil_div(num_queries, block)
        per, parts = cut(count, blocks * heads)
        self.device, self.launch = query.device, Launches().launch
        self.shape, self.best_shape = (batch_size, num_heads, num_queries, k), (heads, num_queries, parts, kept)
        self.grid, self.pick_grid = (blocks, heads, parts), (ceil_div(heads * num_queries, PICK_QUERIES),)
        self.has_parts = parts > 1
        self.numbers = {
            "H": num_heads, "Q": num_queries, "M": count, "PER": per, "PARTS": parts, "D": head_dim,
            "BLOCK_Q": block, "BLOCK_M": CHOOSE_SEGMENTS, "K": k, "KEPT": kept, "WHOLE": parts == 1,
            **strides("q", query.strides), **exactness(query.dtype), **CHOOSE.options(),
        }  # fmt: skip
        self.pick_numbers = {
            "QUERIES": heads * num_queries, "PARTS": parts, "BLOCK_Q": PICK_QUERIES,
            "RANKS": power_of_2(parts * kept), "K": k, "KEPT": kept, **PICK.options(),
        }  # fmt: skip

    def __call__(self, query: Tensor, means: Tensor, segment_counts: Tensor) -> Tensor:
        chosen, best = torch.empty(self.shape, dtype=torch.int32, device=self.device), None
        if self.has_parts:
            best = torch.empty(self.best_shape, dtype=torch.int64, device=self.device)
        tensors = {"q": query, "means": means, "counts": segment_counts, "best": best, "chosen": chosen}
        self.launch(choosing.choose_segments, self.grid, tensors, lambda: self.numbers)
        if self.has_parts:
            tensors = {"best": best, "chosen": chosen}
            self.launch(choosing.pick_segments, self.pick_grid, tensors, lambda: self.pick_numbers)
        return chosen


@once_per_look
class ContentCall:
    """The launches of `attend.attend_chosen`."""

    def __init__(self, query: Look, keys: Look, values: Look, segment_size: int, k: int, indexed: bool, dropout: float):
        batch_size, num_heads, num_queries, head_dim = query.shape
        heads, pairs, words = batch_size * num_heads, num_queries * k, ceil_div(num_queries, 32)
        count = num_segments(keys.shape[0], segment_size)
        self.device, self.dtype, self.source_shape = query.device, query.dtype, keys.shape
        self.launch = Launches().launch
        self.gradient_launches: defaultdict[tuple, Launches] = defaultdict(Launches)

        # Positions outermost in memory: joining the heads then copies nothing.
        self.output = query.shape, (num_heads * head_dim, head_dim, batch_size * num_heads * head_dim, 1)
        self.parts, self.part_lse, self.lse = (heads, pairs, head_dim), (heads, pairs), (heads, num_queries)
        self.marks, self.starts, self.listed = (heads, count, words), (heads, count + 1), (heads, pairs)

        self.mark_grid, self.list_grid = (ceil_div(count, 32), heads), (ceil_div(pairs, LIST_PAIRS), heads)
        self.segment_grid = count * num_heads, batch_size
        self.merge_grid = ceil_div(num_queries, MERGE_QUERIES), heads

        sizes = {"Q": num_queries, "M": count, "WORDS": words, "K": k}
        self.mark_numbers = {**sizes, "KEPT": kept_places(k), **MARK_READERS.options()}
        self.list_numbers = {
            **sizes, "BLOCK_P": LIST_PAIRS, "BLOCK_W": min(16, power_of_2(words)), **LIST_READERS.options(),
        }  # fmt: skip
        rows, arithmetic = max(16, power_of_2(segment_size)), arithmetic_of(query.dtype)
        self.most_warps = min(8, rows * head_dim * query.dtype.itemsize // TILE)
        self.segment_numbers = {  # of both segment kernels
            "H": num_heads, "Q": num_queries, "M": count, "dropout": dropout, "K": k, "SEG": segment_size,
            "D": head_dim, "BLOCK_S": rows, "BLOCK_R": READERS, "HAS_INDEX": indexed, "DROPOUT": dropout > 0,
            "DOT": arithmetic["DOT"], "PREC": arithmetic["PREC"], **strides("q", query.strides),
            **source_strides("k", keys.strides), **source_strides("v", values.strides),
        }  # fmt: skip
        self.merge_numbers = {  # of both kernels that go from pairs to queries
            "H": num_heads, "Q": num_queries, "K": k, "GROUP": min(MERGE_GROUP, kept_places(k)), "D": head_dim,
            "BLOCK_Q": MERGE_QUERIES, **strides("o", self.output[1]), **MERGE.options(),
        }  # fmt: skip

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def _like_output(self) -> Tensor:
        return torch.empty_strided(*self.output, dtype=self.dtype, device=self.device)

    def _options(self, launch: Launch) -> dict:
        """Of a segment kernel."""
        return {"num_warps": max(launch.warps, self.most_warps), "num_stages": launch.stages}

    def readers(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """`starts` and `readers` of kernels/readers.py."""
        marks, starts, listed = (self._new(shape, torch.int32) for shape in (self.marks, self.starts, self.listed))
        tensors = {"chosen": chosen, "marks": marks, "starts": starts}
        self.launch(readers.mark_readers, self.mark_grid, tensors, lambda: self.mark_numbers)
        tensors = {"chosen": chosen, "marks": marks, "starts": starts, "readers": listed}
        self.launch(readers.list_readers, self.list_grid, tensors, lambda: self.list_numbers)
        return starts, listed

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, layout: SourceLayout, chosen: Tensor, seed: Tensor | None
    ) -> tuple[Tensor, ...]:
        """The output, and for the backward pass the log-sum-exp of its softmax and who reads which segment."""
        starts, listed = self.readers(chosen)
        parts, part_lse = self._new(self.parts, self.dtype), self._new(self.part_lse, torch.float32)
        self.launch(
            forward.attend_segment, self.segment_grid,
            {
                "q": query, "k": keys, "v": values, "lengths": layout.lengths, "index": layout.source_index,
                "starts": starts, "readers": listed, "parts": parts, "part_lse": part_lse, "seed": seed,
            },
            lambda: {**self.segment_numbers, **self._options(SEGMENT_FORWARD)},
        )  # fmt: skip
        output, lse = self._like_output(), self._new(self.lse, torch.float32)
        self.launch(
            forward.merge_parts, self.merge_grid,
            {"chosen": chosen, "parts": parts, "part_lse": part_lse, "out": output, "lse": lse},
            lambda: {"KEPT": kept_places(self.merge_numbers["K"]), **self.merge_numbers},
        )  # fmt: skip
        return output, lse, starts, listed

    def backward(
        self, upstream: Tensor, query: Tensor, keys: Tensor, values: Tensor, layout: SourceLayout, chosen: Tensor,
        seed: Tensor | None, output: Tensor, lse: Tensor, starts: Tensor, listed: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Gradients of query, keys and values."""
        launch = self.gradient_launches[look(upstream), output.stride()].launch
        dq, dq_parts = self._like_output(), self._new(self.parts, self.dtype)
        dk, dv = (self._new(self.source_shape, self.dtype) for _ in range(2))
        launch(
            backward.segment_gradients, self.segment_grid,
            {
                "q": query, "k": keys, "v": values, "upstream": upstream, "out": output, "lse": lse,
                "dk": dk, "dv": dv, "dq_parts": dq_parts, "lengths": layout.lengths, "index": layout.source_index,
                "starts": starts, "readers": listed, "seed": seed,
            },
            lambda: {
                "N": keys.size(0), **strides("u", upstream.stride()), **strides("o", output.stride()),
                **source_strides("g", dk.stride()), **self.segment_numbers, **self._options(SEGMENT_BACKWARD),
            },
        )  # fmt: skip
        tensors = {"chosen": chosen, "dq_parts": dq_parts, "dq": dq}
        launch(backward.sum_parts, self.merge_grid, tensors, lambda: self.merge_numbers)
        return dq, dk, dv


def segment_means(keys: Tensor, layout: SourceLayout, num_heads: int) -> Tensor:
    """`attend.segment_means` of keys whose last dimension is contiguous."""
    index = layout.source_index
    return MeansCall(look(keys), layout.segment_size, num_heads, index is not None)(keys, layout.lengths, index)


def choose(query: Tensor, means: Tensor, segment_counts: Tensor, k: int) -> Tensor:
    """`attend.choose` of queries whose last dimension is contiguous."""
    return ChoiceCall(look(query), means.size(2), k)(query, means, segment_counts)


def content_call(query: Tensor, keys: Tensor, values: Tensor, layout: SourceLayout, k: int, dropout: float):
    """The `ContentCall` of tensors whose last dimensions are contiguous."""
    indexed = layout.source_index is not None
    return ContentCall(look(query), look(keys), look(values), layout.segment_size, k, indexed, dropout)
