"""The launches of the fused kernels for one set of inputs: their arguments, their scratch memory, their grids."""

from functools import cached_property

import torch
import triton
from torch import Tensor

from ...triton_here import is_interpreted
from ..method.memory import MIN_KEY_NORM
from ..method.raf import MIN_THRESHOLD
from .kernels import backward, forward
from .launches import Launch, launches, look
from .tables import StateTables


def arithmetic_of(dtype: torch.dtype) -> dict:
    """The constexprs of kernels/common.py."""
    if is_interpreted():  # its products of bfloat16 are wrong
        return {"DOT": _tl(torch.float32), "LOW": _tl(torch.float32), "PREC": "ieee", "EXACT": "ieee"}
    # Operands of float32 are split into three parts of bfloat16: 2^-16 from the three largest products of parts, about
    # float32's own accuracy from six. (tf32x3 lies between them and needs more shared memory than there is at D 128.)
    low = torch.float32 if dtype == torch.float32 else torch.bfloat16
    return {"DOT": _tl(dtype), "LOW": _tl(low), "PREC": "bf16x3", "EXACT": "bf16x6"}


def _tl(dtype: torch.dtype):
    return getattr(triton.language, str(dtype).removeprefix("torch."))


def _state_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which a state is kept for the backward pass: the accuracy of its gradients, with float32's range."""
    return torch.float32 if dtype == torch.float32 else torch.bfloat16


# How kernels are launched; measured on an H100 (docs/kernels.md).
SEGMENT_FORWARD = Launch(4, 2)
SEGMENT_BACKWARD = Launch(4, 1)
SEGMENT_LARGE = Launch(8, 1)  # at D 128
SCAN_FORWARD = Launch(4, 7)  # stages: steps whose loads are under way
SCAN_BACKWARD = Launch(4, 3)
SCAN_ROWS = 16  # of a state, per program of the backward scan
SCAN_COLUMNS = 32  # and of the forward scan
# Programs that a launch of a segment kernel should have at least, and segments of one program at most: a program of
# many segments has few partial sums to write.
MIN_PROGRAMS = 1024
MAX_PER_PROGRAM = 8


