"""The encoder's self-attention on long, padded sources: each sentence attends to its own tokens, without a mask.

A mask that only hides padding makes PyTorch's fused kernels slower than no mask at all, and they compute the padding as
well. A sentence's tokens are one run of the padded row, a slice, and a slice needs no mask.
"""

from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from ..attention.dropout import current_rate
from ..attention.fused import fused_attention
from ..attention.self_attention import OwnSelfAttention
from ..attention.shared_by_beams import merge_heads, split_heads

LONG_SOURCE = 4096  # padded length from which on the mask costs more than the launches of a call per sentence


class Run(NamedTuple):
    """Neighbouring rows of a batch with their tokens in the same places: tokens start ... start + length - 1."""

    rows: int
    start: int
    length: int


def attend_within_sentences(encoder: nn.Module) -> None:
    """Give every stock self-attention of `encoder` the class `SentenceAttention`.

    After the modules were built: what wraps a layer (checkpointing, FSDP, layer drop), the parameters, their names
    and the name that `--retain-dropout-modules` knows the dropout by stay as fairseq made them.
    """
    for module in encoder.modules():
        if type(module) is MultiheadAttention and module.self_attention:
            module.__class__ = SentenceAttention


class SentenceAttention(OwnSelfAttention):
    """fairseq's self-attention, computed sentence by sentence where a source is long and padded.

    At real positions it is what fairseq computes. At padded ones, which nothing reads, the output projection gets
    zeros.
    """

    def _attend_instead(self, states: Tensor, padding_mask: Tensor | None, attn_mask: Tensor | None) -> Tensor | None:
        if padding_mask is None or attn_mask is not None or states.size(0) < LONG_SOURCE:
            return None
        if not _host_may_read(states):
            return None
        runs = _memo.runs(padding_mask)
        return None if runs is None else self._attend(states, runs)

    def _attend(self, states: Tensor, runs: "list[Run]") -> Tensor:
        """(N, B, C) -> (N, B, C)."""
        projected = [F.linear(states, p.weight, p.bias) for p in (self.q_proj, self.k_proj, self.v_proj)]
        dropout = current_rate(self.dropout_module)
        outputs = []
        for run, *qkv in zip(runs, *(_TakeRuns.apply(runs, x) for x in projected)):
            heads = [split_heads(x, self.num_heads) for x in qkv]
            # padded lengths come again, above all that to which sources are cut; those of sentences hardly do
            output = fused_attention(*heads, dropout=dropout, often=run.length == states.size(0))
            outputs.append(merge_heads(output))
        placed = _PlaceRuns.apply(runs, states.size(0), *outputs)
        # the weights and not the modules, as fairseq takes them: hooks such as quantization noise's do not run
        return F.linear(placed, self.out_proj.weight, self.out_proj.bias)


def _host_may_read(x: Tensor) -> bool:
    """Whether Python may look at what the device computed and choose by it."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" or (x.is_cuda and not torch.cuda.is_current_stream_capturing())


class _TakeRuns(torch.autograd.Function):
    """The tokens of every run, (length, rows, C), as views of (N, B, C).

    Its backward pass fills one tensor. Slices that autograd knows of would make a padded gradient for each.
    """

    @staticmethod
    def forward(ctx, runs, x):
        ctx.runs, ctx.length = runs, x.size(0)
        return tuple(_slices(runs, x))

    @staticmethod
    def backward(ctx, *gradients):
        return None, _PlaceRuns.apply(ctx.runs, ctx.length, *gradients)


class _PlaceRuns(torch.autograd.Function):
    """The inverse of `_TakeRuns`: (N, B, C), zero at padding."""

    @staticmethod
    def forward(ctx, runs, length, *parts):
        ctx.runs = runs
        x = parts[0].new_zeros(length, sum(run.rows for run in runs), parts[0].size(2))
        for place, part in zip(_slices(runs, x), parts):
            place.copy_(part)
        return x

    @staticmethod
    def backward(ctx, gradient):
        return None, None, *_TakeRuns.apply(ctx.runs, gradient)


def _slices(runs, x):
    rows = x.split([run.rows for run in runs], dim=1)
    return [part.narrow(0, run.start, run.length) for run, part in zip(runs, rows)]


class _Memo:
    """The runs of the last mask, so that the layers of an encoder share one copy from the device to the host.

    It keeps that mask: no other tensor can then lie in the same place. A recomputing layer (activation checkpointing)
    comes with another tensor over the same memory, which counts as the same mask. What is written into a mask past
    autograd (`mask.data`, `mask.numpy()`) goes unnoticed; fairseq's encoder makes its mask anew in every pass.
    """

    def __init__(self):
        self._last = None

    def runs(self, mask: Tensor) -> "list[Run] | None":
        """Runs of a padding mask (B, N), True or 1 at padding; None: a row has no tokens, or padding between them."""
        if mask.is_inference():  # has no version
            return _read_runs(mask)
        last = self._last
        if last is None or last[0] != _identity(mask):
            last = self._last = (_identity(mask), _read_runs(mask), mask)
        return last[1]


_memo = _Memo()


def _identity(mask):
    return mask.device, mask.data_ptr(), mask.shape, mask.stride(), mask.dtype, mask._version


def _read_runs(mask):
    """See `_Memo.runs`. One copy to the host."""
    tokens = ~mask.bool()
    before, behind = (x.byte().argmax(dim=1) for x in (tokens, tokens.flip(1)))
    extents = torch.stack((before, behind, tokens.sum(dim=1)), dim=1).tolist()
    # a row of padding alone has 0 of each
    if any(before + behind + count != mask.size(1) for before, behind, count in extents):
        return None
    return [Run(len(list(rows)), start, length) for (start, _, length), rows in groupby(extents)]
