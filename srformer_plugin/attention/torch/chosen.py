"""Softmax attention of every query to segments of its own, in ordinary PyTorch operations, for any device and dtype.

No (B, H, T, N) tensor. Where there are many queries, copying its segments for each of them costs more than all else;
so reads are sorted by segment, and a tile of them shares the segment's keys and values. All functions return the
logarithm of the softmax's denominator as well, by which `merge` joins what is computed apart.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..fused import hide
from ..method.memory import masked_softmax

FEW_QUERIES = 16  # so many copies of their own segments cost less than sorting
LARGEST_TILE = 64


def attend_segments(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    is_real: Tensor | None,
    segments: Tensor,
    dropout: float = 0.0,
    need_weights: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One softmax over the real tokens of the segments that each query attends to.

    Args:
        query: (B, H, Q, D), scaled.
        keys, values: (B, H, m, s, D), zeros in empty slots.
        is_real: (B, m, s) bool, False in empty slots; None: there are none.
        segments: (B, H or 1, Q, k) int64, different ones for a query; -1: none.
        dropout: probability, on the weights.
        need_weights: also return the weights, with gradients.
    Returns:
        output (B, H, Q, D); the log of the sum of exp(logits) (B, H, Q), at least float32 (minus infinity, or close to
        the lowest number, where there is no token); and the weights (B, H, Q, k, s) or None.
    """
    with torch.autocast(query.device.type, enabled=False):
        query = query.to(keys.dtype)
        if need_weights or query.size(2) <= FEW_QUERIES:
            return _attend_copies(query, keys, values, is_real, segments, dropout)
        batch_size, heads, num_queries = query.shape[:3]
        tiles = tile_reads(segments.expand(-1, heads, -1, -1), keys.size(2))
        hidden = None
        if is_real is not None:
            hidden = ~is_real.unsqueeze(1).expand(-1, heads, -1, -1).reshape(-1, 1, keys.size(3))
        rows = (query.flatten(0, 2), keys.flatten(0, 2), values.flatten(0, 2))
        output, log_sum = _AttendTiles.apply(*rows, hidden, tiles, dropout)
        return output.view_as(query), log_sum.view(batch_size, heads, num_queries), None