def _chunking(batch_heads: int, max_segments: int) -> tuple[int, int]:
    """Segments per program and programs per head."""
    per = max(1, min(MAX_PER_PROGRAM, batch_heads * max_segments // MIN_PROGRAMS))
    return per, -(-max_segments // per)


class Call:
    """The launches for one set of inputs."""

    def __init__(
        self, query, keys, values, weight, leak, threshold, gate, tables: StateTables, sizes, clamp, dropout=0.0
    ):
        self.query, self.keys, self.values = query, keys, values
        self.weight, self.leak, self.threshold, self.gate = weight, leak, threshold, gate
        self.tables = tables
        self.segment_size, self.max_segments, self.num_states = sizes
        self.dropout = dropout
        self.batch_size, self.num_heads, self.num_queries, self.head_dim = query.shape
        self.batch_heads = self.batch_size * self.num_heads
        self.clamp = clamp
        self.key = (*map(look, (query, keys, values, weight, leak, threshold, gate)), tables.key, sizes, clamp, dropout)

    @cached_property
    def arithmetic(self) -> dict:
        return arithmetic_of(self.query.dtype)

    def like_output(self) -> Tensor:
        """(B, H, Q, D) with positions outermost in memory: joining the heads then copies nothing."""
        shape = (self.num_queries, self.batch_size, self.num_heads, self.head_dim)
        return self.query.new_empty(shape).permute(1, 2, 0, 3)

    def float32(self, *shape) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.query.device)

    def _source(self) -> dict:
        """Tensors of both segment kernels."""
        tables = self.tables
        return {
            "q": self.query,
            "k": self.keys,
            "v": self.values,
            "weight": self.weight,
            "lengths": tables.lengths,
            "index": tables.source_index,
            "state_of": tables.state_of_segment,
            "starts": tables.starts,
        }

    def _items(self) -> dict:
        """Tensors of both scan kernels."""
        tables = self.tables
        return {
            "q": self.query,
            "leak": self.leak,
            "threshold": self.threshold,
            "gate": self.gate,
            "item_first": tables.item_first,
            "item_state": tables.item_state,
            "item_count": tables.item_count,
        }

    def _segment_numbers(self, per: int, chunks: int) -> dict:
        """Numbers of both segment kernels."""
        large = 32 if self.query.dtype == torch.float32 and self.head_dim > 64 else 64
        block_n = max(16, min(triton.next_power_of_2(self.segment_size), large))
        return {
            "H": self.num_heads, "Q": self.num_queries, "N": self.keys.size(0), "R": self.num_states,
            "M": self.max_segments, "SEG": self.segment_size, "PER": per, "CHUNKS": chunks,
            "bound": self.clamp or 0.0, "dropout": self.dropout, "D": self.head_dim, "BLOCK_N": block_n,
            "SUBS": -(-self.segment_size // block_n), "BLOCK_Q": self.tables.block,
            "HAS_INDEX": self.tables.source_index is not None, "MEMORY": self.weight is not None,
            "CLAMP": self.clamp is not None, "DROPOUT": self.dropout > 0, **self.arithmetic,
            **_strides("q", self.query), **_source_strides("k", self.keys), **_source_strides("v", self.values),
        }  # fmt: skip

    def _scan_numbers(self) -> dict:
        """Numbers of both scan kernels."""
        return {
            "H": self.num_heads,
            "Q": self.num_queries,
            "R": self.num_states,
            "ITEMS": self.tables.max_items,
            "D": self.head_dim,
            "BLOCK_Q": self.tables.block,
            "HAS_GATE": self.gate is not None,
            "MIN_THRESHOLD": MIN_THRESHOLD,
            **_strides("q", self.query),
            **{name: self.arithmetic[name] for name in ("DOT", "LOW", "PREC")},
        }

    def new_excess(self) -> Tensor | None:
        """Where `forward` keeps the states for the backward pass; None without memory."""
        if self.weight is None:
            return None
        shape = (self.batch_heads, self.num_states, self.head_dim, self.head_dim)
        return self.query.new_empty(shape, dtype=_state_dtype(self.query.dtype))

    def forward(self, seed: Tensor | None, excess: Tensor | None) -> tuple[Tensor, tuple]:
        """The output, and what the backward pass needs. The states go to `excess`, if there is one."""
        launch = launches((self.key, excess is not None and excess.dtype)).launch
        size, states, head_dim = self.batch_heads, self.num_states, self.head_dim
        per, chunks = _chunking(size, self.max_segments)
        local, lse = self.like_output(), self.float32(size, self.num_queries)
        has_memory = self.weight is not None
        products = sums = squares = None
        if has_memory:
            products = self.float32(size, states, head_dim, head_dim)
            sums = self.float32(size, chunks, head_dim, head_dim)
            squares = self.float32(size, chunks, head_dim)
        split = has_memory and self.weight.dtype != torch.bfloat16
        launch(
            forward.segment_forward, (chunks, size),
            {
                **self._source(), "y": products, "sums": sums, "squares": squares, "local": local, "lse": lse,
                "seed": seed,
            },
            lambda: {
                "SPLIT_W": split, **_strides("o", local), **self._segment_numbers(per, chunks),
                **(SEGMENT_FORWARD if head_dim <= 64 else SEGMENT_LARGE).options(),
            },
        )  # fmt: skip
        if not has_memory:
            return local, (local, lse)
        total, drive = (self.float32(size, head_dim, head_dim) for _ in range(2))
        inverse_norm = self.float32(size, head_dim)
        launch(
            forward.total_products, (head_dim // 16, size),
            {
                "sums": sums, "squares": squares, "weight": self.weight, "total": total, "drive": drive,
                "inverse_norm": inverse_norm,
            },
            lambda: {
                "CHUNKS": chunks, "bound": self.clamp or 0.0, "D": head_dim, "ROWS": 16, "SPLIT_W": split,
                "CLAMP": self.clamp is not None, "LOW": self.arithmetic["LOW"], "EXACT": self.arithmetic["EXACT"],
                "MIN_SQUARE": MIN_KEY_NORM**2,
            },
        )  # fmt: skip
        output = self.like_output()
        columns = min(SCAN_COLUMNS, head_dim)
        launch(
            forward.scan_forward, (head_dim // columns, size),
            {
                **self._items(), "y": products, "drive": drive, "inverse_norm": inverse_norm, "local": local,
                "out": output, "excess": excess,
            },
            lambda: {
                "COLS": columns, "KEEP": excess is not None, "STAGES": SCAN_FORWARD.stages, **_strides("o", output),
                **self._scan_numbers(), **SCAN_FORWARD.options(),
            },
        )  # fmt: skip
        return output, (local, lse, excess, total, inverse_norm)

    def backward(self, upstream: Tensor, seed: Tensor | None, saved) -> tuple:
        """Gradients of query, keys, values, weight, leak, threshold and gate."""
        launch = launches((self.key, look(upstream))).launch
        local, lse, *memory = saved
        per, chunks = _chunking(self.batch_heads, self.max_segments)
        size, head_dim, blocks = self.batch_heads, self.head_dim, self.head_dim // SCAN_ROWS
        has_memory = self.weight is not None
        dq = self.like_output()
        if local.stride() != dq.stride():  # hooks of saved tensors may lay them out anew
            local = torch.empty_like(dq).copy_(local)
        dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (self.keys, self.values))
        total_gradient = norm_parts = weight_parts = None
        excess = total = inverse_norm = None
        if has_memory:
            excess, total, inverse_norm = memory
            total_gradient = self.float32(size, head_dim, head_dim)
            norm_parts = self.float32(size, blocks, head_dim)
            scalar_parts = self.float32(size * blocks, 2)
            weight_parts = self.float32(size * chunks, head_dim, head_dim)
            launch(
                backward.scan_backward, (blocks, size),
                {
                    **self._items(), "upstream": upstream, "dq": dq, "excess": excess, "weight": self.weight,
                    "total": total, "inverse_norm": inverse_norm, "total_gradient": total_gradient,
                    "norm_parts": norm_parts, "scalar_parts": scalar_parts,
                },
                lambda: {
                    "bound": self.clamp or 0.0, "CLAMP": self.clamp is not None, "ROWS": SCAN_ROWS,
                    "STAGES": SCAN_BACKWARD.stages, **_strides("u", upstream), **_strides("o", dq),
                    **self._scan_numbers(), **SCAN_BACKWARD.options(),
                },
            )  # fmt: skip
        launch(
            backward.segment_backward, (chunks, size),
            {
                **self._source(), "upstream": upstream, "local": local, "lse": lse, "dq": dq, "dk": dk, "dv": dv,
                "excess": excess, "total": total, "inverse_norm": inverse_norm, "total_gradient": total_gradient,
                "norm_parts": norm_parts, "weight_parts": weight_parts, "gate": self.gate, "seed": seed,
            },
            lambda: {
                "BLOCKS": blocks, "HAS_GATE": self.gate is not None, **_strides("u", upstream), **_strides("o", dq),
                **_source_strides("g", dk), **self._segment_numbers(per, chunks),
                **(SEGMENT_BACKWARD if head_dim <= 64 else SEGMENT_LARGE).options(),
            },
        )  # fmt: skip
        if not has_memory:
            return dq, dk, dv, None, None, None, None
        parameters = (self.weight, self.leak, self.threshold, self.gate)
        gradients = [None if p is None else torch.empty_like(p) for p in parameters]
        columns = min(32, head_dim)
        programs = head_dim**2 // columns + 1 + (0 if self.gate is None else self.num_heads)
        launch(
            backward.parameter_gradients, (programs,),
            {
                "weight_parts": weight_parts, "scalar_parts": scalar_parts, "norm_parts": norm_parts,
                "inverse_norm": inverse_norm, "gate": self.gate,
                **dict(zip(("d_weight", "d_leak", "d_threshold", "d_gate"), gradients)),
            },
            lambda: {
                "B": self.batch_size, "H": self.num_heads, "PARTS": size * chunks, "CHUNKS": chunks, "D": head_dim,
                "BLOCKS": blocks, "ROWS": 128, "COLS": columns, "HAS_GATE": self.gate is not None, "num_warps": 8,
            },
        )  # fmt: skip
        return dq, dk, dv, *gradients


def _strides(name: str, tensor: Tensor) -> dict:
    """Strides of a (B, H, Q, D) tensor as kernel arguments."""
    return {f"{name}_{axis}": tensor.stride(i) for i, axis in enumerate("bht")}


def _source_strides(name: str, tensor: Tensor) -> dict:
    """Strides of a (N, B, H * D) tensor as kernel arguments."""
    return {f"{name}_{axis}": tensor.stride(i) for i, axis in enumerate("nb")}
