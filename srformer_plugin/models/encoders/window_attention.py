"""Self-attention within a window around every token, and from and to the first tokens of a sentence (Longformer).

Every token reads the tokens at most `window` places before and behind it, and the global ones: the first `num_global`
tokens of its sentence, wherever they are, once also where the window holds them. A global token reads its whole
sentence, by projections of its own where the model has them. (Beltagy et al., arXiv 2004.05150, sections 3.1 and 3.2;
`transformers`' LED computes the same.)

Functions of tensors, without parameters. `window_attention_reference` says what is computed, with a mask over all pairs
of tokens; `window_attention` computes it in overlapping blocks, linear in the length.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_BLOCK = 64  # queries computed at once where the window is smaller: shorter blocks are bound by their launches


class GlobalProjections(NamedTuple):
    """What the global tokens read by: queries (B, H, g, D) at `global_places`, keys and values (B, H, N, D)."""

    query: Tensor
    key: Tensor
    value: Tensor


def global_places(padding: Tensor, num_global: int) -> Tensor:
    """Where the first tokens of every sentence are.

    Args:
        padding: (B, N) bool, True at padding.
    Returns:
        (B, g) int64, all different; g = min(num_global, N). Where a sentence has fewer tokens, the rest are padding.
    """
    # a stable sort: tokens first, in their order
    return padding.byte().argsort(dim=1, stable=True)[:, :num_global]


def window_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None,
    window: int,
    num_global: int = 0,
    projections: GlobalProjections | None = None,
) -> Tensor:
    """As `window_attention`, sentence by sentence with a mask over all pairs of tokens; quadratic in the length."""
    outputs = torch.zeros_like(value)
    for row in range(query.size(0)):
        tokens = [n for n in range(query.size(2)) if padding is None or not padding[row, n]]
        first = tokens[:num_global]
        for n in tokens:
            if n in first and projections is not None:
                q = projections.query[row, :, first.index(n)]
                k, v = projections.key[row], projections.value[row]
            else:
                q, k, v = query[row, :, n], key[row], value[row]
            seen = [m for m in tokens if n in first or m in first or abs(n - m) <= window]
            scores = (k[:, seen] @ q.unsqueeze(-1)).squeeze(-1) * q.size(-1) ** -0.5  # (H, seen)
            outputs[row, :, n] = (scores.softmax(dim=-1).unsqueeze(1) @ v[:, seen]).squeeze(1)
    return outputs


def window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None,
    window: int,
    num_global: int = 0,
    projections: GlobalProjections | None = None,
    dropout: float = 0.0,
    block: int | None = None,
) -> Tensor:
    """Attention of every token to its window and the global tokens, and of global tokens to their sentence.

    Time and memory are linear in N: blocks of queries attend to their keys with `window` more on either side.

    Args:
        query, key, value: (B, H, N, D), not scaled, of any floating-point dtype.
        padding: (B, N) bool, True at padding, on whichever side; None: there is none.
        window: places on either side of a token that it reads, at least 0. It may exceed N.
        num_global: how many of the first tokens of every sentence are global.
        projections: what global tokens read by; None: `query`, `key` and `value`. Other tokens read global ones
            through `key` and `value` always.
        dropout: probability that an attention weight is dropped, the others being scaled up.
        block: queries computed at once (default: as many as the window, at least `SMALLEST_BLOCK`).
    Returns:
        (B, H, N, D), zero at padding.
    """
    batch, _, length, _ = query.shape
    if padding is None:
        padding = torch.zeros(batch, length, dtype=torch.bool, device=query.device)
    window = min(window, length)
    block = min(block or max(window, SMALLEST_BLOCK), length)
    places = global_places(padding, num_global)
    output = _attend_in_blocks(query, key, value, padding, window, places, dropout, block)
    if places.size(1) > 0:
        if projections is None:
            projections = GlobalProjections(_take(query, places), key, value)
        # in a sentence of padding alone, whose output is zeroed, all is read: a softmax over nothing is NaN
        read = ~padding | padding.all(dim=1, keepdim=True)
        by_global = F.scaled_dot_product_attention(*projections, read[:, None, None], dropout_p=dropout)
        output = output.scatter(2, _index(places, output), by_global)
    return output.masked_fill(padding[:, None, :, None], 0)


def _attend_in_blocks(query, key, value, padding, window, places, dropout, block):
    """What all tokens read as if none were a global query: (B, H, N, D), anything at padding."""
    length = query.size(2)
    count = -(-length // block)
    filled = count * block - length
    blocks = F.pad(query, (0, 0, 0, filled)).unflatten(2, (count, block)).transpose(1, 2)  # (B, n, H, block, D)

    def keys_of_blocks(x):  # (B, H, N, D) -> (B n, H, g + block + 2 window, D), global ones first
        local = F.pad(x, (0, 0, window, window + filled)).unfold(2, block + 2 * window, block)
        first = _take(x, places).unsqueeze(1).expand(-1, count, -1, -1, -1)
        return torch.cat((first, local.permute(0, 2, 1, 4, 3)), dim=3).flatten(0, 1)

    mask = _block_mask(padding, window, places, count, block)
    output = F.scaled_dot_product_attention(
        blocks.flatten(0, 1), keys_of_blocks(key), keys_of_blocks(value), mask, dropout_p=dropout
    )
    return output.unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3)[:, :, :length]


def _block_mask(padding, window, places, count, block):
    """(B n, 1, block, g + block + 2 window) bool, True where a query reads a key.

    Global tokens are read in their own columns, and not among the neighbours as well.
    """
    filled = count * block - padding.size(1)
    neighbours = ~padding.scatter(1, places, True)
    neighbours = F.pad(neighbours, (window, window + filled)).unfold(1, block + 2 * window, block)  # (B, n, keys)
    # key column j of a block stands `window` places before query row j
    row, column = (torch.arange(size, device=padding.device) for size in (block, block + 2 * window))
    distance = column - row[:, None] - window
    near = neighbours.unsqueeze(2) & (distance.abs() <= window)  # (B, n, block, keys)
    first = ~padding.gather(1, places)[:, None, None].expand(-1, count, block, -1)
    # queries at padding read everything: their output is zeroed, and a softmax over nothing is NaN
    idle = F.pad(padding, (0, filled), value=True).unflatten(1, (count, block)).unsqueeze(3)
    return (torch.cat((first, near), dim=3) | idle).flatten(0, 1).unsqueeze(1)


def _index(places, x):
    """`places` (B, g) as an index along dimension 2 of `x` (B, H, N, D)."""
    return places[:, None, :, None].expand(-1, x.size(1), -1, x.size(3))


def _take(x, places):
    """(B, H, N, D) -> (B, H, g, D)."""
    return x.gather(2, _index(places, x))
