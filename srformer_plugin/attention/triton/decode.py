"""Decoding by Triton kernels: the memory states of a source, and one step that reads them (`StaticDecoder`)."""

import torch
from torch import Tensor

from ..method.memory import RAFMemory
from ..method.runs import query_runs
from ..torch import attend as torch_ops
from . import attend as triton_ops
from .call import arithmetic_of
from .support import obstacle, tell, unusable

if unusable() is None:
    import triton

    from .kernels import step

ROWS = 16  # hypotheses per program: the fewest rows that a matrix product takes
MOST_VISITED = 0.5  # of a source's segments, to keep only the visited ones
MAX_TILE = 2**16  # bytes of a segment's keys: what fits in shared memory beside its values and a state


def open_source(keys: Tensor, values: Tensor, num_heads: int, layout, plan, memory) -> "dict[str, Tensor | None]":
    """`torch_ops.open_source` for `attend_step` below; its own where kernels do not apply.

    Keys and values stay where they are, or, where the positions of `plan` visit a part of a long source, only those of
    visited segments are kept. States that no position of `plan` reads are zeros.
    """
    head_dim = keys.size(2) // num_heads
    # queries that ask for nothing, one per position of the plan: the scan stops at the last state they read
    query = keys.new_zeros(plan.segments.size(2), layout.lengths.size(0), num_heads, head_dim).permute(1, 2, 0, 3)
    reason = obstacle(query, keys, values, layout, plan, memory, False)
    if torch.is_grad_enabled():
        reason = "a source is opened for gradients"
    elif layout.segment_size * head_dim * keys.element_size() > MAX_TILE:
        reason = f"a segment of {layout.segment_size} tokens is too long for a decoding step's kernel"
    if reason is not None:
        tell(reason)
        return torch_ops.open_source(keys, values, num_heads, layout, plan, memory)
    runs, states = query_runs(plan, layout), None
    if isinstance(memory, RAFMemory):
        states = triton_ops.memory_states(query, keys, values, layout, plan, memory)
    source = {"keys": keys.transpose(0, 1), "values": values.transpose(0, 1), "memory": states}
    if plan.num_states > MOST_VISITED * layout.max_segments:
        return {**source, "lengths": runs.lengths, "index": runs.source_index}
    positions, lengths = _visited_slots(layout, plan)
    rows = torch.arange(positions.size(0), device=keys.device).unsqueeze(1)
    for name in ("keys", "values"):
        source[name] = source[name][rows, positions]
    return {**source, "lengths": lengths, "segments": plan.states.squeeze(3)}


def _visited_slots(layout, plan) -> tuple[Tensor, Tensor]:
    """The source positions (B, R * s) of visited segments, one segment after the other, and how many hold a token (B,).

    Tokens come first: only a source's last segment can have empty slots, and it is visited last.
    """
    size, ranks = layout.segment_size, torch.arange(plan.num_states, device=plan.states.device)
    visited = ranks.expand(plan.states.size(0), -1) if plan.visited is None else plan.visited
    positions = (visited.unsqueeze(2) * size + torch.arange(size, device=ranks.device)).flatten(1)
    if layout.source_index is not None:
        positions = layout.source_index.flatten(1).gather(1, positions)
    reached = plan.states[:, 0, -1] + 1  # further states repeat some segment
    is_read = ranks < reached
    tokens = (layout.lengths.unsqueeze(1) - visited * size).clamp(0, size)
    return positions, (tokens * is_read).sum(1).to(torch.int32)


def attend_step(query: Tensor, source: "dict[str, Tensor]", position: Tensor, memory, segment_size: int) -> Tensor:
    """`torch_ops.attend_step` in one launch, of a source that `open_source` left in place."""
    if "lengths" not in source:
        return torch_ops.attend_step(query, source, position, memory, segment_size)
    query = query if query.stride(3) == 1 else query.contiguous()
    batch_size, num_heads, hypotheses, head_dim = query.shape
    keys, values, states, index = (source.get(name) for name in ("keys", "values", "memory", "index"))
    # positions outermost, heads side by side: joining the heads then copies nothing
    output = query.new_empty(batch_size, hypotheses, num_heads, head_dim).transpose(1, 2)
    gate = getattr(memory, "gate", None)
    with triton_ops.on(query.device):
        step.attend_step[(batch_size * num_heads, triton.cdiv(hypotheses, ROWS))](
            query, keys, values, source["lengths"], index, states, gate, source["segments"], source["states"], position,
            output, num_heads, source["segments"].size(2), -(-keys.size(1) // segment_size),
            0 if states is None else states.size(2), segment_size, hypotheses, *query.stride()[:3],
            keys.stride(1), keys.stride(0), values.stride(1), values.stride(0), *output.stride()[:3],
            D=head_dim, BLOCK_S=max(16, triton.next_power_of_2(segment_size)), BLOCK_X=ROWS,
            HAS_INDEX=index is not None, MEMORY=states is not None, HAS_GATE=gate is not None,
            DOT=arithmetic_of(query.dtype)["DOT"], PREC="ieee",
        )  # fmt: skip
    return output