def attend_all(query: Tensor, keys: Tensor, values: Tensor, is_real: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Attention to all segments: full attention. Arguments as `attend_segments`'; (B, H, Q, D)."""
    padding = None if is_real is None else hide(~is_real.flatten(1), query)
    bias = None if padding is None else padding.bias  # the values of a source of padding alone are zeros already
    keys, values = keys.flatten(2, 3), values.flatten(2, 3)
    return F.scaled_dot_product_attention(query, keys, values, bias, dropout_p=dropout, scale=1.0)


def merge(output: Tensor, log_sum: Tensor, other: Tensor, other_log_sum: Tensor) -> tuple[Tensor, Tensor]:
    """One softmax over what two were computed over: outputs (B, H, Q, D), log sums (B, H, Q) of the same dtype.

    Returns:
        the output, and the share of the first one, (B, H, Q, 1).
    """
    # finite, so that the difference of two empty ones is not NaN
    lowest = torch.finfo(log_sum.dtype).min / 4
    share = torch.sigmoid(log_sum.clamp(min=lowest) - other_log_sum.clamp(min=lowest)).unsqueeze(-1)
    return output * share + other * (1 - share), share


def _attend_copies(query, keys, values, is_real, segments, dropout):
    """`attend_segments` with a copy of its keys and values for every query; shapes depend on those of inputs alone."""
    exact = torch.promote_types(query.dtype, torch.float32)
    batch = torch.arange(keys.size(0), device=keys.device).view(-1, 1, 1, 1)
    head = torch.arange(keys.size(1), device=keys.device).view(1, -1, 1, 1)
    read = segments.clamp(min=0)
    own_keys, own_values = (x[batch, head, read].flatten(3, 4) for x in (keys, values))  # (B, H, Q, k * s, D)
    scores = (own_keys @ query.unsqueeze(-1)).squeeze(-1).to(exact)
    hidden = (segments < 0).unsqueeze(-1)
    if is_real is not None:
        hidden = hidden | ~is_real[batch, read]
    hidden = hidden.expand(*hidden.shape[:4], keys.size(3)).flatten(3)
    log_sum, weights = masked_softmax(scores, hidden)
    dropped = F.dropout(weights.to(values.dtype), p=dropout, training=dropout > 0)
    output = (dropped.unsqueeze(-2) @ own_values).squeeze(-2)
    return output, log_sum, weights.unflatten(3, (segments.size(3), -1))


@dataclass
class Tiles:
    """Reads (query, segment) sorted by segment, in tiles of `size` slots that read one segment each.

    Numbers count through all sentences and heads: with c = b * H + h, query c * Q + q and segment c * m + j. The first
    tiles are the segments' own, one each, or there are none of those; further ones hold the reads left over.

    Attributes:
        size: slots of a tile.
        segments: of all sentences and heads, a Python int.
        own: tiles of segments' own: `segments` or 0.
        segment_of_tile: (E,) int64, of the tiles after those.
        query_of_slot: ((own + E) * size,) int64; some query in an empty slot.
        is_read: ((own + E) * size, 1) bool, False in an empty slot.
        slot_of_read: (queries, k) int64.
    """

    size: int
    segments: int
    own: int
    segment_of_tile: Tensor
    query_of_slot: Tensor
    is_read: Tensor
    slot_of_read: Tensor


def tile_reads(segments: Tensor, num_segments: int) -> Tiles:
    """Sort the reads of `segments` (B, H, Q, k) among m = `num_segments` into tiles.

    On a GPU there are as many tiles as could be needed, without host synchronisation; on a CPU as many as are.
    """
    *rows, num_queries, reads = segments.shape
    device, num_rows, of_row = segments.device, rows[0] * rows[1], num_queries * reads
    total = num_rows * num_segments
    is_present = segments.flatten() >= 0
    row = torch.arange(num_rows, device=device).unsqueeze(1)
    segment = segments.reshape(num_rows, of_row).clamp(min=0) + row * num_segments
    number = torch.arange(num_rows * of_row, device=device)
    if of_row <= num_segments:  # most segments have no reader: a tile for every read
        return Tiles(1, total, 0, segment.flatten(), number // reads, is_present[:, None], number.view(-1, reads))
    size = 1 << (of_row // num_segments - 1).bit_length()  # about the readers that a segment has on average
    if device.type == "cpu":
        size *= 2  # most segments then need no other tile, whose keys and values are copied
    size = min(LARGEST_TILE, size)
    order = (segment.argsort(dim=1, stable=True) + row * of_row).flatten()
    segment = segment.flatten()
    readers = segment.new_zeros(total).scatter_add_(0, segment, torch.ones_like(segment))
    first = readers.cumsum(0) - readers
    place = torch.empty_like(segment).scatter_(0, order, number - first[segment[order]])  # among its segment's reads
    more = (readers - 1).clamp(min=0) // size  # tiles beside its own
    count = int(more.sum()) if device.type == "cpu" else len(number) // size
    first_more = total + more.cumsum(0) - more
    tile = torch.where(place < size, segment, first_more[segment] + place // size - 1)
    slot = tile * size + place % size
    slots = (total + count) * size
    return Tiles(
        size=size,
        segments=total,
        own=total,
        segment_of_tile=segment.new_zeros(total + count).scatter_(0, tile, segment)[total:],
        query_of_slot=segment.new_zeros(slots).scatter_(0, slot, number // reads),
        is_read=is_present.new_zeros(slots).scatter_(0, slot, is_present).unsqueeze(1),
        slot_of_read=slot.view(-1, reads),
    )


class _AttendTiles(torch.autograd.Function):
    """`query` (queries, D), `keys`, `values` (segments, s, D), `hidden` (segments, 1, s) -> output and log sum."""

    @staticmethod
    def forward(ctx, query, keys, values, hidden, tiles, dropout):
        of_slot = tiles.query_of_slot
        scores = _products(query.index_select(0, of_slot), keys.transpose(1, 2), tiles)
        weights = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if hidden is not None:
            for own, part in _parts(weights, tiles):
                part.masked_fill_(hidden if own else hidden.index_select(0, tiles.segment_of_tile), -torch.inf)
        weights.masked_fill_(~tiles.is_read, -torch.inf)
        highest = weights.amax(1)[tiles.slot_of_read].amax(1).clamp_(min=torch.finfo(weights.dtype).min)
        weights.sub_(highest[of_slot].unsqueeze(1)).exp_()
        total = weights.sum(1)[tiles.slot_of_read].sum(1)
        weights.mul_(torch.where(total > 0, total, 1).reciprocal()[of_slot].unsqueeze(1))
        noise = None
        if dropout > 0:
            noise = torch.empty_like(weights).bernoulli_(1 - dropout).div_(1 - dropout)
        dropped = (weights if noise is None else weights * noise).to(values.dtype)
        output = _sum_reads(_products(dropped, values, tiles), tiles)
        ctx.save_for_backward(query, keys, values, weights, noise, output)
        ctx.tiles = tiles
        return output, total.log().add_(highest)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, upstream_log_sum):
        query, keys, values, weights, noise, output = ctx.saved_tensors
        tiles, exact = ctx.tiles, weights.dtype
        # what all logits of a query get
        common = upstream_log_sum - (upstream.to(exact) * output.to(exact)).sum(1)
        upstream = upstream.index_select(0, tiles.query_of_slot)
        to_scores = _products(upstream, values.transpose(1, 2), tiles).to(exact)
        if noise is not None:
            to_scores.mul_(noise)
            noise = noise * weights
        to_scores = to_scores.add_(common[tiles.query_of_slot].unsqueeze(1)).mul_(weights).to(keys.dtype)
        dropped = (weights if noise is None else noise).to(values.dtype)
        to_query = _sum_reads(_products(to_scores, keys, tiles), tiles)
        to_keys = _sum_readers(to_scores, query.index_select(0, tiles.query_of_slot), tiles)
        return to_query, to_keys, _sum_readers(dropped, upstream, tiles), None, None, None


def _parts(slots, tiles):
    """Whether they are the segments' own, and `slots` (slots, E) by tiles (tiles, size, E), for both kinds of tiles."""
    cut = tiles.own * tiles.size
    for own, part in ((True, slots[:cut]), (False, slots[cut:])):
        if len(part) > 0:
            yield own, part.view(-1, tiles.size, part.size(1))


def _products(slots, table, tiles):
    """`slots` (slots, E) times what their tiles read of `table` (segments, E, F): (slots, F)."""
    products = slots.new_empty(len(slots), table.size(2))
    for (own, left), (_, out) in zip(_parts(slots, tiles), _parts(products, tiles)):
        torch.bmm(left, table if own else table.index_select(0, tiles.segment_of_tile), out=out)
    return products


def _sum_readers(left, right, tiles):
    """The sum over a segment's readers of `left` (slots, s) times `right` (slots, D): (segments, s, D)."""
    sums = None
    for (own, a), (_, b) in zip(_parts(left, tiles), _parts(right, tiles)):
        products = torch.bmm(a.transpose(1, 2), b)
        if own:
            sums = products
            continue
        if sums is None:
            sums = products.new_zeros(tiles.segments, *products.shape[1:])
        sums.index_add_(0, tiles.segment_of_tile, products)
    return sums


def _sum_reads(slots, tiles):
    """The sum over a query's reads of `slots` (slots, D): (queries, D)."""
    if slots.dtype in (torch.float32, torch.float64):  # gathers and adds in one pass
        return F.embedding_bag(tiles.slot_of_read, slots, mode="sum")
    return slots[tiles.slot_of_read].sum(1)
