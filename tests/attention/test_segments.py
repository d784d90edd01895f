"""Where segments lie in a padded batch, and the batching of queries by what they read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from srformer_plugin.attention.method.segments import SourceLayout
from srformer_plugin.attention.torch.grouping import group_reads


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    shifts=st.lists(st.integers(0, 5), min_size=4, max_size=4),
    extra=st.integers(0, 5),
    segment_size=st.integers(1, 9),
)
def test_segments_start_at_the_first_real_token_whatever_the_padding(lengths, shifts, extra, segment_size):
    """Left, right or both sides: the segments hold the sentence's own tokens, then zeros."""
    width = max(length + shift for length, shift in zip(lengths, shifts)) + extra + 1
    tokens, mask = torch.zeros(width, len(lengths), 2), torch.ones(len(lengths), width, dtype=torch.bool)
    for row, (length, shift) in enumerate(zip(lengths, shifts)):
        tokens[shift : shift + length, row] = torch.arange(1.0, length + 1)[:, None]
        mask[row, shift : shift + length] = False
    tokens = tokens.masked_fill(mask.T[..., None], float("nan"))  # padding must not be read at all
    layout = SourceLayout(mask, len(lengths), width, segment_size, "cpu")
    segments = layout.split_heads(tokens, num_heads=2)
    for row, length in enumerate(lengths):
        expected = torch.zeros(layout.max_segments * segment_size)
        expected[:length] = torch.arange(1.0, length + 1)
        assert torch.equal(segments[row, 1].flatten(), expected)
        assert layout.segment_counts[row] == max(1, -(-length // segment_size))


@pytest.mark.parametrize("mask", [None, torch.zeros(2, 13, dtype=torch.bool)], ids=["without", "with"])
def test_places_lie_row_by_row_in_memory_with_and_without_a_mask(mask):
    """Kernels read those of sentence b behind those of all before it."""
    places = SourceLayout(mask, 2, 13, 8, "cpu").source_index
    assert places.is_contiguous()
    assert places[1].flatten()[:13].tolist() == list(range(13))


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    queries=st.integers(1, 12),
    reads=st.integers(1, 3),
    targets=st.integers(1, 6),
    seed=st.integers(0, 2**31),
    skewed=st.booleans(),
)
def test_every_query_gets_what_it_reads(batch, heads, queries, reads, targets, seed, skewed):
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(targets, (batch, heads, queries, reads), generator=generator)
    if skewed:  # most queries read the same target: dense groups would be nearly empty
        chosen[:, :, queries // 4 :] = 0
    grouping = group_reads(chosen, targets)
    table = torch.arange(batch * heads * targets).view(batch, heads, targets, 1)
    slots = grouping.select(table).unsqueeze(3).expand(-1, -1, -1, grouping.size, -1)
    expected = table.squeeze(-1).gather(2, chosen.flatten(2)).view_as(chosen)
    assert torch.equal(grouping.collect(slots).squeeze(-1), expected)
    query = torch.randn(batch, heads, queries, 4, generator=generator)
    copies = query.unsqueeze(3).expand(-1, -1, -1, reads, -1)
    assert torch.equal(grouping.collect(grouping.spread(query)), copies)


def test_groups_stay_small_where_one_segment_is_read_by_most_queries():
    """A hypothesis that outgrows the schedule stays on the last segment: slots must not multiply by segments."""
    targets = torch.cat((torch.arange(16), torch.full((200,), 15))).view(1, 1, -1, 1)
    grouping = group_reads(targets, 16)
    assert grouping.count * grouping.size < 3 * targets.numel()


def test_weights_return_to_the_source_positions_of_their_segment():
    mask = torch.tensor([[True, True, False, False, False]])
    layout = SourceLayout(mask, 1, 5, segment_size=2, device="cpu")
    weights = torch.tensor([[[[[0.25, 0.75]], [[1.0, 0.0]]]]])  # two queries, one segment each
    dense = layout.scatter_weights(weights, torch.tensor([[[[0], [1]]]]))
    assert dense.tolist() == [[[[0, 0, 0.25, 0.75, 0], [0, 0, 0, 0, 1]]]]


def test_heads_of_some_sentences_are_theirs_and_gradients_return_to_their_tokens():
    mask = torch.tensor([[True, True, False, False, False], [False, False, False, False, True]])
    layout = SourceLayout(mask, 2, 5, segment_size=2, device="cpu")
    keys = torch.randn(5, 2, 6, dtype=torch.float64, requires_grad=True)
    heads = layout.split_heads(keys, 3)
    assert torch.equal(heads[0, 1].flatten(0, 1)[:3], keys[2:, 0, 2:4])
    assert not heads[0, :, 1, 1].any() and not heads[0, :, 2].any()
    for rows in ([1, 0], [1]):
        some = layout.index_select(0, torch.tensor(rows)).split_heads(keys[:, rows], 3)
        assert torch.equal(some, heads[rows])
    upstream = torch.randn_like(heads)
    (gradient,) = torch.autograd.grad(heads, keys, upstream)
    assert torch.equal(gradient[2:, 0, 2:4], upstream[0, 1].flatten(0, 1)[:3])
    assert not gradient[mask.T].any()
    assert torch.autograd.gradcheck(lambda x: layout.split_heads(x, 3), keys)
    assert torch.autograd.gradgradcheck(lambda x: layout.split_heads(x, 3).square(), keys)
