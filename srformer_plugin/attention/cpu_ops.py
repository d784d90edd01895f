"""Segmented recurrent attention on a CPU, for training and scoring: PyTorch operations in one loop over the segments.

What `torch_ops.py` computes with tensors of all segments, (B, H, m, D, D) and several of them, is computed here visit
by visit, for all sentences and heads at once, in a few work tensors that stay in the cache. One state per visit, U', is
kept for the backward pass, which is written by hand; products of keys and values are computed again there. Bytes that
are touched for the first time cost a CPU more than the arithmetic on them: benchmarks/notes_attention.md has the count.

Results are the same every time for the same inputs, seed and number of threads.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import torch_ops
from .cpu_tables import VisitTables, visit_tables
from .memory import RAFMemory, inverse_root
from .raf import constrain_leak, constrain_threshold
from .runs import unordered
from .segments import SegmentPlan, SourceLayout

DTYPES = (torch.float32, torch.float64)


def obstacle(
    query: Tensor, keys: Tensor, values: Tensor, plan: SegmentPlan, memory: torch.nn.Module, need_weights: bool
) -> str | None:
    """Why the loop cannot compute this call; None: it can."""
    if any(x.device.type != "cpu" for x in (query, keys, values)):
        return "tensors are not on the CPU"
    if type(memory) is not RAFMemory:
        return f"the memory is a {type(memory).__name__}"
    if torch.is_autocast_enabled("cpu"):
        return "precision is mixed"
    if query.dtype not in DTYPES or memory.proj.weight.dtype != query.dtype:
        return f"dtypes are {query.dtype} and {memory.proj.weight.dtype}"
    return unordered(query, keys, values, plan, memory, need_weights)


def attend_source(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    layout: SourceLayout,
    plan: SegmentPlan,
    memory: torch.nn.Module,
    dropout: float = 0.0,
    need_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`torch_ops.attend_source` by the loop; by `torch_ops` itself where the loop does not apply."""
    if obstacle(query, keys, values, plan, memory, need_weights) is not None:
        return torch_ops.attend_source(query, keys, values, layout, plan, memory, dropout, need_weights)
    return _attend_by_visits(query, keys, values, layout, plan, memory, dropout), None


@torch.compiler.disable
def _attend_by_visits(query, keys, values, layout, plan, memory, dropout) -> Tensor:
    tables = visit_tables(plan, layout, query.size(1))
    gate = query.new_ones(query.size(1)) if memory.gate is None else memory.gate.tanh()
    leak, threshold = constrain_leak(memory.leak), constrain_threshold(memory.threshold)
    noise = None
    if dropout > 0:
        noise = query.new_empty(len(tables.query_rows), layout.segment_size).bernoulli_(1 - dropout).div_(1 - dropout)
    return _Visits.apply(query, keys, values, memory.proj.weight, leak, threshold, gate, noise, tables, memory.clamp)


class _Visits(torch.autograd.Function):
    """Local plus recurrent term: `query` (B, H, Q, D), `keys` and `values` (N, B, H * D) -> (B, H, Q, D).

    `gate` (H,) scales the recurrent term; `noise` (P * B * H, s) multiplies the local weights, None: nothing does.
    """

    @staticmethod
    def forward(ctx, query, keys, values, weight, leak, threshold, gate, noise, tables, clamp):
        loop = _Loop(query, keys, values, weight, leak, threshold, gate, noise, tables, clamp)
        output = loop.forward()
        ctx.save_for_backward(query, keys, values, weight, leak, threshold, gate, noise)
        ctx.tables, ctx.clamp, ctx.kept = tables, clamp, loop.kept
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        loop = _Loop(*ctx.saved_tensors, ctx.tables, ctx.clamp)
        if ctx.kept is None:  # an earlier backward pass through the same graph wrote over it
            loop.forward()
        else:
            loop.kept, ctx.kept = ctx.kept, None
        return (*loop.backward(upstream), None, None, None)


