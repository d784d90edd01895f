"""Segmented recurrent attention on a CPU, for training and scoring: where the loop of `loop.py` is used, and how.

It computes what `torch/attend.py` computes, which stays in use for every call that the loop does not cover. Results are
the same every time for the same inputs, seed and number of threads.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..method.memory import RAFMemory
from ..method.plan import SegmentPlan
from ..method.raf import constrain_leak, constrain_threshold
from ..method.runs import unordered
from ..method.segments import SourceLayout
from ..torch import attend as torch_ops
from .loop import Loop
from .tables import visit_tables

DTYPES = (torch.float32, torch.float64)
FEWEST_NUMBERS = 8192  # of a state for all sentences and heads: for less, the loops are all overhead


def obstacle(
    query: Tensor, keys: Tensor, values: Tensor, layout: SourceLayout, plan: SegmentPlan, memory, need_weights: bool
) -> str | None:
    """Why the loop cannot compute this call; None: it can."""
    if any(x.device.type != "cpu" for x in (query, keys, values)):
        return "tensors are not on the CPU"
    if type(memory) is not RAFMemory:
        return f"the memory is a {type(memory).__name__}"
    if torch.is_autocast_enabled("cpu"):
        return "precision is mixed"
    if query.dtype not in DTYPES or memory.proj.weight.dtype != query.dtype:
        return f"dtypes are {query.dtype} and {memory.proj.weight.dtype}"
    if query.size(0) * query.size(1) * query.size(3) ** 2 < FEWEST_NUMBERS:
        return "states are small"
    if memory.acts_on_values(layout.max_segments * layout.segment_size, plan):
        return "W costs less on the values"
    return unordered(query, keys, values, plan, memory, need_weights)


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
    """`torch_ops.attend_source` by the loop; by `torch_ops` itself where the loop does not apply."""
    if obstacle(query, keys, values, layout, plan, memory, need_weights) is not None:
        return torch_ops.attend_source(query, keys, values, layout, plan, memory, dropout, need_weights)
    return _attend_by_visits(query, keys, values, layout, plan, memory, dropout), None


@torch.compiler.disable
def _attend_by_visits(query, keys, values, layout, plan, memory, dropout) -> Tensor:
    tables = visit_tables(plan, layout, query.size(1))
    gate = query.new_ones(query.size(1)) if memory.gate is None else memory.gate.tanh()
    leak, threshold = constrain_leak(memory.leak), constrain_threshold(memory.threshold)
    noise = None
    if dropout > 0:
        noise = query.new_empty(len(tables.query_rows), layout.segment_size).bernoulli_(1 - dropout).div_(1 - dropout)
    return _Visits.apply(query, keys, values, memory.proj.weight, leak, threshold, gate, noise, tables, memory.clamp)


class _Visits(torch.autograd.Function):
    """Local plus recurrent term: `query` (B, H, Q, D), `keys` and `values` (N, B, H * D) -> (B, H, Q, D).

    `gate` (H,) scales the recurrent term; `noise` (P * B * H, s) multiplies the local weights, None: nothing does.
    """

    @staticmethod
    def forward(ctx, query, keys, values, weight, leak, threshold, gate, noise, tables, clamp):
        loop = Loop(query, keys, values, weight, leak, threshold, gate, noise, tables, clamp)
        output = loop.forward()
        ctx.save_for_backward(query, keys, values, weight, leak, threshold, gate, noise)
        ctx.tables, ctx.clamp, ctx.kept = tables, clamp, loop.kept
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        loop = Loop(*ctx.saved_tensors, ctx.tables, ctx.clamp)
        if ctx.kept is None:  # an earlier backward pass through the same graph wrote over it
            loop.forward()
        else:
            loop.kept, ctx.kept = ctx.kept, None
        return (*loop.backward(upstream), None, None, None)
