"""Self-attention of sentences that stand one behind the other, without padding between them."""

from collections.abc import Iterator
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from torch import Tensor

from ..compat.transfers import to_device
from .dropout import current_rate
from .fused import fused_attention
from .self_attention import OwnSelfAttention, project

# Features of a head that FlashAttention takes on every GPU from an A100 on. Its backward pass refuses more of them on
# compute capabilities 8.6, 8.9 and 12 (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp).
LARGEST_HEAD = 192
HALF = (torch.float16, torch.bfloat16)


class Packing(NamedTuple):
    """Where the tokens of a padded batch (B, N) are, and how they stand without padding: sentence behind sentence."""

    shape: torch.Size  # (B, N)
    places: Tensor  # (M,) int64, of all tokens in the flat (B, N), in order
    places_by_position: Tensor  # (M,) int64, of the same tokens in the flat (N, B)
    lengths: list[int]  # of the sentences that have tokens
    borders: Tensor  # (sentences + 1,) int32, where each begins among the M tokens, and M

    def pack(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (M, C): a matrix, which linear maps multiply as it is, without a view of it before and after."""
        return x.flatten(0, 1).index_select(0, self.places)

    def unpack(self, x: Tensor) -> Tensor:
        """(M, C) -> (N, B, C), zero at padding; contiguous, since every layer of a decoder multiplies it."""
        batch, length = self.shape
        rows = x.new_zeros(batch * length, x.size(1)).index_copy(0, self.places_by_position, x)
        return rows.view(length, batch, -1)

    def runs(self) -> "Iterator[tuple[int, int]]":
        """(how many, their length) of neighbouring sentences that are equally long."""
        return ((len(list(run)), length) for length, run in groupby(self.lengths))


def read_packing(padding: Tensor) -> Packing | None:
    """The packing of a batch with this mask (B, N) bool, True at padding, wherever it is; None if there is no token.

    The host reads from the device once, the sentences' lengths.
    """
    tokens = ~padding
    lengths = [length for length in tokens.sum(dim=1).tolist() if length > 0]
    if not lengths:
        return None
    # `nonzero`, whose size the host knows by now and need not wait for
    places = torch.repeat_interleave(tokens.flatten().long(), output_size=sum(lengths))
    borders = to_device(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), padding.device)
    batch, length = padding.shape
    places_by_position = places % length * batch + places // length
    return Packing(padding.shape, places, places_by_position, lengths, borders)


def is_fast(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether `packed_attention` of such tensors is one launch: PyTorch's FlashAttention on a GPU that has it."""
    if device.type != "cuda" or dtype not in HALF or head_dim > LARGEST_HEAD or head_dim % 8 != 0:
        return False
    return (
        torch.version.hip is None
        and torch.backends.cuda.is_flash_attention_available()
        and torch.backends.cuda.flash_sdp_enabled()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def packed_attention(query: Tensor, key: Tensor, value: Tensor, packing: Packing, dropout: float = 0.0) -> Tensor:
    """Softmax attention of every sentence to itself.

    Args:
        query, key, value: (M, H, D), not scaled, of any floating-point dtype.
        dropout: probability, on the weights.
    Returns:
        (M, H, D).
    """
    if is_fast(query.device, query.dtype, query.size(2)):
        # what scaled_dot_product_attention calls for itself; torch.nn.attention.varlen has no dropout
        longest = max(packing.lengths)
        return torch.ops.aten._flash_attention_forward(
            query, key, value, packing.borders, packing.borders, longest, longest, dropout, False, False
        )[0]
    outputs = []
    runs = list(packing.runs())
    sizes = [count * length for count, length in runs]
    for (count, length), *parts in zip(runs, *(x.split(sizes) for x in (query, key, value))):
        heads = (x.unflatten(0, (count, length)).transpose(1, 2) for x in parts)  # (B, H, N, D)
        outputs.append(fused_attention(*heads, dropout=dropout).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)


class PackedSelfAttention(OwnSelfAttention):
    """fairseq's self-attention, which takes packed sentences too: with a `Packing` for its padding mask."""

    def _attend_instead(self, states: Tensor, padding_mask: "Tensor | Packing | None", attn_mask) -> Tensor | None:
        """Packed: (M, C) -> (M, C)."""
        if not isinstance(padding_mask, Packing):
            return None
        heads = (x.view(states.size(0), self.num_heads, -1) for x in self.project_in(states))
        output = packed_attention(*heads, padding_mask, current_rate(self.dropout_module))
        return project(output.view_as(states), self.out_proj)
