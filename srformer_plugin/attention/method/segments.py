"""Source segments: where they lie in a padded batch.

Segments are counted from a sentence's first real token, whichever side it is padded on, and their number
m_b = ceil(N_b / s) comes from its own unpadded length N_b: a sentence never depends on its batch.
"""

import copy

import torch
from torch import Tensor


class _Move:
    """Where rows come from: numbers of rows, and which of them are zeros instead; made once for many calls."""

    def __init__(self, index: Tensor, is_zero: Tensor):
        self.index, self.is_zero = index.flatten(), is_zero.expand_as(index).reshape(-1, 1)
        self.zeros = None
        if index.device.type == "cpu" and not torch.compiler.is_compiling():  # few of many
            self.zeros = self.is_zero.squeeze(1).nonzero().squeeze(1)

    def __call__(self, rows: Tensor) -> Tensor:
        moved = rows.index_select(0, self.index)
        if self.zeros is None:
            return moved.masked_fill_(self.is_zero, 0)
        return moved.index_fill_(0, self.zeros, 0)


class _MoveRows(torch.autograd.Function):
    """Rows (R, D) put elsewhere, (R', D): the gradient is the same with the move back.

    PyTorch's own gradient of an indexing adds rows up one by one; here none is asked for twice.
    """

    @staticmethod
    def forward(ctx, rows, there, back):
        ctx.there, ctx.back = there, back
        return there(rows)

    @staticmethod
    def backward(ctx, upstream):
        return _MoveRows.apply(upstream.contiguous(), ctx.back, ctx.there), None, None


