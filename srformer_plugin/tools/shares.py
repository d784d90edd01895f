"""Of what a decoder attends to, the share that is relevant: of one example, and over a split.

An example has shares of two kinds, each beside what chance would give:

- attention: of the weights of the cross-attention's softmax, those on relevant tokens, as the mean over the target's
  positions and heads; chance is the relevant tokens' share of all tokens, which an even attention gives;
- segments: of the segments attended to, those that hold a relevant token; chance is their share of all segments.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..models.attention_calls import AttentionCall
from ..scoring.statistics import SAMPLES, SEED, bootstrap_means, interval


class Shares(NamedTuple):
    """Of one example: by layer, and by chance. All between 0 and 1."""

    layers: tuple[float, ...]
    chance: float


def relevant_tokens(spans, length: int, offset: int = 0, device=None) -> Tensor:
    """(length,) bool: a source's tokens within the half-open `spans`, which count from token `offset`."""
    relevant = torch.zeros(length, dtype=torch.bool, device=device)
    for start, end in spans:
        relevant[start + offset : end + offset] = True
    return relevant


class Measured:
    """Collects the `Shares` of an example layer by layer: `take` is for `for_each_call`.

    Args:
        relevant: (N,) bool, of the source's tokens; none of them is padding.
    """

    def __init__(self, relevant: Tensor):
        self.relevant = relevant
        self.attention_layers: list[float] = []
        self.segment_layers: list[float] = []
        self.segment_chance = 0.0

    def take(self, call: AttentionCall) -> None:
        """Measure a layer, of one target (B is 1)."""
        self.attention_layers.append(float(call.weights[0][:, self.relevant].sum(dim=1, dtype=torch.float64).mean()))
        segments = call.segments_read()
        if segments is not None:
            holds = held(self.relevant, call.attention.segment_size)
            self.segment_chance = float(holds.double().mean())
            chosen = segments[(segments >= 0) & (segments < len(holds))]
            self.segment_layers.append(float(holds[chosen].double().mean()))

    @property
    def attention(self) -> Shares:
        return Shares(tuple(self.attention_layers), float(self.relevant.double().mean()))

    @property
    def segments(self) -> "Shares | None":
        """None: the attention knows no segments."""
        return Shares(tuple(self.segment_layers), self.segment_chance) if self.segment_layers else None


def held(relevant: Tensor, segment_size: int) -> Tensor:
    """(m,) bool: segments of a source (N,) that hold a relevant token."""
    return torch.stack([part.any() for part in relevant.split(segment_size)])


def over_examples(shares: list[Shares], samples: int = SAMPLES, seed: int = SEED) -> dict:
    """Means over examples, with bootstrap intervals of 95%.

    The ratio is that of the two means, share by chance: examples with a large relevant part do not weigh more in it for
    their small ratios. Every resampling draws examples, and takes both means of them.

    Returns:
        {"share", "share_interval", "chance", "ratio", "ratio_interval", "layers": [{the same but for chance}]}
    """
    layers = np.array([one.layers for one in shares])  # [examples, L]
    columns = np.column_stack((layers.mean(axis=1), layers, [one.chance for one in shares]))
    observed, means = columns.mean(axis=0), bootstrap_means(columns, samples, seed)
    of_shares, of_ratios = interval(means[:, :-1]), interval(means[:, :-1] / means[:, -1:])
    rows = [
        {
            "share": float(observed[n]),
            "share_interval": of_shares[:, n].tolist(),
            "ratio": float(observed[n] / observed[-1]),
            "ratio_interval": of_ratios[:, n].tolist(),
        }
        for n in range(columns.shape[1] - 1)
    ]
    return {**rows[0], "chance": float(observed[-1]), "layers": rows[1:]}
