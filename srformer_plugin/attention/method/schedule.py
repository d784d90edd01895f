"""Position -> segment: the one place that knows which source segment a target position attends to.

A schedule returns a `SegmentPlan`, which allows k segments per query and head, so that a schedule may differ by head or
look at several segments, or leave the choice to the queries (`content.py`). To add one: write a class with `plan` and
`identity`, and put it into `SCHEDULES`.

The paper's clock (docs/attention.md, section 4): sigma_b(t) = min(m_b - 1, floor(t m_b / L_b)).
"""

from typing import Any

import torch
from torch import Tensor

from ...errors import ConfigurationError
from ...registry import choose
from .content import SEGMENTS_PER_QUERY, ContentSchedule
from .plan import SegmentPlan
from .segments import SourceLayout


class ClockSchedule:
    """Position t attends to segment min(m_b - 1, floor(t m_b / L)), the same for all heads.

    Args:
        expected_target_length: L, at least 1, in target tokens (end of sentence included).
    """

    uses_content = False  # queries choose their segments

    def __init__(self, expected_target_length: int):
        if expected_target_length is None or expected_target_length < 1:
            raise ConfigurationError(
                f"--expected-target-length must be at least 1, got {expected_target_length}; "
                "use about the mean target length in tokens"
            )
        self.expected_target_length = int(expected_target_length)

    @property
    def identity(self) -> tuple:
        """What plans depend on beside the arguments of `plan`."""
        return type(self), self.expected_target_length

    def plan(
        self,
        layout: SourceLayout,
        first_position: int,
        length: int,
        hypotheses: int = 1,
        target_lengths: Tensor | None = None,
        decoding: bool = False,
    ) -> SegmentPlan:
        """Plan `length` target positions from `first_position` on.

        Args:
            layout: the source's segments, B sentences.
            hypotheses: per sentence; the plan has Q = hypotheses * length queries, hypothesis by hypothesis.
            target_lengths: (B,), true target lengths; None where nobody can know them (decoding).
            decoding: later positions will come: memory states for all of them are wanted.
        """
        counts = layout.segment_counts
        row_lengths = self._row_lengths(target_lengths)  # an int, or (B, 1)
        positions = torch.arange(first_position, first_position + length, device=counts.device)
        segments = self._segment(positions, counts.unsqueeze(1), row_lengths)
        if isinstance(row_lengths, int) and layout.max_segments <= row_lengths:
            states = segments  # every sentence's segments are all visited: no need to ask on the device which are
        else:
            states = self._state(positions, segments, counts.unsqueeze(1), row_lengths)

        # States that can be reached: one per segment, or, with more segments than positions, one per position
        # plus one for the last segment, which positions from L on fall into.
        last_position = None if decoding else first_position + length - 1
        num_states = layout.max_segments
        if isinstance(row_lengths, int):
            num_states = min(num_states, row_lengths + 1)
        if last_position is not None:
            num_states = min(num_states, last_position + 1)
        segment_of_state = None
        if not isinstance(row_lengths, int) or row_lengths < layout.max_segments:
            numbers = torch.arange(num_states, device=counts.device)
            segment_of_state = self._segment(numbers, counts.unsqueeze(1), row_lengths)
            every_segment = torch.minimum(numbers, counts.unsqueeze(1) - 1)
            segment_of_state = torch.where(counts.unsqueeze(1) <= row_lengths, every_segment, segment_of_state)
            states = states.clamp(max=num_states - 1)  # only rows past their own target's end are above
        if hypotheses > 1:
            segments, states = segments.repeat(1, hypotheses), states.repeat(1, hypotheses)
        return SegmentPlan(
            segments=segments[:, None, :, None],
            states=states[:, None, :, None],
            segment_of_state=segment_of_state,
            num_states=num_states,
            max_segments=layout.max_segments,
            state_follows_segment=True,
            one_position=length == 1,
            in_order=first_position == 0 and hypotheses == 1,
        )

    def _row_lengths(self, target_lengths: Tensor | None) -> int | Tensor:
        return self.expected_target_length

    @staticmethod
    def _segment(positions: Tensor, counts: Tensor, lengths: int | Tensor) -> Tensor:
        """sigma of `positions` (P,) for rows with `counts` (B, 1) segments: (B, P)."""
        return torch.minimum(positions * counts // lengths, counts - 1)

    @staticmethod
    def _state(positions: Tensor, segments: Tensor, counts: Tensor, lengths: int | Tensor) -> Tensor:
        """The state that a position reads, which is the number of its segment among the visited ones: (B, P).

        With m <= L every segment is visited. With m > L positions 0 .. L-1 visit L different segments and
        position L the last one.
        """
        by_position = positions.expand_as(segments).clamp(max=lengths)
        return torch.where(counts <= lengths, segments, by_position)


class TargetLengthSchedule(ClockSchedule):
    """The paper's policy: L is the target's true length in training and scoring, a stored one in decoding.

    It tells the decoder how long the target will be (docs/attention.md, section 4), which a decoder cannot know.
    """

    def _row_lengths(self, target_lengths: Tensor | None) -> int | Tensor:
        if target_lengths is None:
            return self.expected_target_length
        return target_lengths.clamp(min=1).unsqueeze(1)


SCHEDULES = {
    "fixed": ClockSchedule,
    "target": TargetLengthSchedule,
    "content": ContentSchedule,
}


def build_schedule(
    name: str,
    expected_target_length: int | None = None,
    segments_per_query: int = SEGMENTS_PER_QUERY,
    score: str = "mean",
) -> "ClockSchedule | ContentSchedule":
    """The schedule registered as `name` (`--segment-schedule`).

    Args:
        expected_target_length: the clock's L; with segments chosen by content it is that of the memory's visits, and
            None where there is no memory that goes by visits.
        segments_per_query, score: of segments chosen by content.
    """
    schedule: Any = choose(SCHEDULES, name, "--segment-schedule")  # the two kinds are built from different settings
    if not schedule.uses_content:
        return schedule(expected_target_length)
    clock = None if expected_target_length is None else ClockSchedule(expected_target_length)
    return schedule(segments_per_query, score, clock)