class SourceLayout:
    """Where the segments of every sentence of a batch lie.

    Args:
        padding_mask: (B, N) bool, True at padding (either side); None: nothing is padded.
        batch_size, source_length, device: B, N and the device, for where there is no mask.
        segment_size: s.

    Attributes:
        max_segments: m of the longest possible row, ceil(N / s), a Python int.
        lengths: (B,) int64, unpadded source lengths.
        segment_counts: (B,) int64, m_b, at least 1 (a wholly padded row has one empty segment).
        is_real: (B, m, s) bool, False where a segment slot holds no token; None: every slot holds one.
        source_index: (B, m, s) int64, the position in the padded source that each slot holds (clipped to a
            valid one where the slot is empty); None: slot n is position n.
    """

    def __init__(self, padding_mask: Tensor | None, batch_size: int, source_length: int, segment_size: int, device):
        self._kept_moves: dict[int, tuple[_Move, _Move]] = {}
        self.segment_size = segment_size
        self.source_length = source_length
        self.max_segments = max(1, -(-source_length // segment_size))
        slots = self.max_segments * segment_size
        shape = (batch_size, self.max_segments, segment_size)
        if padding_mask is None and slots == source_length:
            self.lengths = torch.full((batch_size,), source_length, device=device)
            self.is_real = self.source_index = None
        else:
            index = torch.arange(slots, device=device)
            if padding_mask is None:
                self.lengths = torch.full((batch_size,), source_length, device=device)
                order = index.clamp(max=source_length - 1).expand(batch_size, -1)
            else:
                padding_mask = padding_mask.bool()
                self.lengths = padding_mask.logical_not().sum(dim=1)
                # real tokens first, in their order: right for padding on the left, on the right, on both sides
                order = padding_mask.to(torch.uint8).argsort(dim=1, stable=True)
                order = order[:, index.clamp(max=source_length - 1)]
            self.source_index = order.reshape(shape).contiguous()  # kernels go from row to row
            self.is_real = (index < self.lengths.unsqueeze(1)).view(shape)
        self.segment_counts = ((self.lengths + segment_size - 1) // segment_size).clamp(min=1)

    def index_select(self, dim: int, rows: Tensor) -> "SourceLayout":
        """The layout of some of the sentences (dim 0), for the reordering of a beam search."""
        selected = copy.copy(self)
        selected._kept_moves = {}
        for name in ("lengths", "segment_counts", "is_real", "source_index"):
            value = getattr(self, name)
            setattr(selected, name, value if value is None else value.index_select(dim, rows))
        return selected

    def split_heads(self, projected: Tensor, num_heads: int) -> Tensor:
        """Cut projected keys or values (N, B, H * D) into segments (B, H, m, s, D); empty slots hold zeros."""
        source_length, batch_size, width = projected.shape
        shape = (batch_size, num_heads, self.max_segments, self.segment_size, width // num_heads)
        if self.source_index is None:
            return projected.unflatten(2, (num_heads, -1)).permute(1, 2, 0, 3).reshape(shape)
        # one gather moves the rows to their segments and the heads to the front, and another one back
        rows = projected.reshape(source_length * batch_size * num_heads, -1)
        return _MoveRows.apply(rows, *self._moves(num_heads)).view(shape)

    def _moves(self, num_heads: int) -> tuple[_Move, _Move]:
        """From rows (N, B, H) to slots (B, H, m s), and back; made once for all layers."""
        if num_heads not in self._kept_moves:
            assert self.source_index is not None and self.is_real is not None
            position, is_empty = self.source_index.flatten(1), ~self.is_real.flatten(1)
            count, slots = len(position) * num_heads, position.size(1)
            row = torch.arange(count, device=position.device).view(-1, num_heads, 1)
            # the slot that every position has; padding has none, and what is written for empty slots is cut off
            numbers = torch.arange(slots, device=position.device).expand_as(position)
            own = numbers.new_full((len(position), self.source_length + 1), -1)
            own = own.scatter_(1, position.masked_fill(is_empty, self.source_length), numbers)[:, :-1]
            self._kept_moves[num_heads] = (
                _Move(position.unsqueeze(1) * count + row, is_empty.unsqueeze(1)),
                _Move((own.clamp(min=0).unsqueeze(1) + row * slots).permute(2, 0, 1), (own < 0).T.unsqueeze(2)),
            )
        return self._kept_moves[num_heads]

    @property
    def tokens(self) -> Tensor:
        """(B, m) int64, real tokens of every segment."""
        before = torch.arange(self.max_segments, device=self.lengths.device) * self.segment_size
        return (self.lengths.unsqueeze(1) - before).clamp(0, self.segment_size)

    def means(self, states: Tensor) -> Tensor:
        """The mean over every segment's real tokens of keys or values (B, H, m, s, D), zeros in empty slots.

        Returns:
            (B, H, m, D), float32 or, of float64, float64; zeros for a segment without a token.
        """
        total = states.sum(3, dtype=torch.promote_types(states.dtype, torch.float32))
        return total / self.tokens.clamp(min=1)[:, None, :, None]

    def scatter_weights(self, weights: Tensor, segments: Tensor) -> Tensor:
        """Put attention weights on segments back on the source positions they belong to.

        Args:
            weights: (B, H, T, k, s), of the segments each query attended.
            segments: (B, H or 1, T, k) int64, which segments these are; -1: none, and weights are 0.
        Returns:
            (B, H, T, N), zero where a query did not look.
        """
        batch_size, num_heads, length = weights.shape[:3]
        segments = segments.clamp(min=0).expand(-1, num_heads, -1, -1).flatten(1)
        if self.source_index is None:
            step = torch.arange(self.segment_size, device=weights.device)
            positions = segments.unsqueeze(-1) * self.segment_size + step
        else:
            batch = torch.arange(batch_size, device=weights.device).unsqueeze(1)
            positions = self.source_index[batch, segments]
        dense = weights.new_zeros(batch_size, num_heads, length, self.source_length)
        # added, not written: an empty slot shares its (clipped) position with a real one and holds weight 0
        return dense.scatter_add_(3, positions.view(batch_size, num_heads, length, -1), weights.flatten(3))

    def spread_over_segments(self, weights: Tensor) -> Tensor:
        """Weights on segments (B, H, T, m) as weights on source positions (B, H, T, N), a segment's tokens alike."""
        share = (weights / self.tokens.clamp(min=1)[:, None, None]).unsqueeze(-1)
        share = share.expand(-1, -1, -1, -1, self.segment_size)
        if self.is_real is not None:
            share = share * self.is_real[:, None, None]
        every = torch.arange(self.max_segments, device=weights.device).expand(weights.size(0), 1, weights.size(2), -1)
        return self.scatter_weights(share, every)
