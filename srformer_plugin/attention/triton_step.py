"""Decoding by Triton kernels: the memory states of a source, and one step that reads them (`StaticDecoder`)."""

import torch
from torch import Tensor

from . import torch_ops, triton_ops
from .memory import NoMemory, RAFMemory

if triton_ops.triton is not None:
    import triton
    import triton.language as tl

    from .kernels import step

ROWS = 16  # hypotheses per program: the fewest rows that a matrix product takes
MAX_TILE = 2**16  # bytes of a segment's keys: what fits in shared memory beside its values and a state


def open_source(keys: Tensor, values: Tensor, num_heads: int, layout, plan, memory):
    """`torch_ops.open_source` by the training kernels; by PyTorch operations where they do not apply.

    States that no position of `plan` reads are zeros.
    """
    head_dim = keys.size(2) // num_heads
    # queries that ask for nothing, one per position of the plan: the scan stops at the last state they read
    query = keys.new_zeros(plan.segments.size(2), layout.lengths.size(0), num_heads, head_dim).permute(1, 2, 0, 3)
    if (
        torch.is_grad_enabled()
        or type(memory) is not RAFMemory
        or triton_ops.obstacle(query, keys, values, layout, plan, memory, False) is not None
    ):
        return torch_ops.open_source(keys, values, num_heads, layout, plan, memory)
    split = (layout.split_heads(x, num_heads) for x in (keys, values))
    return *split, triton_ops.memory_states(query, keys, values, layout, plan, memory)


def attend_step(query: Tensor, source: "dict[str, Tensor]", position: Tensor, memory) -> Tensor:
    """`torch_ops.attend_step` in one launch; by PyTorch operations where the kernel does not apply."""
    batch_size, num_heads, hypotheses, head_dim = query.shape
    keys, values, states = source["keys"], source["values"], source.get("memory")
    if (
        not (query.is_cuda or triton_ops.is_interpreted())
        or type(memory) not in (RAFMemory, NoMemory)
        or head_dim not in triton_ops.HEAD_DIMS
        or query.dtype not in triton_ops.DTYPES
        or keys.size(3) * head_dim * keys.element_size() > MAX_TILE
        or query.stride(3) != 1
    ):
        return torch_ops.attend_step(query, source, position, memory)
    # positions outermost, heads side by side: joining the heads then copies nothing
    output = query.new_empty(batch_size, hypotheses, num_heads, head_dim).transpose(1, 2)
    gate, real = getattr(memory, "gate", None), source.get("is_real")
    exact = triton_ops.is_interpreted() or query.dtype == torch.float32
    step.attend_step[(batch_size * num_heads, triton.cdiv(hypotheses, ROWS))](
        query, keys, values, real, states, gate, source["segments"], source["states"], position, output,
        num_heads, source["segments"].size(2), keys.size(2), 0 if states is None else states.size(2), keys.size(3),
        hypotheses, *query.stride()[:3], *output.stride()[:3],
        D=head_dim, BLOCK_S=max(16, triton.next_power_of_2(keys.size(3))), BLOCK_X=ROWS, HAS_REAL=real is not None,
        MEMORY=states is not None, HAS_GATE=gate is not None,
        DOT=tl.float32 if exact else getattr(tl, str(query.dtype).removeprefix("torch.")), PREC="ieee",
    )  # fmt: skip
    return output
