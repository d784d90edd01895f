"""Position -> segment."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from srformer_plugin.attention.method.reference import segment_of_position
from srformer_plugin.attention.method.schedule import SCHEDULES, build_schedule
from srformer_plugin.attention.method.segments import SourceLayout
from srformer_plugin.attention.triton.tables import state_tables
from srformer_plugin.errors import ConfigurationError


def layout_of(lengths, segment_size):
    longest = max(lengths)
    mask = torch.arange(longest) >= torch.tensor(lengths)[:, None]
    return SourceLayout(mask, len(lengths), longest, segment_size, "cpu")


lengths_strategy = st.lists(st.integers(1, 60), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(lengths_strategy, st.integers(1, 9), st.integers(1, 40), st.integers(0, 30), st.integers(1, 40))
def test_fixed_schedule_is_the_papers_formula(lengths, segment_size, expected, first, count):
    plan = build_schedule("fixed", expected).plan(layout_of(lengths, segment_size), first, count)
    for row, length in enumerate(lengths):
        segments = -(-length // segment_size)
        path = [segment_of_position(t, segments, expected) for t in range(first, first + count)]
        assert plan.segments[row, 0, :, 0].tolist() == path


@settings(max_examples=100, deadline=None)
@given(lengths_strategy, st.integers(1, 9), st.integers(1, 40), st.integers(1, 50), st.booleans())
def test_a_position_reads_the_state_that_its_own_visit_made(lengths, segment_size, expected, count, decoding):
    """State r belongs to the r-th distinct segment on the way, whether or not later positions are known."""
    plan = build_schedule("fixed", expected).plan(layout_of(lengths, segment_size), 0, count, decoding=decoding)
    assert plan.states.max() < plan.num_states
    for row, length in enumerate(lengths):
        segments = -(-length // segment_size)
        path = [segment_of_position(t, segments, expected) for t in range(count)]
        on_the_way = sorted(set(path))
        states = plan.states[row, 0, :, 0].tolist()
        assert states == [on_the_way.index(segment) for segment in path]
        if plan.segment_of_state is not None:
            assert [plan.segment_of_state[row, state].item() for state in states] == path
        else:
            assert states == path


def test_target_schedule_goes_by_each_sentences_own_target_length_and_decodes_by_the_expected_one():
    layout = layout_of([12, 6], segment_size=2)
    schedule = build_schedule("target", 4)
    plan = schedule.plan(layout, 0, 6, target_lengths=torch.tensor([6, 3]))
    assert plan.segments[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert plan.segments[1, 0, :3, 0].tolist() == [0, 1, 2]
    decoded = schedule.plan(layout, 0, 4, decoding=True)
    assert decoded.segments[0, 0, :, 0].tolist() == [0, 1, 3, 4]


def test_a_target_without_a_token_has_a_schedule_too_and_harms_no_other():
    """A row that only fills up a batch."""
    layout = layout_of([12, 6], segment_size=2)
    plans = [build_schedule("target", 4).plan(layout, 0, 6, target_lengths=torch.tensor([6, n])) for n in (0, 1)]
    assert torch.equal(plans[0].segments, plans[1].segments) and torch.equal(plans[0].states, plans[1].states)


class operations(TorchDispatchMode):
    """`names` of those that are computed inside."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("policy", ["fixed", "target"])
@pytest.mark.parametrize("expected", [3, 20])
def test_the_host_neither_reads_from_the_device_nor_copies_a_number_to_it(policy, expected):
    """Both wait on a GPU for all that is still to be computed there, an encoder's work."""
    mask = torch.arange(30) >= torch.tensor([30, 17])[:, None]
    targets = torch.tensor([9, 2])
    with operations() as computed:
        layout = SourceLayout(mask, 2, 30, 4, mask.device)
        plan = build_schedule(policy, expected).plan(layout, 0, 9, target_lengths=targets)
        state_tables(plan, layout)
    assert "searchsorted" in computed.names
    assert not {"lift_fresh", "_local_scalar_dense", "nonzero"} & set(computed.names)


def test_fixed_schedule_never_looks_at_the_target():
    layout = layout_of([12], segment_size=2)
    plans = [build_schedule("fixed", 4).plan(layout, 0, 6, target_lengths=t) for t in (None, torch.tensor([2]))]
    assert torch.equal(plans[0].segments, plans[1].segments)


@pytest.mark.parametrize("length", [0, -3, None])
def test_an_expected_length_below_one_is_refused(length):
    with pytest.raises(ConfigurationError, match="--expected-target-length must be at least 1"):
        build_schedule("fixed", length)


def test_an_unknown_schedule_is_refused_with_the_known_ones():
    with pytest.raises(ConfigurationError, match="--segment-schedule 'clock' is unknown; .*content, fixed, target"):
        build_schedule("clock", 4)
    assert set(SCHEDULES) == {"fixed", "target", "content"}
