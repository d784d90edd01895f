"""Segmented recurrent attention by PyTorch operations in loops over the segments, forward and backward, for a CPU.

What `torch/attend.py` computes with tensors of all segments, (B, H, m, D, D) and several of them, is computed here
visit by visit, for all sentences and heads at once, in a few work tensors that stay in the cache. One state per visit,
U', is kept for the backward pass, which is written by hand; products of keys and values are computed again there.
Bytes that are touched for the first time cost a CPU more than the arithmetic on them: benchmarks/notes_attention.md
has the count.
"""

import torch
from torch import Tensor

from ..method.memory import inverse_root
from .tables import VisitTables


class Loop:
    """The loops for one set of inputs; X is B * H, and a "block" (X, readers[r], ...) what belongs to visit r."""

    def __init__(self, query, keys, values, weight, leak, threshold, gate, noise, tables: VisitTables, clamp):
        self.tables, self.weight, self.clamp = tables, weight, clamp
        self.leak, self.threshold = leak.item(), threshold.item()
        self.gate = gate.view(-1, 1, 1)
        self.shape = query.shape
        self.batch_heads, self.head_dim = query.size(0) * query.size(1), query.size(3)
        self.query = self._blocks(self._spread(query))
        self.noise = None if noise is None else self._blocks(noise)
        self.source_shape = keys.shape
        self.sources = [x.reshape(-1, self.head_dim) for x in (keys, values)]
        self.segment_size = tables.source_rows.size(1) // self.batch_heads
        self.buffers = self._work(2, self.segment_size)
        self.kept = None  # states U', local weights, reading before its scale, S, nu^2

    def _spread(self, x: Tensor) -> Tensor:
        """(B, H, Q, D) -> (P * X, D), block after block."""
        by_position = x.permute(2, 0, 1, 3)  # as models hold them, so that this copies nothing
        return by_position.reshape(-1, self.head_dim).index_select(0, self.tables.query_rows)

    def _collect(self, slots: Tensor) -> Tensor:
        """The inverse of `_spread`, positions outermost in memory: joining the heads then copies nothing."""
        batch_size, num_heads, num_queries, head_dim = self.shape
        by_position = slots.index_select(0, self.tables.slot_rows).view(num_queries, batch_size, num_heads, head_dim)
        return by_position.permute(1, 2, 0, 3)

    def _blocks(self, slots: Tensor) -> list[Tensor]:
        """(P * X, E) -> the block (X, readers[r], E) of every visit that has readers, views."""
        counts = self.tables.readers
        parts = slots.split([count * self.batch_heads for count in counts])
        return [part.view(self.batch_heads, count, -1) for part, count in zip(parts, counts)]

    def _slots(self, width: int) -> Tensor:
        return self.weight.new_empty(len(self.tables.query_rows), width)

    def _work(self, count: int, rows: int) -> list[Tensor]:
        """Work tensors (X, rows, D)."""
        return [self.weight.new_empty(self.batch_heads, rows, self.head_dim) for _ in range(count)]

    def _flat(self, x: Tensor) -> Tensor:
        """(X, D, D) -> (X * D, D), a view: the rows of key channels that W acts on."""
        return x.view(-1, self.head_dim)

    def _load(self, visit: int) -> list[Tensor]:
        """Keys and values of a visit, (X, s, D), zeros in empty slots; overwritten by the next call."""
        rows, begin, empty = self.tables.source_rows[visit], self.tables.begins[visit], self.tables.empty[visit]
        for source, buffer in zip(self.sources, self.buffers):
            if begin is None:
                torch.index_select(source, 0, rows, out=self._flat(buffer))
            else:
                buffer.copy_(self._positions(source, begin))
            if empty is not None:
                buffer.masked_fill_(empty, 0)
        return self.buffers

    def _positions(self, source: Tensor, begin: int) -> Tensor:
        """(N * X + ..., D) -> (X, s, D), a view of the positions from `begin` on."""
        rows = source[begin * self.batch_heads : (begin + self.segment_size) * self.batch_heads]
        return rows.view(self.segment_size, self.batch_heads, self.head_dim).transpose(0, 1)

    def _store(self, gradient: Tensor, source: Tensor, visit: int) -> None:
        """The inverse of `_load` for one of both: write a visit's (X, s, D) to its rows of `source` (N * X + 1, D)."""
        begin = self.tables.begins[visit]
        if begin is None:
            source.index_copy_(0, self.tables.gradient_rows[visit], self._flat(gradient))
        else:
            self._positions(source, begin).copy_(gradient)

    def _inverse_norm(self, squares: Tensor) -> Tensor:
        """1 / nu, (B, H, 1, D)."""
        return inverse_root(squares).view(*self.shape[:2], 1, -1)

    def forward(self) -> Tensor:
        """The output (B, H, Q, D)."""
        weights, local, reading = (self._slots(width) for width in (self.segment_size, self.head_dim, self.head_dim))
        states, total, squares = self._attend_locally(self._blocks(local), self._blocks(weights))
        self._accumulate_and_fire(states, total, self._blocks(reading))
        reading = self._collect(reading)
        self.kept = states, weights, reading, total, squares
        scale = self._inverse_norm(squares) * self.gate / self.threshold
        return self._collect(local).addcmul_(reading, scale)

    def _attend_locally(self, local: list[Tensor], weights: list[Tensor]):
        """First loop: fill `local` and `weights`; return products S_r of the visits read, S, and nu^2 (X, D)."""
        products = []  # one tensor each: memory of this size is used again, a large tensor's is mapped anew each time
        (total,) = self._work(1, self.head_dim)
        total.zero_()
        squares = total.new_zeros(self.batch_heads, self.head_dim)
        square = torch.empty_like(self.buffers[0])
        for visit, empty in enumerate(self.tables.empty):
            keys, values = self._load(visit)
            squares.add_(torch.mul(keys, keys, out=square).sum(dim=1))
            if visit >= len(local):
                torch.baddbmm(total, keys.transpose(1, 2), values, out=total)  # the flop counter overlooks baddbmm_
                continue
            products.append(torch.bmm(keys.transpose(1, 2), values))
            total.add_(products[-1])
            probabilities = weights[visit]
            torch.bmm(self.query[visit], keys.transpose(1, 2), out=probabilities)
            if empty is None:
                torch.softmax(probabilities, dim=-1, out=probabilities)
            else:
                empty = empty.transpose(1, 2)
                probabilities.masked_fill_(empty, torch.finfo(probabilities.dtype).min)
                # without a single token the softmax is uniform over empty slots
                probabilities.copy_(probabilities.softmax(dim=-1).masked_fill_(empty, 0))
            torch.bmm(self._dropped(probabilities, visit), values, out=local[visit])
        return products, total, squares

    def _dropped(self, probabilities: Tensor, visit: int) -> Tensor:
        return probabilities if self.noise is None else probabilities * self.noise[visit]

    def _accumulate_and_fire(self, states: list[Tensor], total: Tensor, reading: list[Tensor]) -> None:
        """Second loop: from S_r to U'_r in place; `reading` becomes q^T relu(U' - threshold)."""
        bound = self.clamp
        everything = total if bound is None else total.clamp(-bound, bound)
        others, fired = self._work(2, self.head_dim)
        flat_others, transposed = self._flat(others), self.weight.t()
        before = None  # U'_{r-1}
        for visit, charged in enumerate(states):
            own = charged if bound is None else charged.clamp_(-bound, bound)
            torch.sub(everything, own, out=others)
            if before is None:
                torch.mm(flat_others, transposed, out=self._flat(charged))
            else:
                torch.add(before, fired, alpha=-self.threshold, out=charged)
                flat = self._flat(charged)
                torch.addmm(flat, flat_others, transposed, beta=self.leak, out=flat)
            excess = torch.sub(charged, self.threshold, out=others).relu_()
            torch.bmm(self.query[visit], excess, out=reading[visit])
            torch.sign(excess, out=fired)
            before = charged

    def backward(self, upstream: Tensor) -> tuple:
        """Gradients of query, keys, values, weight, leak, threshold and gate. Uses up what was kept."""
        states, weights, reading, total, squares = self.kept
        self.kept = None
        inverse_norm = self._inverse_norm(squares)
        scale = inverse_norm * self.gate / self.threshold
        scale_gradient = (upstream * reading).sum(dim=2, keepdim=True)
        gate_gradient = (scale_gradient * inverse_norm).sum(dim=(0, 2, 3)) / self.threshold
        threshold_gradient = -(scale_gradient * scale).sum() / self.threshold
        # d(1 / nu) / d(nu^2) = -nu^-3 / 2, d(nu^2) / dk = 2 k
        key_scale = -(scale_gradient * self.gate / self.threshold) * inverse_norm.pow(3)

        query_gradient = self._slots(self.head_dim)
        query_blocks = self._blocks(query_gradient)
        driven, leak_gradient, fired_gradient = self._unwind(
            states, self._spread_gradient(upstream * scale), query_blocks
        )
        keys_gradient, values_gradient, weight_gradient = self._to_the_source(
            states, driven, total, key_scale.view(self.batch_heads, 1, -1), self._blocks(weights),
            self._spread_gradient(upstream), query_blocks,
        )  # fmt: skip
        return (
            self._collect(query_gradient),
            keys_gradient,
            values_gradient,
            weight_gradient,
            self.weight.new_full((1,), leak_gradient),
            (threshold_gradient + fired_gradient).view(1),
            gate_gradient,
        )

    def _spread_gradient(self, upstream: Tensor) -> list[Tensor]:
        slots = self._spread(upstream)
        if self.tables.unused is not None:
            slots.masked_fill_(self.tables.unused, 0)
        return self._blocks(slots)

    def _unwind(self, states: list[Tensor], upstream: list[Tensor], query_gradient: list[Tensor]):
        """Third loop, backwards: from U'_r to dX_r in place, and the recurrent term's share of `query_gradient`.

        Returns the sum of dX_r over r, and the gradients of leak and (but for its division) threshold.
        """
        driven, excess, fired, gradient = self._work(4, self.head_dim)
        driven.zero_()
        leak_gradient = threshold_gradient = 0.0
        later = None  # dX_{r+1}
        for visit in reversed(range(len(states))):
            charged = states[visit]
            torch.sub(charged, self.threshold, out=excess).relu_()
            torch.sign(excess, out=fired)
            torch.bmm(upstream[visit], excess.transpose(1, 2), out=query_gradient[visit])
            torch.bmm(self.query[visit].transpose(1, 2), upstream[visit], out=gradient).mul_(fired)
            if later is not None:
                # the potential after the reset is U' - threshold * fired
                leak_gradient += _dot(later, charged) - self.threshold * _dot(later, fired)
                gradient.add_(later, alpha=self.leak)
            threshold_gradient -= _dot(gradient, fired)
            driven.add_(gradient)
            states[visit] = later = gradient
            gradient = charged
        return driven, leak_gradient, threshold_gradient

    def _to_the_source(self, states, driven, total, key_scale, weights, upstream, query_gradient):
        """Fourth loop: gradients of keys, values and weight, and the local term's share of `query_gradient`."""
        products, clipped, gradient, weight_gradient = self._work(4, self.head_dim)
        bound = None
        total_gradient = torch.mm(self._flat(driven), self.weight).view_as(driven)
        everything = total
        if self.clamp is not None:
            everything = total.clamp(-self.clamp, self.clamp)
            # torch.clamp passes the gradient at its bounds, hardtanh does not
            bound = torch.nextafter(total.new_tensor(self.clamp), total.new_tensor(torch.inf)).item()
            _clip_backward(total_gradient, total, bound)
        torch.bmm(driven.transpose(1, 2), everything, out=weight_gradient)
        keys_gradient, values_gradient = self._work(2, self.segment_size)
        count = self.sources[0].size(0)
        gradients = [self.weight.new_empty(count + 1, self.head_dim) for _ in range(2)]
        for visit in range(len(self.tables.empty)):
            keys, values = self._load(visit)
            product_gradient = total_gradient
            if visit < len(states):
                own = torch.bmm(keys.transpose(1, 2), values, out=products)
                if bound is not None:
                    own = torch.clamp(products, -self.clamp, self.clamp, out=clipped)
                weight_gradient.baddbmm_(states[visit].transpose(1, 2), own, alpha=-1)
                torch.mm(self._flat(states[visit]), self.weight, out=self._flat(gradient))
                if bound is not None:
                    _clip_backward(gradient, products, bound)
                product_gradient = torch.sub(total_gradient, gradient, out=gradient)
            torch.bmm(keys, product_gradient, out=values_gradient)
            torch.bmm(values, product_gradient.transpose(1, 2), out=keys_gradient)
            keys_gradient.addcmul_(keys, key_scale)
            if visit < len(states):
                probabilities, arriving = weights[visit], upstream[visit]
                values_gradient.baddbmm_(self._dropped(probabilities, visit).transpose(1, 2), arriving)
                local = self._dropped(torch.bmm(arriving, values.transpose(1, 2)), visit).mul_(probabilities)
                local.addcmul_(probabilities, local.sum(dim=-1, keepdim=True), value=-1)
                query_gradient[visit].baddbmm_(local, keys)
                keys_gradient.baddbmm_(local.transpose(1, 2), self.query[visit])
            for whole, part in zip(gradients, (keys_gradient, values_gradient)):
                self._store(part, whole, visit)
        return *(x[:count].view(self.source_shape) for x in gradients), weight_gradient.sum(dim=0)


def _clip_backward(gradient: Tensor, clipped: Tensor, bound: float) -> None:
    """Set `gradient` to zero where `clipped`, before the clip, is not within (-bound, bound)."""
    torch.ops.aten.hardtanh_backward.grad_input(gradient, clipped, -bound, bound, grad_input=gradient)


def _dot(a: Tensor, b: Tensor) -> float:
    return torch.dot(a.view(-1), b.view(-1)).item()
