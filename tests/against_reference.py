"""Modules and padded batches, and what the plain reference makes of them: what tests of backends compare with."""

import torch
import torch.nn.functional as F

from srformer_plugin.attention.cross_attention import SegmentedCrossAttention
from srformer_plugin.attention.method.memory import PooledMemory, PreviousMemory
from srformer_plugin.attention.method.reference import segmented_recurrent_attention
from srformer_plugin.attention.settings import SegmentSettings


def build(heads=2, head_dim=4, dtype=torch.float64, **options):
    options = {"segment_size": 4, "expected_target_length": 6, **options}
    module = SegmentedCrossAttention(heads * head_dim, heads, SegmentSettings(**options)).to(dtype)
    for projection in (module.k_proj, module.v_proj):  # large enough for the neuron to fire
        torch.nn.init.normal_(projection.weight, std=0.5)
        torch.nn.init.normal_(projection.bias, std=0.2)
    return module


def pad_batch(lengths, width, shifts, embed_dim, dtype=torch.float64, poison=0.0):
    """Random encoder states (N, B, C), real from `shift` on for `length` tokens, and their padding mask."""
    states = torch.full((width, len(lengths), embed_dim), poison, dtype=dtype)
    mask = torch.ones(len(lengths), width, dtype=torch.bool)
    for row, (length, shift) in enumerate(zip(lengths, shifts)):
        states[shift : shift + length, row] = torch.randn(length, embed_dim).to(dtype)
        mask[row, shift : shift + length] = False
    return states, mask


def by_reference(module, query, encoder, mask, schedule_length=None):
    """The module's output, computed by the plain reference from the module's parameters; and these."""
    length, batch, _ = query.shape
    lengths = mask.logical_not().sum(1).tolist()

    def heads(projected):
        return projected.unflatten(2, (module.num_heads, module.head_dim)).permute(1, 2, 0, 3)

    rows = [encoder[~mask[b], b] for b in range(batch)]
    packed = torch.stack([F.pad(row, (0, 0, 0, max(lengths) - len(row))) for row in rows], dim=1)
    memory = module.memory
    parameters = ()
    if hasattr(memory, "proj"):
        parameters = (memory.proj.weight, memory.leak, memory.threshold, memory.clamp)
    output = segmented_recurrent_attention(
        heads(module.q_proj(query) * module.scaling),
        heads(module.k_proj(packed)),
        heads(module.v_proj(packed)),
        lengths,
        module.segment_size,
        schedule_length or 1,
        *parameters,
        segments_per_query=getattr(module.schedule, "segments_per_query", None),
        pooled=isinstance(memory, PooledMemory),
        previous=isinstance(memory, PreviousMemory),
    )
    return module.out_proj(output.permute(2, 0, 1, 3).flatten(2)), parameters
