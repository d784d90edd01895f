"""What each kernel computes, in plain PyTorch operations: a function of the same name, for one head of one sentence.

Any dtype and device. n tokens without padding, Q queries, R states, D head size; segments are slices of `size` tokens.
The names are those of `kernels/forward.py` and `kernels/backward.py`, where a batch, chunks of segments and blocks of
rows come on top. A plain decoding step is `torch/attend.py`'s.
"""

import torch
from torch import Tensor

from ..method.memory import inverse_root


def phi(product: Tensor, bound: float | None) -> Tensor:
    """The clip to [-bound, bound]; None: the identity."""
    return product if bound is None else product.clamp(-bound, bound)


def pass_clip(gradient: Tensor, product: Tensor, bound: float | None) -> Tensor:
    """The gradient through `phi` at `product`; it passes at the bounds."""
    return gradient if bound is None else gradient * (product.abs() <= bound)


def segment_forward(query, keys, values, weight, segments, segment_of_state, size, bound):
    """One pass over keys and values.

    Args:
        query, keys, values: (Q, D), (n, D) and (n, D).
        weight: W, (D, D).
        segments: (Q,), the segment that each query attends to.
        segment_of_state: (R,), the segment that each state belongs to.
    Returns:
        local (Q, D), lse (Q,), y (R, D, D) = phi(S_j) W^T, S (D, D), and nu^2 (D,).
    """
    local, lse, products = torch.zeros_like(query), query.new_zeros(len(query)), []
    for j, (k, v) in enumerate(zip(keys.split(size), values.split(size))):
        scores = query[segments == j] @ k.T
        lse[segments == j] = scores.logsumexp(1)
        local[segments == j] = scores.softmax(1) @ v
        products.append(k.T @ v)
    products = torch.stack(products)
    y = phi(products[segment_of_state], bound) @ weight.T
    return local, lse, y, products.sum(0), keys.square().sum(0)


def total_products(total, squares, weight, bound):
    """phi(S) W^T (D, D), and 1 / nu (D,)."""
    return phi(total, bound) @ weight.T, inverse_root(squares)


def scan_forward(query, states, y, drive, inverse_norm, local, leak, threshold, gate):
    """The neuron over all states, and what their queries read.

    Args:
        states: (Q,), the state that each query reads.
        gate: tanh of the head's; 1 without gates.
    Returns:
        output (Q, D), and excess (R, D, D) = U' / threshold - 1.
    """
    potential, excess = torch.zeros_like(drive), []
    for own in y:
        charged = leak * potential + drive - own
        excess.append(charged / threshold - 1)
        potential = charged - threshold * (excess[-1] > 0)
    excess = torch.stack(excess)
    recalled = torch.einsum("qd,qde->qe", query, excess.relu()[states])
    return local + recalled * inverse_norm * gate, excess


def scan_backward(query, upstream, states, excess, weight, total, inverse_norm, leak, threshold, gate, bound):
    """The reading's gradients and the neuron's, from the last state to the first.

    Args:
        upstream: (Q, D), gradient of the output.
    Returns:
        dq (Q, D), the memory's share; dX (R, D, D); gradients of S through phi (D, D), of 1 / nu before the gate (D,),
        of leak and of threshold.
    """
    scale, emitted, fired = inverse_norm * gate, excess.relu(), excess > 0
    dq = torch.einsum("qe,qde->qd", upstream * scale, emitted[states])
    into_states = torch.zeros_like(excess).index_add(0, states, query.unsqueeze(2) * upstream.unsqueeze(1))
    into_norm = (emitted * into_states).sum((0, 1))
    drives, later = torch.zeros_like(excess), torch.zeros_like(total)
    into_leak = into_threshold = 0
    for r in reversed(range(len(excess))):
        through = into_states[r] * scale / threshold * fired[r]
        carried = leak * later
        into_threshold = into_threshold - (through * (excess[r] + 1) + carried * fired[r]).sum()
        into_leak = into_leak + (later * threshold * (excess[r] + ~fired[r])).sum()
        drives[r] = later = through + carried
    into_total = pass_clip(drives.sum(0) @ weight, total, bound)
    return dq, drives, into_total, into_norm, into_leak, into_threshold


def segment_backward(
    query, keys, values, weight, upstream, local, lse, dq, drives, total, inverse_norm, into_total, into_norm, gate,
    segments, segment_of_state, size, bound,
):  # fmt: skip
    """Gradients of keys and values, of the queries on them (`dq` holds the memory's share), and of W.

    Returns:
        dq (Q, D), dk (n, D), dv (n, D), dW (D, D).
    """
    dq, dk, dv, d_weight = dq.clone(), [], [], torch.zeros_like(weight)
    by_norm = -into_norm * gate * inverse_norm**3  # d(1 / nu) / dk = -k / nu^3
    for j, (k, v) in enumerate(zip(keys.split(size), values.split(size))):
        into_product = into_total
        for r in (segment_of_state == j).nonzero().flatten().tolist():
            product = k.T @ v
            d_weight += drives[r].T @ (phi(total, bound) - phi(product, bound))
            into_product = into_product - pass_clip(drives[r] @ weight, product, bound)
        q, u = query[segments == j], upstream[segments == j]
        weights = (q @ k.T - lse[segments == j, None]).exp()
        delta = (local * upstream)[segments == j].sum(1, keepdim=True)
        into_scores = weights * (u @ v.T - delta)
        dq[segments == j] += into_scores @ k
        dk.append(v @ into_product.T + k * by_norm + into_scores.T @ q)
        dv.append(k @ into_product + weights.T @ u)
    return dq, torch.cat(dk), torch.cat(dv), d_weight


def parameter_gradients(d_weights, scalars, norms, inverse_norms, gate):
    """The sums over sentences, of one head: dW, dleak, dthreshold, and that of the gate, whose tanh is `gate`.

    Args:
        d_weights, scalars, norms, inverse_norms: lists, an entry a sentence, of what the functions above return;
            `scalars` of (dleak, dthreshold).
    """
    into_gate = sum((inverse * norm).sum() for inverse, norm in zip(inverse_norms, norms))
    d_leak, d_threshold = map(sum, zip(*scalars))
    return sum(d_weights), d_leak, d_threshold, into_gate * (1 - gate**2)
