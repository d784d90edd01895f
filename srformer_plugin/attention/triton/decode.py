"""Decoding by Triton kernels: the memory states of a source, and one step that reads them (`StaticDecoder`)."""

import torch
import triton
from torch import Tensor

from ..method.memory import RAFMemory
from .attend import memory_states, on
from .call import arithmetic_of
from .kernels import step
from .tables import state_tables

ROWS = 16  # hypotheses per program: the fewest rows that a matrix product takes
MOST_VISITED = 0.5  # of a source's segments, to keep those alone


def open_source(keys: Tensor, values: Tensor, num_heads: int, layout, plan, memory) -> "dict[str, Tensor | None]":
    """As `protocol.Backend.open_source`.

    Keys and values stay where they are, or, where the positions of `plan` visit a part of a long source, only those of
    visited segments are kept. States that no position of `plan` reads are zeros.
    """
    head_dim = keys.size(2) // num_heads
    # queries that ask for nothing, one per position of the plan: the scan stops at the last state they read
    query = keys.new_zeros(plan.segments.size(2), layout.lengths.size(0), num_heads, head_dim).permute(1, 2, 0, 3)
    tables, states = state_tables(plan, layout), None
    if isinstance(memory, RAFMemory):
        states = memory_states(query, keys, values, layout, plan, memory)
    source = {"keys": keys.transpose(0, 1), "values": values.transpose(0, 1), "memory": states}
    if plan.num_states > MOST_VISITED * layout.max_segments:
        return {**source, "lengths": tables.lengths, "index": tables.source_index}
    positions, lengths = _visited_slots(layout, plan)
    rows = torch.arange(positions.size(0), device=keys.device).unsqueeze(1)
    for name in ("keys", "values"):
        source[name] = source[name][rows, positions]
    return {**source, "lengths": lengths, "segments": plan.states.squeeze(3)}


def _visited_slots(layout, plan) -> tuple[Tensor, Tensor]:
    """The source positions (B, R * s) of visited segments, one segment after the other, and how many hold a token (B,).

    Tokens come first: only a source's last segment can have empty slots, and it is visited last.
    """
    size, numbers = layout.segment_size, torch.arange(plan.num_states, device=plan.states.device)
    segments = numbers.expand(plan.states.size(0), -1) if plan.segment_of_state is None else plan.segment_of_state
    positions = (segments.unsqueeze(2) * size + torch.arange(size, device=numbers.device)).flatten(1)
    if layout.source_index is not None:
        positions = layout.source_index.flatten(1).gather(1, positions)
    reached = plan.states[:, 0, -1] + 1  # further states repeat some segment
    is_read = numbers < reached
    tokens = (layout.lengths.unsqueeze(1) - segments * size).clamp(0, size)
    return positions, (tokens * is_read).sum(1).to(torch.int32)


def attend_step(query: Tensor, source: "dict[str, Tensor]", position: Tensor, memory, segment_size: int) -> Tensor:
    """As `protocol.Backend.attend_step`, in one launch."""
    query = query if query.stride(3) == 1 else query.contiguous()
    batch_size, num_heads, hypotheses, head_dim = query.shape
    keys, values, states, index = (source.get(name) for name in ("keys", "values", "memory", "index"))
    # positions outermost, heads side by side: joining the heads then copies nothing
    output = query.new_empty(batch_size, hypotheses, num_heads, head_dim).transpose(1, 2)
    gate = getattr(memory, "gate", None)
    with on(query.device):
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