class _Loop:
    """The loops for one set of inputs; X is B * H, a "block" of visit r is (X, readers[r], ...)."""

    def __init__(self, query, keys, values, weight, leak, threshold, gate, noise, tables: VisitTables, clamp):
        self.batch_size, self.num_heads, self.num_queries, self.head_dim = query.shape
        self.batch_heads = self.batch_size * self.num_heads
        self.shape = keys.shape
        self.sources = [x.reshape(-1, self.head_dim) for x in (keys, values)]
        self.query = self._spread(query, tables)
        self.weight, self.noise, self.clamp, self.tables = weight, noise, clamp, tables
        self.leak, self.threshold = leak.item(), threshold.item()
        self.gate = gate.view(-1, 1)  # (H, 1)
        self.num_segments = len(tables.source_rows)
        self.size = tables.source_rows.size(1) // self.batch_heads
        self.buffers = [query.new_empty(self.batch_heads, self.size, self.head_dim) for _ in range(2)]
        self.kept = None  # states U', local weights, reading before its scale, S, nu^2

    def _spread(self, x: Tensor, tables: VisitTables) -> Tensor:
        """(B, H, Q, D) -> (P * X, D), visit after visit."""
        return x.reshape(-1, self.head_dim).index_select(0, tables.query_rows)

    def _collect(self, slots: Tensor) -> Tensor:
        """The inverse of `_spread`: a result per query."""
        return slots.index_select(0, self.tables.slot_rows).view(
            self.batch_size, self.num_heads, self.num_queries, self.head_dim
        )

    def _block(self, slots: Tensor, visit: int) -> Tensor:
        """(P * X, E) -> (X, readers of the visit, E), a view."""
        readers, first = self.tables.readers[visit], self.tables.first_reader[visit] * self.batch_heads
        return slots[first : first + readers * self.batch_heads].view(self.batch_heads, readers, -1)

    def _load(self, visit: int) -> list[Tensor]:
        """Keys and values of a visit, (X, s, D), zeros in empty slots; overwritten by the next call."""
        rows, empty = self.tables.source_rows[visit], self.tables.empty[visit]
        for source, buffer in zip(self.sources, self.buffers):
            torch.index_select(source, 0, rows, out=buffer.view(-1, self.head_dim))
            if empty is not None:
                buffer.masked_fill_(empty, 0)
        return self.buffers

    def _square(self, count: int) -> list[Tensor]:
        """Work tensors (X, D, D)."""
        side = self.head_dim
        return [self.weight.new_empty(self.batch_heads, side, side) for _ in range(count)]

    def _rows(self, x: Tensor) -> Tensor:
        """(X, D, D) -> (X * D, D), a view: rows of key channels, for products with W."""
        return x.view(-1, self.head_dim)

    def _scale(self, squares: Tensor) -> Tensor:
        """What multiplies q^T relu(U' - threshold) to give the recurrent term: (B, H, D)."""
        return inverse_root(squares).view(self.batch_size, self.num_heads, -1) * self.gate / self.threshold

    def _scaled(self, slots: Tensor, scale: Tensor) -> Tensor:
        """Every slot (P * X, D) times the `scale` (B, H, D) of its sentence and head."""
        scale = scale.view(self.batch_heads, 1, -1)
        scaled = torch.empty_like(slots)
        for visit in range(len(self.tables.readers)):
            torch.mul(self._block(slots, visit), scale, out=self._block(scaled, visit))
        return scaled

    def forward(self) -> Tensor:
        """The output (B, H, Q, D)."""
        weights = self.query.new_empty(len(self.query), self.size)
        local, reading = (torch.empty_like(self.query) for _ in range(2))
        states, total, squares = self._attend_locally(local, weights)
        self._accumulate_and_fire(states, total, reading)
        self.kept = states, weights, reading, total, squares
        return self._collect(self._scaled(reading, self._scale(squares)).add_(local))

    def _attend_locally(self, local: Tensor, weights: Tensor):
        """First loop: fill `local` and `weights`; return products S_r of the visits read, S, and nu^2 (X, D)."""
        products = []  # one tensor each: memory of this size is used again, a large tensor's is mapped anew each time
        (total,) = self._square(1)
        total.zero_()
        squares = total.new_zeros(self.batch_heads, self.head_dim)
        square = torch.empty_like(self.buffers[0])
        for visit in range(self.num_segments):
            keys, values = self._load(visit)
            squares.add_(torch.mul(keys, keys, out=square).sum(dim=1))
            if visit >= len(self.tables.readers):
                total.baddbmm_(keys.transpose(1, 2), values)
                continue
            products.append(torch.bmm(keys.transpose(1, 2), values))
            total.add_(products[-1])
            probabilities = self._block(weights, visit)
            torch.bmm(self._block(self.query, visit), keys.transpose(1, 2), out=probabilities)
            empty = self.tables.empty[visit]
            if empty is None:
                torch.softmax(probabilities, dim=-1, out=probabilities)
            else:
                empty = empty.transpose(1, 2)
                probabilities.masked_fill_(empty, torch.finfo(probabilities.dtype).min)
                # without a single token the softmax is uniform over empty slots
                probabilities.copy_(probabilities.softmax(dim=-1).masked_fill_(empty, 0))
            torch.bmm(self._dropped(probabilities, visit), values, out=self._block(local, visit))
        return products, total, squares

    def _dropped(self, probabilities: Tensor, visit: int) -> Tensor:
        return probabilities if self.noise is None else probabilities * self._block(self.noise, visit)

    def _accumulate_and_fire(self, states: list[Tensor], total: Tensor, reading: Tensor) -> None:
        """Second loop: from S_r to U'_r in place; `reading` becomes q^T relu(U' - threshold)."""
        bound = self.clamp
        everything = total if bound is None else total.clamp(-bound, bound)
        others, fired, potential = self._square(3)
        transposed = self.weight.t()
        for visit, charged in enumerate(states):
            own = charged if bound is None else charged.clamp_(-bound, bound)
            torch.sub(everything, own, out=others)
            if visit == 0:
                torch.mm(self._rows(others), transposed, out=self._rows(charged))
            else:
                torch.addmm(
                    self._rows(potential), self._rows(others), transposed, beta=self.leak, out=self._rows(charged)
                )
            excess = torch.sub(charged, self.threshold, out=others).relu_()
            torch.bmm(self._block(self.query, visit), excess, out=self._block(reading, visit))
            torch.sign(excess, out=fired)
            torch.add(charged, fired, alpha=-self.threshold, out=potential)

    def backward(self, upstream: Tensor) -> tuple:
        """Gradients of query, keys, values, weight, leak, threshold and gate. Uses up what was kept."""
        states, weights, reading, total, squares = self.kept
        self.kept = None
        upstream = self._spread(upstream, self.tables)
        if self.tables.unused is not None:
            upstream.masked_fill_(self.tables.unused, 0)
        scale = self._scale(squares)
        read = sum(  # gradient of the scale
            (self._block(upstream, visit) * self._block(reading, visit)).sum(dim=1) for visit in range(len(states))
        ).view_as(scale)
        inverse = inverse_root(squares)
        gate_gradient = (read * inverse.view_as(scale)).sum(dim=(0, 2)) / self.threshold
        threshold_gradient = -(read * scale).sum() / self.threshold
        # d(1 / nu) / d(nu^2) = -nu^-3 / 2, d(nu^2) / dk = 2 k
        key_scale = -(read * self.gate / self.threshold).view_as(inverse) * inverse.pow(3)

        query_gradient = torch.empty_like(self.query)
        driven, leak_gradient, fired_gradient = self._unwind(states, self._scaled(upstream, scale), query_gradient)
        sources = self._to_the_source(
            states, driven, total, key_scale.unsqueeze(1), weights, upstream, query_gradient
        )
        return (
            self._collect(query_gradient),
            *sources,
            self.weight.new_full((1,), leak_gradient),
            (threshold_gradient + fired_gradient).view(1),
            gate_gradient,
        )

    def _unwind(self, states: list[Tensor], upstream: Tensor, query_gradient: Tensor):
        """Third loop, backwards: from U'_r to dX_r in place, and the recurrent term's share of `query_gradient`.

        Returns the sum of dX_r over r, and the gradients of leak and (but for its division) threshold.
        """
        driven, excess, fired, scratch = self._square(4)
        driven.zero_()
        leak_gradient = threshold_gradient = 0.0
        later = None  # dX_{r+1}
        for visit in reversed(range(len(states))):
            charged = states[visit]
            query, arriving = self._block(self.query, visit), self._block(upstream, visit)
            torch.sub(charged, self.threshold, out=excess).relu_()
            torch.sign(excess, out=fired)
            torch.bmm(arriving, excess.transpose(1, 2), out=self._block(query_gradient, visit))
            gradient = torch.bmm(query.transpose(1, 2), arriving, out=scratch).mul_(fired)
            if later is not None:
                # the potential after the reset is U' - threshold * fired
                leak_gradient += (_dot(later, charged) - self.threshold * _dot(later, fired)).item()
                gradient.add_(later, alpha=self.leak)
            threshold_gradient -= _dot(gradient, fired).item()
            driven.add_(gradient)
            states[visit], scratch = gradient, charged
            later = gradient
        return driven, leak_gradient, threshold_gradient

    def _to_the_source(self, states, driven, total, key_scale, weights, upstream, query_gradient):
        """Fourth loop: gradients of keys, values and weight, and the local term's share of `query_gradient`."""
        products, clipped, gradient, weight_gradient = self._square(4)
        bound = None
        total_gradient = torch.mm(self._rows(driven), self.weight).view_as(driven)
        everything = total
        if self.clamp is not None:
            everything = total.clamp(-self.clamp, self.clamp)
            # torch.clamp passes the gradient at its bounds, hardtanh does not
            bound = torch.nextafter(total.new_tensor(self.clamp), total.new_tensor(torch.inf)).item()
            _clip_backward(total_gradient, total, bound)
        torch.bmm(driven.transpose(1, 2), everything, out=weight_gradient)
        keys_gradient, values_gradient = (torch.empty_like(x) for x in self.buffers)
        count = self.sources[0].size(0)
        gradients = [self.weight.new_empty(count + 1, self.head_dim) for _ in range(2)]
        for visit in range(self.num_segments):
            keys, values = self._load(visit)
            product_gradient = total_gradient
            if visit < len(states):
                torch.bmm(keys.transpose(1, 2), values, out=products)
                own = products
                if bound is not None:
                    own = torch.clamp(products, -self.clamp, self.clamp, out=clipped)
                weight_gradient.baddbmm_(states[visit].transpose(1, 2), own, alpha=-1)
                torch.mm(self._rows(states[visit]), self.weight, out=self._rows(gradient))
                if bound is not None:
                    _clip_backward(gradient, products, bound)
                product_gradient = torch.sub(total_gradient, gradient, out=gradient)
            torch.bmm(keys, product_gradient, out=values_gradient)
            torch.bmm(values, product_gradient.transpose(1, 2), out=keys_gradient)
            keys_gradient.addcmul_(keys, key_scale)
            if visit < len(states):
                query, arriving = self._block(self.query, visit), self._block(upstream, visit)
                probabilities = self._block(weights, visit)
                values_gradient.baddbmm_(self._dropped(probabilities, visit).transpose(1, 2), arriving)
                local = self._dropped(torch.bmm(arriving, values.transpose(1, 2)), visit).mul_(probabilities)
                local.addcmul_(probabilities, local.sum(dim=-1, keepdim=True), value=-1)
                self._block(query_gradient, visit).baddbmm_(local, keys)
                keys_gradient.baddbmm_(local.transpose(1, 2), query)
            rows = self.tables.gradient_rows[visit]
            for whole, part in zip(gradients, (keys_gradient, values_gradient)):
                whole.index_copy_(0, rows, part.view(-1, self.head_dim))
        return *(x[:count].view(self.shape) for x in gradients), weight_gradient.sum(dim=0)


def _clip_backward(gradient: Tensor, clipped: Tensor, bound: float) -> None:
    """Set `gradient` to zero where `clipped`, before the clip, is not within (-bound, bound)."""
    torch.ops.aten.hardtanh_backward.grad_input(gradient, clipped, -bound, bound, grad_input=gradient)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.view(-1), b.view(-1))
