"""What carries the segments a position does not attend to: the exchangeable memory of `--cross-attention`.

A memory is a `Memory`, built with (num_heads, head_dim, settings). It does one of three things: it adds a recurrent
term to what is attended to (`read`), takes part in the softmax (`pool`), or has more segments attended to (`attended`).
To add one: write the module and put it into `MEMORIES`.
"""

import torch
import torch.nn.functional as F
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


def masked_softmax(logits: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The log of the sum of exp(logits) over the last dimension, without what is `hidden`, and the softmax.

    Where all is hidden the sum is close to the lowest number of its dtype, and the softmax is 0. Never NaN, and neither
    are gradients.
    """
    logits = logits.masked_fill(hidden, torch.finfo(logits.dtype).min / 2)
    return logits.logsumexp(-1), logits.softmax(-1).masked_fill(hidden, 0)


class Memory(nn.Module):
    """What every memory has; a subclass overrides what it does in another way.

    A recurrent one also has `read(query, states)`: queries (B, H, G, size, D), grouped by the state they read, and
    states (B, H, G, ...) -> the recurrent term (B, H, G, size, D).

    Args:
        num_heads, head_dim: H and D.
        settings: a `SegmentSettings`.
    """

    goes_by_visits = False  # its states belong to the visits of a clock
    needs_clock = False  # it makes sense only where the clock says what is attended to, too
    joins_softmax = False  # it has `pool`

    def __init__(self, num_heads: int, head_dim: int, settings):
        super().__init__()

    def encode(self, keys: Tensor, values: Tensor, layout: SourceLayout, plan: SegmentPlan) -> Tensor | None:
        """The states of a source, from the source alone; decoding keeps them, once per sentence.

        Args:
            keys, values: (B, H, m, s, D), zeros in empty slots.
        Returns:
            (B, H, R, ...), or None where there are no states.
        """
        return None

    def attended(self, plan: SegmentPlan) -> Tensor:
        """The segments whose tokens queries attend to, as `SegmentPlan.segments`."""
        assert plan.segments is not None, "queries have not chosen yet"
        return plan.segments


class RAFMemory(Memory):
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

    goes_by_visits = True

    def __init__(self, num_heads: int, head_dim: int, settings):
        super().__init__(num_heads, head_dim, settings)
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


class NoMemory(Memory):
    """Segmented attention: nothing carries the other segments (the paper's ablation)."""


class PooledMemory(Memory):
    """Every segment that is not attended to takes part in the softmax as its mean (docs/attention.md, section 9).

    Segment j stands for its n_j tokens with one key, mu_j, the logit q . mu_j + log n_j, and the mean value: the
    paper's baseline after LongT5's global tokens.
    """

    joins_softmax = True

    def encode(self, keys: Tensor, values: Tensor, layout: SourceLayout, plan: SegmentPlan) -> Tensor:
        """Mean key, mean value and number of tokens of every segment: (B, H, m, 2 D + 1), at least float32."""
        means = (layout.means(keys), layout.means(values))
        tokens = layout.tokens.to(means[0].dtype)[:, None, :, None].expand(-1, keys.size(1), -1, -1)
        return torch.cat((*means, tokens), dim=-1)

    @staticmethod
    def pool(query: Tensor, states: Tensor, segments: Tensor, dropout: float) -> tuple[Tensor, Tensor, Tensor]:
        """The softmax over the segments that are not attended to.

        Args:
            query: (B, H, Q, D), scaled.
            states: of `encode`.
            segments: (B, H or 1, Q, k), those that are attended to; -1: none.
            dropout: probability, on the weights.
        Returns:
            output (B, H, Q, D), log of the sum of exp(logits) (B, H, Q), and weights (B, H, Q, m), all of the states'
            dtype.
        """
        keys, values, tokens = states.split((query.size(-1), query.size(-1), 1), dim=-1)
        with torch.autocast(query.device.type, enabled=False):
            tokens = tokens.transpose(2, 3)
            logits = query.to(states.dtype) @ keys.transpose(2, 3) + tokens.clamp(min=1).log()
            # one column more, for -1
            attended = logits.new_zeros((*segments.shape[:3], keys.size(2) + 1), dtype=torch.bool)
            attended = attended.scatter_(3, segments.remainder(keys.size(2) + 1), True)[..., :-1]
            log_sum, weights = masked_softmax(logits, attended | (tokens == 0))
            return F.dropout(weights, dropout, training=dropout > 0) @ values, log_sum, weights


class PreviousMemory(Memory):
    """The segment that was visited before is attended to as well: the paper's baseline after Transformer-XL."""

    goes_by_visits = True
    needs_clock = True

    def attended(self, plan: SegmentPlan) -> Tensor:
        """(B, 1, Q, 2): the segment of the visit before, -1 at the first one, and that of the query's."""
        assert plan.states is not None and plan.segments is not None, "there is no clock"
        before = plan.states - 1
        if plan.segment_of_state is not None:
            segment = plan.segment_of_state[:, None, :, None].gather(2, before.clamp(min=0))
            before = torch.where(before < 0, before, segment)
        return torch.cat((before, plan.segments), dim=3)


MEMORIES = {
    "srformer": RAFMemory,
    "segmented": NoMemory,
    "pooled": PooledMemory,
    "previous": PreviousMemory,
}
