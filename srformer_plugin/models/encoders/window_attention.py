"""Self-attention within a window around every token, and from and to the global tokens of a sentence (Longformer).

Every token reads the tokens at most `window` places before and behind it, and the global ones, wherever they stand:
once also where the window holds them. A global token reads its whole sentence, by projections of its own where the
model has them. (Beltagy et al., arXiv 2004.05150, sections 3.1 and 3.2; `transformers`' LED computes the same.)

Functions of tensors, without parameters. `window_attention_reference` says what is computed, with a mask over all pairs
of tokens; `window_attention` computes it in overlapping blocks, linear in the length.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_BLOCK = 64  # queries computed at once where the window is smaller: shorter blocks are bound by their launches


class GlobalTokens(NamedTuple):
    """Which tokens of a batch are global; made by `find_global`.

    Attributes:
        marks: (B, N) bool, True at them.
        places: (B, g) int64, where those of every sentence are, in order. g is that of the sentence with most; others
            are filled up with places of other tokens or of padding. A sentence's places are all different.
        real: (B, g) bool, False at what only fills up.
    """

    marks: Tensor
    places: Tensor
    real: Tensor


class GlobalProjections(NamedTuple):
    """What the global tokens read by: queries (B, H, g, D) at their places, keys and values (B, H, N, D)."""

    query: Tensor
    key: Tensor
    value: Tensor


def find_global(padding: Tensor, num_first: int, chosen: Tensor | None = None) -> GlobalTokens:
    """The first `num_first` tokens of every sentence, and the chosen ones.

    Args:
        padding: (B, N) bool, True at padding.
        chosen: (B, N) bool, True at tokens that are global wherever they stand; padding never is. How many there are is
            read from the device. There is then at least one place, so that what only global tokens need takes part in
            every batch.
    """
    tokens = ~padding
    marks = tokens & (tokens.cumsum(dim=1) <= num_first)
    count = num_first
    if chosen is not None:
        marks = marks | (tokens & chosen)
        count = max(int(marks.sum(dim=1).max()), 1)
    # a stable sort: global tokens first, in their order
    places = (~marks).byte().argsort(dim=1, stable=True)[:, :count]
    return GlobalTokens(marks, places, marks.gather(1, places))


def window_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None,
    window: int,
    global_tokens: GlobalTokens | None = None,
    projections: GlobalProjections | None = None,
) -> Tensor:
    """As `window_attention`, sentence by sentence with a mask over all pairs of tokens; quadratic in the length."""
    outputs = torch.zeros_like(value)
    for row in range(query.size(0)):
        tokens = [n for n in range(query.size(2)) if padding is None or not padding[row, n]]
        places = [] if global_tokens is None else global_tokens.places[row, global_tokens.real[row]].tolist()
        for n in tokens:
            if n in places and projections is not None:
                q = projections.query[row, :, places.index(n)]
                k, v = projections.key[row], projections.value[row]
            else:
                q, k, v = query[row, :, n], key[row], value[row]
            seen = [m for m in tokens if n in places or m in places or abs(n - m) <= window]
            scores = (k[:, seen] @ q.unsqueeze(-1)).squeeze(-1) * q.size(-1) ** -0.5  # (H, seen)
            outputs[row, :, n] = (scores.softmax(dim=-1).unsqueeze(1) @ v[:, seen]).squeeze(1)
    return outputs


def window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None,
    window: int,
    global_tokens: GlobalTokens | None = None,
    projections: GlobalProjections | None = None,
    dropout: float = 0.0,
    block: int | None = None,
) -> Tensor:
    """Attention of every token to its window and the global tokens, and of global tokens to their sentence.

    Time and memory are linear in N, and in it times the number of global tokens: blocks of queries attend to their keys
    with `window` more on either side, and to the global ones.

    Args:
        query, key, value: (B, H, N, D), not scaled, of any floating-point dtype.
        padding: (B, N) bool, True at padding, on whichever side; None: there is none.
        window: places on either side of a token that it reads, at least 0. It may exceed N.
        global_tokens: of `find_global`; None: there are none.
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
    global_tokens = find_global(padding, 0) if global_tokens is None else global_tokens
    output = _attend_in_blocks(query, key, value, padding, window, global_tokens, dropout, block)
    _, places, real = global_tokens
    if places.size(1) > 0:
        if projections is None:
            projections = GlobalProjections(_take(query, places), key, value)
        # in a sentence of padding alone, whose output is zeroed, all is read: a softmax over nothing is NaN
        read = ~padding | padding.all(dim=1, keepdim=True)
        by_global = F.scaled_dot_product_attention(*projections, read[:, None, None], dropout_p=dropout)
        by_global = torch.where(real[:, None, :, None], by_global, _take(output, places))
        output = output.scatter(2, _index(places, output), by_global)
    return output.masked_fill(padding[:, None, :, None], 0)


def _attend_in_blocks(query, key, value, padding, window, global_tokens, dropout, block):
    """What all tokens read as if none were a global query: (B, H, N, D), anything at padding."""
    length = query.size(2)
    count = -(-length // block)
    filled = count * block - length
    blocks = F.pad(query, (0, 0, 0, filled)).unflatten(2, (count, block)).transpose(1, 2)  # (B, n, H, block, D)

    def keys_of_blocks(x):  # (B, H, N, D) -> (B n, H, g + block + 2 window, D), global ones first
        local = F.pad(x, (0, 0, window, window + filled)).unfold(2, block + 2 * window, block)
        first = _take(x, global_tokens.places).unsqueeze(1).expand(-1, count, -1, -1, -1)
        return torch.cat((first, local.permute(0, 2, 1, 4, 3)), dim=3).flatten(0, 1)

    mask = _block_mask(padding, window, global_tokens, count, block)
    output = F.scaled_dot_product_attention(
        blocks.flatten(0, 1), keys_of_blocks(key), keys_of_blocks(value), mask, dropout_p=dropout
    )
    return output.unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3)[:, :, :length]


def _block_mask(padding, window, global_tokens, count, block):
    """(B n, 1, block, g + block + 2 window) bool, True where a query reads a key.

    Global tokens are read in their own columns, and not among the neighbours as well.
    """
    filled = count * block - padding.size(1)
    neighbours = ~(padding | global_tokens.marks)
    neighbours = F.pad(neighbours, (window, window + filled)).unfold(1, block + 2 * window, block)  # (B, n, keys)
    # key column j of a block stands `window` places before query row j
    row, column = (torch.arange(size, device=padding.device) for size in (block, block + 2 * window))
    distance = column - row[:, None] - window
    near = neighbours.unsqueeze(2) & (distance.abs() <= window)  # (B, n, block, keys)
    first = global_tokens.real[:, None, None].expand(-1, count, block, -1)
    # queries at padding read everything: their output is zeroed, and a softmax over nothing is NaN
    idle = F.pad(padding, (0, filled), value=True).unflatten(1, (count, block)).unsqueeze(3)
    return (torch.cat((first, near), dim=3) | idle).flatten(0, 1).unsqueeze(1)


def _index(places, x):
    """`places` (B, g) as an index along dimension 2 of `x` (B, H, N, D)."""
    return places[:, None, :, None].expand(-1, x.size(1), -1, x.size(3))


def _take(x, places):
    """(B, H, N, D) -> (B, H, g, D)."""
    return x.gather(2, _index(places, x))
