"""What every query reads, as a schedule decided it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Protocol
from weakref import WeakKeyDictionary

from torch import Tensor


class Choice(Protocol):
    """How queries choose their segments, where a schedule leaves it to them (`content.ContentSchedule`)."""

    segments_per_query: int

    def summarise(self, keys: Tensor, layout) -> Tensor:
        """What `choose` needs of a source's keys, computed once: (B, H, m, E)."""

    def choose(self, query: Tensor, summaries: Tensor, segment_counts: Tensor) -> Tensor:
        """The segments of every query, (B, H, Q, k)."""


@dataclass(eq=False)  # two plans are never the same one: what backends make of a plan is kept by it (`once_per_plan`)
class SegmentPlan:
    """What every query reads, as a schedule decided it.

    Attributes:
        segments: (B, H or 1, Q, k) int64: the segments query q (of head h) attends to by softmax, different ones. One
            that lies beyond a sentence's own segments has empty slots alone (`SourceLayout.is_real`), and adds nothing;
            neither does -1. None until `decide`, where queries choose.
        states: (B, H or 1, Q, 1) int64: the memory state it reads; None: there are no states.
        segment_of_state: (B, R) int64: the segment that memory state r belongs to; None: state r belongs to segment r.
        num_states: R, memory states that are read at most, a Python int.
        max_segments: m of the longest row.
        state_follows_segment: queries with the same segment also read the same state (k is 1), so that both
            terms share one grouping.
        one_position: all queries are of one position (a decoding step), so that all of a sentence's read one state.
        in_order: queries come in the order of the states they read, the same for all heads, from state 0 on and
            without a gap; a state's readers attend to the segment that it belongs to. What kernels ask for.
        choice: how queries choose their segments; None: they do not.
    """

    segments: Tensor | None
    states: Tensor | None
    segment_of_state: Tensor | None
    num_states: int
    max_segments: int
    state_follows_segment: bool = False
    one_position: bool = False
    in_order: bool = False
    choice: Choice | None = None

    def decide(self, query: Tensor, summaries: Tensor, segment_counts: Tensor) -> "SegmentPlan":
        """The plan with the segments that queries (B, H, Q, D) choose; itself, where they do not.

        Args:
            summaries: what the choice's `summarise` returned.
            segment_counts: (B,), m_b.
        """
        if self.choice is None:
            return self
        return replace(self, segments=self.choice.choose(query, summaries, segment_counts))


def once_per_plan(function: Callable) -> Callable:
    """Make `function(plan, *others)` compute its result once for all layers that share a plan.

    The result lives as long as the plan does, so it must not hold the plan; `others` are compared as dictionaries
    compare keys.
    """
    kept: WeakKeyDictionary[SegmentPlan, dict] = WeakKeyDictionary()

    @wraps(function)
    def once(plan: SegmentPlan, *others):
        results = kept.setdefault(plan, {})
        if others not in results:
            results[others] = function(plan, *others)
        return results[others]

    return once
