"""What every query reads, as a schedule decided it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from weakref import WeakKeyDictionary

from torch import Tensor


@dataclass(eq=False)  # two plans are never the same one: what backends make of a plan is kept by it (`once_per_plan`)
class SegmentPlan:
    """What every query reads, as a schedule decided it.

    Attributes:
        segments: (B, H or 1, Q, k) int64: the segments query q (of head h) attends to by softmax. One that lies beyond
            a sentence's own segments has empty slots alone (`SourceLayout.is_real`), and adds nothing.
        states: (B, H or 1, Q, 1) int64: the memory state it reads.
        segment_of_state: (B, R) int64: the segment that memory state r belongs to; None: state r belongs to segment r.
        num_states: R, memory states that are read at most, a Python int.
        max_segments: m of the longest row.
        state_follows_segment: queries with the same segment also read the same state (k is 1), so that both
            terms share one grouping.
        same_segment: all queries of a sentence read the same segment (one decoding step).
        in_order: queries come in the order of the states they read, the same for all heads, from state 0 on and
            without a gap; a state's readers attend to the segment that it belongs to. What kernels ask for.
    """

    segments: Tensor
    states: Tensor
    segment_of_state: Tensor | None
    num_states: int
    max_segments: int
    state_follows_segment: bool = False
    same_segment: bool = False
    in_order: bool = False


def once_per_plan(function: Callable) -> Callable:
    """Make `function(plan, *others)` compute its result once for all layers that share a plan.

    The result lives as long as the plan does, so it must not hold the plan; `others` are compared as dictionaries
    compare keys.
    """
    kept = WeakKeyDictionary()

    @wraps(function)
    def once(plan: SegmentPlan, *others):
        results = kept.setdefault(plan, {})
        if others not in results:
            results[others] = function(plan, *others)
        return results[others]

    return once
