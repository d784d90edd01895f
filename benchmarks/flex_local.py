"""FlexAttention as a peer: the local part of segmented attention (one segment per position), without the memory.

It does less than an SRformer, which also has the recurrent term: a bound for attention to one segment with a block
mask, not another implementation of the method. Blocks are PyTorch's own, 128 targets x 128 sources (its backward pass
takes no smaller ones unless it tunes itself); a block that holds one position of a segment is computed whole.
"""

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from srformer_plugin.attention.method.memory import NoMemory
from srformer_plugin.attention.torch import attend as torch_ops

NAME = "flex local part only"


def local_part(inputs, compiled=True, backward=True):
    """(function without arguments, leaves): attention of `inputs` (`attention_core.Inputs`) to one segment a position.

    The block mask is made here, once, as a plan is for an SRformer: what it takes is not part of the function's time.
    `compiled` False: PyTorch's slow implementation, which a CPU has too, but without `backward`.
    """
    segments = inputs.segment_plan.segments[:, 0, :, 0]
    lengths, size = inputs.layout.lengths, inputs.layout.segment_size

    def reads(batch, head, target, source):
        return (segments[batch, target] == source // size) & (source < lengths[batch])

    batch, targets, source = inputs.size
    mask = create_block_mask(reads, batch, None, targets, source, device=inputs.device)
    attend = flex_attention
    if compiled:
        torch._dynamo.reset()  # compiled anew for every shape, of which dynamo allows a few
        attend = torch.compile(flex_attention, dynamic=False)
    leaves = [x.detach().requires_grad_(backward) for x in inputs.heads_first()]
    return lambda: attend(*leaves, block_mask=mask, scale=1.0), leaves


def check(inputs, attend, leaves, tolerance):
    """Largest relative error of output (and gradients, where leaves have them) against the local term in float64.

    Raises:
        RuntimeError: it is not below `tolerance`.
    """
    exact, exact_leaves = inputs.segmented(torch_ops.attend_source, torch.float64, NoMemory(0, 0, None))
    expected, found = exact(), attend()
    pairs = [(found, expected)]
    if leaves[0].requires_grad:
        upstream = inputs.upstream
        query, keys, values = torch.autograd.grad(expected, exact_leaves, upstream.to(expected.dtype))
        heads = [x.unflatten(2, (query.size(1), -1)).permute(1, 2, 0, 3) for x in (keys, values)]
        pairs += zip(torch.autograd.grad(found, leaves, upstream), (query, *heads))
    error = max(((ours.double() - theirs).norm() / theirs.norm()).item() for ours, theirs in pairs)
    if not error < tolerance:
        raise RuntimeError(f"off by {error:.1e}")
    return error
