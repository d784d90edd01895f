"""Segments chosen by content: every query of every head attends to the segments that score highest for it.

(docs/attention.md, section 9.) A score is a class with `summarise`, of the source alone and kept once per sentence
while decoding, and `rate`, of queries. To add one: write the class and put it into `SCORES`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ...errors import ConfigurationError
from ...registry import choose as registered
from .plan import SegmentPlan
from .segments import SourceLayout


class MeanScore:
    """a_j = q . mu_j, mu_j the mean of the segment's keys."""

    @staticmethod
    def summarise(keys: Tensor, layout: SourceLayout) -> Tensor:
        """What is kept of keys (B, H, m, s, D), zeros in empty slots: (B, H, m, E), at least float32; here E is D."""
        return layout.means(keys)

    @staticmethod
    def rate(query: Tensor, summaries: Tensor) -> Tensor:
        """Scores (B, H, Q, m) of queries (B, H, Q, D) in the summaries' dtype."""
        return query.to(summaries.dtype) @ summaries.transpose(2, 3)


SCORES = {"mean": MeanScore}


SEGMENTS_PER_QUERY = 8  # the default


def check_segments_per_query(count: int) -> int:
    """`count`; a ConfigurationError where queries cannot choose so many segments."""
    if count < 1:
        raise ConfigurationError(
            f"--segments-per-query must be at least 1, got {count}; {SEGMENTS_PER_QUERY} is the default"
        )
    return count


class ContentSchedule:
    """Every query of every head attends to the k segments with the highest scores, of equals the lower ones.

    What is chosen depends on the query alone: neither on its position nor on a target's length. Where a sentence has
    no more than k segments, this is full attention. No gradient passes through the choice.

    Args:
        segments_per_query: k, at least 1.
        score: the name of one of `SCORES` (`--segment-score`).
        clock: the schedule that a memory of visits goes by; None: the memory needs none.
    """

    uses_content = True

    def __init__(self, segments_per_query: int, score: str = "mean", clock=None):
        self.segments_per_query = check_segments_per_query(segments_per_query)
        self.score = registered(SCORES, score, "--segment-score")()
        self.clock = clock

    @property
    def identity(self) -> tuple:
        """What plans depend on beside the arguments of `plan`."""
        return type(self), self.segments_per_query, type(self.score), self.clock and self.clock.identity

    def plan(self, layout: SourceLayout, *positions, **others) -> SegmentPlan:
        """As `ClockSchedule.plan`; which segments, `choose` will say when there are queries."""
        if self.clock is None:
            return SegmentPlan(None, None, None, 0, layout.max_segments, choice=self)
        visits = self.clock.plan(layout, *positions, **others)
        return replace(visits, segments=None, choice=self, state_follows_segment=False, in_order=False)

    @torch.no_grad()
    def summarise(self, keys: Tensor, layout: SourceLayout) -> Tensor:
        """What `choose` needs of keys (B, H, m, s, D), zeros in empty slots: (B, H, m, E), once per source."""
        with torch.autocast(keys.device.type, enabled=False):
            return self.score.summarise(keys, layout)

    @torch.no_grad()
    def choose(self, query: Tensor, summaries: Tensor, segment_counts: Tensor) -> Tensor:
        """The segments of every query, without host synchronisation.

        Args:
            query: (B, H, Q, D), scaled.
            summaries: of `summarise`.
            segment_counts: (B,), m_b.
        Returns:
            (B, H, Q, k) int64, ascending; k is m where there are fewer. Segments beyond a sentence's own, which have
            no token, fill up where it has fewer than k.
        """
        available = summaries.size(2)
        if available <= self.segments_per_query:
            return torch.arange(available, device=query.device).expand(*query.shape[:3], -1)
        with torch.autocast(query.device.type, enabled=False):
            scores = self.score.rate(query, summaries)
        beyond = torch.arange(available, device=query.device) >= segment_counts.unsqueeze(1)
        return highest(scores.masked_fill(beyond[:, None, None], -torch.inf), self.segments_per_query)


def highest(scores: Tensor, count: int) -> Tensor:
    """Where the `count` highest of (..., m) are, of equals the lower ones: (..., count) int64, ascending.

    Without host synchronisation on a GPU.
    """
    if scores.device.type != "cpu":
        return scores.argsort(dim=-1, descending=True, stable=True)[..., :count].sort(dim=-1).values
    # a whole sort costs several times as much there; but `topk` takes any of equals
    values, found = scores.topk(count, dim=-1)
    undecided = (scores >= values[..., -1:]).sum(dim=-1, dtype=torch.int32) != count
    if undecided.any():
        found[undecided] = scores[undecided].argsort(dim=-1, descending=True, stable=True)[..., :count]
    return found.sort(dim=-1).values
