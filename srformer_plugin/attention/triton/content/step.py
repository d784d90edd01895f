"""One decoding step of attention to segments chosen by content."""

import torch
from torch import Tensor

from ....triton_here import missing
from ..attend import on
from ..launches import Launch
from .attend import with_contiguous_rows
from .call import ceil_div, exactness, kept_places, power_of_2

if missing() is None:
    from .kernels import step

# How kernels are launched (benchmarks/attention_content.py).
RANK = Launch(4, 1)
RANK_SEGMENTS = 64  # of one step of a program
RANK_PART = 64  # of one program; more where a source has more than MOST_PARTS of them
MOST_PARTS = 32
HYPOTHESES = 16  # of one program: the fewest rows that a matrix product takes
ATTEND = Launch(2, 1)
TILE = 8192  # entries of keys that a program reads at a time


def attend_step_chosen(query: Tensor, keys: Tensor, values: Tensor, means: Tensor, layout, k: int) -> Tensor:
    """One position of every hypothesis: chooses segments and attends to them, as `choose` and `attend_chosen` do.

    Two launches of fixed shapes without host synchronisation: a CUDA graph can hold them. Hypotheses of a sentence
    share keys, values and means, and choose apart. No gradients.

    Args:
        query: (B, H, x, D), scaled; x hypotheses per sentence.
        keys, values: (B, N, H * D) by any strides (a projection with its first dimensions exchanged).
        means: (B, H, m, D) float32, of `segment_means`.
        layout: where the segments are; `lengths`, `segment_counts` and `source_index` are read.
        k: segments per query, 1 to 32.
    Returns:
        (B, H, x, D).
    """
    query, keys, values = map(with_contiguous_rows, (query, keys, values))
    batch_size, num_heads, hypotheses, head_dim = query.shape
    heads, max_segments, size = batch_size * num_heads, means.size(2), layout.segment_size
    per = RANK_PART * max(1, ceil_div(max_segments, RANK_PART * MOST_PARTS))
    parts, kept = ceil_div(max_segments, per), kept_places(k)
    best = torch.empty(heads, hypotheses, parts, kept, dtype=torch.int64, device=query.device)
    # positions outermost, heads side by side: joining the heads then copies nothing
    output = query.new_empty(batch_size, hypotheses, num_heads, head_dim).transpose(1, 2)
    slots = power_of_2(size)
    group = max(1, min(kept, TILE // (slots * head_dim)))
    with on(query.device):
        step.rank_segments[(parts, heads, ceil_div(hypotheses, HYPOTHESES))](
            query, means, layout.segment_counts, best, num_heads, max_segments, hypotheses, parts, *query.stride()[:3],
            D=head_dim, BLOCK_X=HYPOTHESES, PER=per, BLOCK_M=min(RANK_SEGMENTS, per), K=k, KEPT=kept,
            **exactness(query.dtype), **RANK.options(),
        )  # fmt: skip
        step.attend_best[(hypotheses, heads)](
            query, keys, values, layout.lengths, layout.source_index, best, output, num_heads, max_segments,
            hypotheses, parts, *query.stride()[:3], keys.stride(1), keys.stride(0), values.stride(1), values.stride(0),
            *output.stride()[:3], D=head_dim, SEG=size, BLOCK_S=slots, K=k, KEPT=kept, GROUP=group,
            RANKS=power_of_2(parts * kept), HAS_INDEX=layout.source_index is not None, **ATTEND.options(),
        )  # fmt: skip
    return output
