"""Segmented recurrent attention by fused Triton kernels, for training on a GPU (`--attention-backend triton`).

Six launches for forward and backward together, no tensor of all targets by all sources, no host synchronisation.
Keys and values are read from the projections as they are: padding is skipped by index, not copied away. Memory beside
inputs and gradients, per sentence and head: m D^2 numbers of the inputs' width (of 4 bytes for fp16) between forward
and backward, and m D^2 float32 during the forward pass. docs/kernels.md has the byte counts.

Results are the same every time for the same inputs and seed.
"""

import contextlib

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..method.memory import RAFMemory
from ..method.plan import SegmentPlan
from ..method.segments import SourceLayout
from .call import Call
from .tables import state_tables


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
    """As `protocol.Backend.attend_source`, where `support.obstacle` has none."""
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
    """The tensors that may have gradients, and what else `Call` wants to know."""
    query, keys, values = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, keys, values))
    weight = leak = threshold = gate = clamp = None
    if isinstance(memory, RAFMemory):
        weight, leak, threshold, gate = memory.proj.weight, memory.leak, memory.threshold, memory.gate
        clamp = memory.clamp
    sizes = (layout.segment_size, plan.max_segments, plan.num_states)
    return (query, keys, values, weight, leak, threshold, gate), (state_tables(plan, layout), sizes, clamp)


def memory_states(query: Tensor, keys: Tensor, values: Tensor, layout: SourceLayout, plan: SegmentPlan, memory):
    """The states of a `RAFMemory` that `query` reads, (B, H, R, D, D) float32; zeros in others. No gradients."""
    leaves, tables = _arguments(query, keys, values, layout, plan, memory)
    call = Call(*leaves, *tables)
    shape = (call.batch_heads, call.num_states, call.head_dim, call.head_dim)
    excess = torch.zeros(shape, dtype=torch.float32, device=keys.device)
    with on(keys.device):
        *_, inverse_norm = call.forward(None, excess)[1]
    states = excess.relu_().mul_(inverse_norm[:, None, None, :])
    return states.view(call.batch_size, call.num_heads, *shape[1:])


class FusedAttention(torch.autograd.Function):
    """Local plus recurrent term: `query` (B, H, Q, D), `keys` and `values` (N, B, H * D) -> (B, H, Q, D)."""

    @staticmethod
    def forward(ctx, query, keys, values, weight, leak, threshold, gate, tables, sizes, clamp, dropout, keep):
        call = Call(query, keys, values, weight, leak, threshold, gate, tables, sizes, clamp, dropout)
        seed = None
        if dropout > 0:
            seed = torch.randint(2**31, (1,), device=query.device, dtype=torch.int64)
        output, saved = call.forward(seed, call.new_excess() if keep else None)
        if keep:
            ctx.call_arguments = (tables, sizes, clamp, dropout)
            ctx.has_run = False
            ctx.save_for_backward(query, keys, values, weight, leak, threshold, gate, seed, *saved)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        query, keys, values, weight, leak, threshold, gate, seed, *saved = ctx.saved_tensors
        call = Call(query, keys, values, weight, leak, threshold, gate, *ctx.call_arguments)
        if ctx.has_run and weight is not None:  # the first backward pass overwrote the states
            saved = call.forward(seed, call.new_excess())[1]
        ctx.has_run = True
        upstream = upstream if upstream.stride(-1) == 1 else upstream.contiguous()
        return (*call.backward(upstream, seed, saved), None, None, None, None, None)
