"""What carries the segments a position does not attend to: the exchangeable memory of `--cross-attention`.

A memory is a module built as `Memory(num_heads, head_dim, settings)` with two methods:

    encode(keys, values, layout, plan) -> states   from the source alone; decoding keeps it, once per sentence
    read(query, states) -> recurrent term          of queries that are grouped by the state they read

To add one: write the module and put it into `MEMORIES`.
"""

import torch
from torch import Tensor, nn

from .plan import SegmentPlan
from .raf import constrain_leak, constrain_threshold, raf_scan
from .segments import SourceLayout

# A key channel whose norm over the whole source is below this carries nothing.
MIN_KEY_NORM = 1e-6


def state_dtype(tensor: Tensor) -> torch.dtype:
    """float32 for half-precision inputs (memory values reach five digits), else the input's dtype."""
    return torch.promote_types(tensor.dtype, torch.float32)


def inverse_key_norm(keys: Tensor) -> Tensor:
    """1 / nu, nu[e] the L2 norm of key channel e over the source; 0 for a dead channel.

    `keys` (B, H, m, s, D) with zeros in empty slots -> (B, H, D), of `state_dtype`. Never NaN, and neither is
    its gradient.
    """
    return inverse_root(keys.to(state_dtype(keys)).square().sum(dim=(2, 3)))


def inverse_root(squares: Tensor) -> Tensor:
    """1 / nu from nu^2; 0 for a dead channel."""
    alive = squares > MIN_KEY_NORM**2
    return torch.where(alive, squares, torch.ones_like(squares)).rsqrt() * alive


class RAFMemory(nn.Module):
    """The paper's memory: a RAF neuron over key-value products (docs/attention.md, section 2).

    Visiting segment j, the neuron is driven by X = C_j W^T, C_j = phi(S) - phi(S_j): the products of keys and
    values of all other segments; phi clips to [-clamp, clamp] or is the identity. Its output P, divided by the
    key norm, is the memory state that positions on segment j read with their query.

    Args:
        num_heads, head_dim: H and D.
        settings: a `SegmentSettings`: raf_leak, raf_threshold, kv_clamp, memory_gate.

    Parameters, shared by all heads: `proj.weight` (W, (D, D)), `leak` and `threshold` (one element each);
    with `memory_gate` one `gate` per head, whose tanh scales what is read and starts at 0.
    """

    def __init__(self, num_heads: int, head_dim: int, settings):
        super().__init__()
        self.clamp = settings.clamp
        self.proj = nn.Linear(head_dim, head_dim, bias=False)
        self.leak = nn.Parameter(torch.tensor([float(settings.raf_leak)]))
        self.threshold = nn.Parameter(torch.tensor([float(settings.raf_threshold)]))
        self.gate = nn.Parameter(torch.zeros(num_heads)) if settings.memory_gate else None
        self.scan = raf_scan

    def encode(self, keys: Tensor, values: Tensor, layout: SourceLayout, plan: SegmentPlan) -> Tensor:
        """The memory states of a source.

        Args:
            keys, values: (B, H, m, s, D), zeros in empty slots.
            layout, plan: which slots these are, and which states are read.
        Returns:
            (B, H, R, D, D), row = key channel, column = value channel, in `state_dtype`.
        """
        dtype = state_dtype(keys)
        with torch.autocast(keys.device.type, enabled=False):
            inverse_norm = inverse_key_norm(keys)
            drive = self._drive(keys.to(dtype), values.to(dtype), self.proj.weight.to(dtype), plan)
            leak, threshold = constrain_leak(self.leak.to(dtype)), constrain_threshold(self.threshold.to(dtype))
            # the norm of key channel e divides value channel e: the paper's code, kept for its checkpoints
            return self.scan(drive, leak, threshold) * inverse_norm[:, :, None, None, :]

    def _drive(self, keys: Tensor, values: Tensor, weight: Tensor, plan: SegmentPlan) -> Tensor:
        """X of every state, (B, H, R, D, D)."""
        if self.acts_on_values(keys.size(2) * keys.size(3), plan):
            # S_j W^T = K_j^T (V_j W^T)
            products = keys.transpose(-1, -2) @ (values @ weight.T)
            return products.sum(dim=2, keepdim=True) - self._of_states(products, plan)
        products = keys.transpose(-1, -2) @ values
        total, own = products.sum(dim=2, keepdim=True), self._of_states(products, plan)
        if self.clamp is not None:
            total, own = total.clamp(-self.clamp, self.clamp), own.clamp(-self.clamp, self.clamp)
        return (total - own) @ weight.T

    def acts_on_values(self, slots: int, plan: SegmentPlan) -> bool:
        """W on the values of the source's `slots` costs less than on the states' products, and is the same."""
        return self.clamp is None and slots < plan.num_states * self.proj.in_features

    @staticmethod
    def _of_states(products: Tensor, plan: SegmentPlan) -> Tensor:
        """From one product per segment (B, H, m, D, D) to one per memory state (B, H, R, D, D)."""
        if plan.segment_of_state is None:
            return products[:, :, : plan.num_states]
        batch = torch.arange(products.size(0), device=products.device).unsqueeze(1)
        return products.transpose(1, 2)[batch, plan.segment_of_state].transpose(1, 2)

    def read(self, query: Tensor, states: Tensor) -> Tensor:
        """q^T P, gated: `query` (B, H, G, size, D), `states` (B, H, G, D, D) -> (B, H, G, size, D)."""
        with torch.autocast(query.device.type, enabled=False):
            recalled = query.to(states.dtype) @ states
            if self.gate is not None:
                recalled = recalled * self.gate.to(recalled.dtype).tanh().view(1, -1, 1, 1, 1)
            return recalled


class NoMemory(nn.Module):
    """Segmented attention: nothing carries the other segments (the paper's ablation)."""

    def __init__(self, num_heads: int, head_dim: int, settings):
        super().__init__()

    def encode(self, keys: Tensor, values: Tensor, layout: SourceLayout, plan: SegmentPlan) -> None:
        return None


MEMORIES = {
    "srformer": RAFMemory,
    "segmented": NoMemory,
}
