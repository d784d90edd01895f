"""Segmented recurrent attention by fused Triton kernels, for training on a GPU (`--attention-backend triton`).

Six launches for forward and backward together, no tensor of all targets by all sources, no host synchronisation.
Keys and values are read from the projections as they are: padding is skipped by index, not copied away. Memory beside
inputs and gradients, per sentence and head: m D^2 numbers of the inputs' width (of 4 bytes for fp16) between forward
and backward, and m D^2 float32 during the forward pass. benchmarks/notes_attention.md has the byte counts.

Results are the same every time for the same inputs and seed.
"""

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import cpu_ops
from .memory import MIN_KEY_NORM, RAFMemory
from .raf import MIN_THRESHOLD
from .runs import QueryRuns, query_runs
from .segments import SegmentPlan, SourceLayout
from .triton_support import is_interpreted, obstacle, tell, unusable

if unusable() is None:
    import triton

    from .kernels import backward, forward


def attend_source(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    layout: SourceLayout,
    plan: SegmentPlan,
    memory: torch.nn.Module,
    dropout: float = 0.0,
    need_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`torch_ops.attend_source` by kernels; as `torch` does it where they do not apply, with the reason logged once."""
    reason = obstacle(query, keys, values, layout, plan, memory, need_weights)
    if reason is not None:
        tell(reason)
        return cpu_ops.attend_source(query, keys, values, layout, plan, memory, dropout, need_weights)
    with on(query.device):
        return _attend_fused(query, keys, values, layout, plan, memory, dropout), None


def on(device: torch.device):
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@torch.compiler.disable
def _attend_fused(query, keys, values, layout, plan, memory, dropout) -> Tensor:
    leaves, tables = _arguments(query, keys, values, layout, plan, memory)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in leaves)
    return FusedAttention.apply(*leaves, *tables, dropout, keep)


def _arguments(query, keys, values, layout, plan, memory):
    """The tensors that may have gradients, and what else `_Call` wants to know."""
    query, keys, values = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, keys, values))
    weight = leak = threshold = gate = clamp = None
    if isinstance(memory, RAFMemory):
        weight, leak, threshold, gate = memory.proj.weight, memory.leak, memory.threshold, memory.gate
        clamp = memory.clamp
    sizes = (layout.segment_size, plan.max_segments, plan.num_states)
    return (query, keys, values, weight, leak, threshold, gate), (query_runs(plan, layout), sizes, clamp)


def memory_states(query: Tensor, keys: Tensor, values: Tensor, layout: SourceLayout, plan: SegmentPlan, memory):
    """The states of a `RAFMemory` that `query` reads, (B, H, R, D, D) float32; zeros in others. No gradients."""
    leaves, tables = _arguments(query, keys, values, layout, plan, memory)
    call = _Call(*leaves, *tables, dropout=0.0)
    shape = (call.batch_heads, call.num_states, call.head_dim, call.head_dim)
    excess = torch.zeros(shape, dtype=torch.float32, device=keys.device)
    with on(keys.device):
        *_, inverse_norm = call.forward(None, excess)[1]
    states = excess.relu_().mul_(inverse_norm[:, None, None, :])
    return states.view(call.batch_size, call.num_heads, *shape[1:])


def _arithmetic(dtype: torch.dtype) -> dict:
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


@dataclass
class Launch:
    """How kernels are launched; measured on an H100 (benchmarks/notes_attention.md)."""

    warps: int
    stages: int

    def options(self) -> dict:
        return {"num_warps": self.warps, "num_stages": self.stages}


SEGMENT_FORWARD = Launch(4, 2)
SEGMENT_BACKWARD = Launch(4, 1)
SEGMENT_LARGE = Launch(8, 1)  # at D 128
SCAN_FORWARD = Launch(4, 7)  # stages: steps whose loads are under way
SCAN_BACKWARD = Launch(4, 3)
SCAN_ROWS = 16  # of a state, per program of the backward scan
SCAN_COLUMNS = 32  # and of the forward scan
# Programs that a launch should have at least, and segments of one program at most: a program of many segments has few
# partial sums to write.
MIN_PROGRAMS = {"forward": 1024, "backward": 1024}
MAX_PER_PROGRAM = {"forward": 8, "backward": 8}


def _chunking(kernel: str, batch_heads: int, max_segments: int) -> tuple[int, int]:
    """Segments per program and programs per head."""
    per = max(1, min(MAX_PER_PROGRAM[kernel], batch_heads * max_segments // MIN_PROGRAMS[kernel]))
    return per, -(-max_segments // per)


class FusedAttention(torch.autograd.Function):
    """Local plus recurrent term: `query` (B, H, Q, D), `keys` and `values` (N, B, H * D) -> (B, H, Q, D)."""

    @staticmethod
    def forward(ctx, query, keys, values, weight, leak, threshold, gate, runs, sizes, clamp, dropout, keep):
        call = _Call(query, keys, values, weight, leak, threshold, gate, runs, sizes, clamp, dropout)
        seed = None
        if dropout > 0:
            seed = torch.randint(2**31, (1,), device=query.device, dtype=torch.int64)
        output, saved = call.forward(seed, call.new_excess() if keep else None)
        if keep:
            ctx.call_arguments = (runs, sizes, clamp, dropout)
            ctx.has_run = False
            ctx.save_for_backward(query, keys, values, weight, leak, threshold, gate, seed, *saved)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        query, keys, values, weight, leak, threshold, gate, seed, *saved = ctx.saved_tensors
        call = _Call(query, keys, values, weight, leak, threshold, gate, *ctx.call_arguments)
        if ctx.has_run and weight is not None:  # the first backward pass overwrote the states
            saved = call.forward(seed, call.new_excess())[1]
        ctx.has_run = True
        upstream = upstream if upstream.stride(-1) == 1 else upstream.contiguous()
        return (*call.backward(upstream, seed, saved), None, None, None, None, None)


class _Call:
    """The launches for one set of inputs."""

    def __init__(self, query, keys, values, weight, leak, threshold, gate, runs: QueryRuns, sizes, clamp, dropout):
        self.query, self.keys, self.values = query, keys, values
        self.weight, self.leak, self.threshold, self.gate = weight, leak, threshold, gate
        self.runs = runs
        self.segment_size, self.max_segments, self.num_states = sizes
        self.dropout = dropout
        self.batch_size, self.num_heads, self.num_queries, self.head_dim = query.shape
        self.batch_heads = self.batch_size * self.num_heads
        self.clamp = clamp
        self.arithmetic = _arithmetic(query.dtype)
        large = 32 if query.dtype == torch.float32 and self.head_dim > 64 else 64
        self.block_n = max(16, min(triton.next_power_of_2(self.segment_size), large))
        self.subs = -(-self.segment_size // self.block_n)

    def like_output(self) -> Tensor:
        """(B, H, Q, D) with positions outermost in memory: joining the heads then copies nothing."""
        shape = (self.num_queries, self.batch_size, self.num_heads, self.head_dim)
        return self.query.new_empty(shape).permute(1, 2, 0, 3)

    def float32(self, *shape) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.query.device)

    def _common(self, per: int, chunks: int) -> dict:
        """Arguments of both segment kernels."""
        runs = self.runs
        return {
            "lengths": runs.lengths, "index": runs.source_index, "state_of": runs.state_of_segment,
            "starts": runs.starts, "H": self.num_heads, "Q": self.num_queries, "N": self.keys.size(0),
            "R": self.num_states, "M": self.max_segments, "SEG": self.segment_size, "PER": per,
            "CHUNKS": chunks, "bound": self.clamp or 0.0, "dropout": self.dropout, "D": self.head_dim,
            "BLOCK_N": self.block_n, "SUBS": self.subs, "BLOCK_Q": runs.block,
            "HAS_INDEX": runs.source_index is not None, "MEMORY": self.weight is not None,
            "CLAMP": self.clamp is not None, "DROPOUT": self.dropout > 0, **self.arithmetic,
        }  # fmt: skip

    def _scan(self) -> dict:
        """Arguments of both scan kernels."""
        runs = self.runs
        return {
            "leak": self.leak, "threshold": self.threshold, "gate": self.gate, "item_first": runs.item_first,
            "item_state": runs.item_state, "item_count": runs.item_count, "H": self.num_heads,
            "Q": self.num_queries, "R": self.num_states, "ITEMS": runs.max_items, "D": self.head_dim,
            "BLOCK_Q": runs.block, "HAS_GATE": self.gate is not None, "MIN_THRESHOLD": MIN_THRESHOLD,
            **{name: self.arithmetic[name] for name in ("DOT", "LOW", "PREC")},
        }  # fmt: skip

    def new_excess(self) -> Tensor | None:
        """Where `forward` keeps the states for the backward pass; None without memory."""
        if self.weight is None:
            return None
        shape = (self.batch_heads, self.num_states, self.head_dim, self.head_dim)
        return self.query.new_empty(shape, dtype=_state_dtype(self.query.dtype))

    def forward(self, seed: Tensor | None, excess: Tensor | None) -> tuple[Tensor, tuple]:
        """The output, and what the backward pass needs. The states go to `excess`, if there is one."""
        size, states, head_dim = self.batch_heads, self.num_states, self.head_dim
        per, chunks = _chunking("forward", size, self.max_segments)
        local, lse = self.like_output(), self.float32(size, self.num_queries)
        has_memory = self.weight is not None
        products = sums = squares = None
        if has_memory:
            products = self.float32(size, states, head_dim, head_dim)
            sums = self.float32(size, chunks, head_dim, head_dim)
            squares = self.float32(size, chunks, head_dim)
        split = has_memory and self.weight.dtype != torch.bfloat16
        forward.segment_forward[(chunks, size)](
            self.query, self.keys, self.values, self.weight, products, sums, squares, local, lse,
            seed=seed, SPLIT_W=split, **_strides("q", self.query), **_strides("o", local),
            **_source_strides("k", self.keys), **_source_strides("v", self.values), **self._common(per, chunks),
            **(SEGMENT_FORWARD if head_dim <= 64 else SEGMENT_LARGE).options(),
        )  # fmt: skip
        if not has_memory:
            return local, (local, lse)
        total, drive = (self.float32(size, head_dim, head_dim) for _ in range(2))
        inverse_norm = self.float32(size, head_dim)
        forward.total_products[(head_dim // 16, size)](
            sums, squares, self.weight, total, drive, inverse_norm, chunks, self.clamp or 0.0,
            D=head_dim, ROWS=16, CLAMP=self.clamp is not None, SPLIT_W=split,
            LOW=self.arithmetic["LOW"], EXACT=self.arithmetic["EXACT"], MIN_SQUARE=MIN_KEY_NORM**2,
        )  # fmt: skip
        output = self.like_output()
        columns = min(SCAN_COLUMNS, head_dim)
        forward.scan_forward[(head_dim // columns, size)](
            self.query, products, drive, inverse_norm, local, output, excess, COLS=columns, KEEP=excess is not None,
            STAGES=SCAN_FORWARD.stages, **_strides("q", self.query), **_strides("o", output), **self._scan(),
            **SCAN_FORWARD.options(),
        )  # fmt: skip
        return output, (local, lse, excess, total, inverse_norm)

    def backward(self, upstream: Tensor, seed: Tensor | None, saved) -> tuple:
        """Gradients of query, keys, values, weight, leak, threshold and gate."""
        local, lse, *memory = saved
        per, chunks = _chunking("backward", self.batch_heads, self.max_segments)
        size, head_dim, blocks = self.batch_heads, self.head_dim, self.head_dim // SCAN_ROWS
        has_memory = self.weight is not None
        dq = self.like_output()
        dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (self.keys, self.values))
        total_gradient = norm_parts = weight_parts = None
        excess = total = inverse_norm = None
        if has_memory:
            excess, total, inverse_norm = memory
            total_gradient = self.float32(size, head_dim, head_dim)
            norm_parts = self.float32(size, blocks, head_dim)
            scalar_parts = self.float32(size * blocks, 2)
            weight_parts = self.float32(size * chunks, head_dim, head_dim)
            backward.scan_backward[(blocks, size)](
                self.query, upstream, dq, excess, self.weight, total, inverse_norm, total_gradient, norm_parts,
                scalar_parts, bound=self.clamp or 0.0, CLAMP=self.clamp is not None, ROWS=SCAN_ROWS,
                STAGES=SCAN_BACKWARD.stages,
                **_strides("q", self.query), **_strides("u", upstream), **_strides("o", dq), **self._scan(),
                **SCAN_BACKWARD.options(),
            )  # fmt: skip
        backward.segment_backward[(chunks, size)](
            self.query, self.keys, self.values, self.weight, upstream, local, lse, dq, dk, dv, excess, total,
            inverse_norm, total_gradient, norm_parts, weight_parts, gate=self.gate, seed=seed,
            BLOCKS=blocks, HAS_GATE=self.gate is not None,
            **_strides("q", self.query), **_strides("u", upstream), **_strides("o", dq),
            **_source_strides("k", self.keys), **_source_strides("v", self.values), **_source_strides("g", dk),
            **self._common(per, chunks), **(SEGMENT_BACKWARD if head_dim <= 64 else SEGMENT_LARGE).options(),
        )  # fmt: skip
        if not has_memory:
            return dq, dk, dv, None, None, None, None
        parameters = (self.weight, self.leak, self.threshold, self.gate)
        gradients = [None if p is None else torch.empty_like(p) for p in parameters]
        columns = min(32, head_dim)
        programs = head_dim**2 // columns + 1 + (0 if self.gate is None else self.num_heads)
        backward.parameter_gradients[(programs,)](
            weight_parts, scalar_parts, norm_parts, inverse_norm, self.gate, *gradients,
            self.batch_size, self.num_heads, size * chunks, chunks,
            D=head_dim, BLOCKS=blocks, ROWS=128, COLS=columns, HAS_GATE=self.gate is not None, num_warps=8,
        )  # fmt: skip
        return dq, dk, dv, *gradients


def _strides(name: str, tensor: Tensor) -> dict:
    """Strides of a (B, H, Q, D) tensor as kernel arguments."""
    return {f"{name}_{axis}": tensor.stride(i) for i, axis in enumerate("bht")}


def _source_strides(name: str, tensor: Tensor) -> dict:
    """Strides of a (N, B, H * D) tensor as kernel arguments."""
    return {f"{name}_{axis}": tensor.stride(i) for i, axis in enumerate("nb")}
