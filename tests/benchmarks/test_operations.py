"""Operations of the attention, counted: the paper's saving, and the formula of docs/attention.md, section 6."""

import pytest

from benchmarks.operations import count, formula, full


@pytest.mark.parametrize(("segment_size", "clamp", "saved"), [(64, 2.0, 0.40), (64, 0.0, 0.40), (16, 0.0, 0.45)])
def test_operations_saved_against_full_attention(segment_size, clamp, saved):
    """The paper's 40% (docs/attention.md, section 6: T = 128, N = 1024, H = 8, D = 64)."""
    assert 1 - count(segment_size, clamp, 128, 1024) / full(128, 1024) >= saved


@pytest.mark.parametrize("segment_size", [8, 16, 64])
@pytest.mark.parametrize("clamp", [2.0, 0.0])
@pytest.mark.parametrize(("targets", "source"), [(12, 256), (64, 256), (3, 512)])
def test_operations_are_those_of_the_formula(segment_size, clamp, targets, source):
    least, most = formula(segment_size, clamp, targets, source)
    counted = count(segment_size, clamp, targets, source)
    assert least <= counted <= most
    if targets % (source // segment_size) == 0:  # spread evenly
        assert counted == least
