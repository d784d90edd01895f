"""Window attention in blocks computes what its reference computes, gradients included, in linear memory."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from largest_tensor import largest_tensor

from srformer_plugin.models.encoders.window_attention import (
    GlobalProjections,
    find_global,
    window_attention,
    window_attention_reference,
)

HEADS, SIZE = 2, 3


def padding_of(lengths, width, left):
    """(B, N) bool, True at padding."""
    places = torch.arange(width).expand(len(lengths), -1)
    lengths = torch.tensor(lengths)[:, None]
    return places < width - lengths if left else places >= lengths


def inputs(padding, global_tokens, own, seed=1, dtype=torch.float64):
    """query, key, value and the global tokens' own projections (None without `own`), which need gradients."""
    generator = torch.Generator().manual_seed(seed)
    batch, length = padding.shape
    count = global_tokens.places.size(1)

    def draw(n):
        return (2 * torch.randn(batch, HEADS, n, SIZE, generator=generator, dtype=dtype)).requires_grad_()

    tensors = [draw(length) for _ in range(3)]
    return tensors, GlobalProjections(draw(count), draw(length), draw(length)) if own else None


def with_gradients(attend, padding, tensors, own, *arguments, **options):
    """The output, and the gradients of a function of it."""
    output = attend(*tensors, padding, *arguments, own, **options)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    wanted = [*tensors, *(own or ())]
    loss = (output * weights).sum() + sum(0 * x.sum() for x in wanted)  # a batch of padding alone uses none of them
    gradients = torch.autograd.grad(loss, wanted)
    return [output, *gradients]


@st.composite
def batches(draw):
    """(padding, window, global tokens, block): windows beyond the source, sentences without or with few tokens, and
    with any number of chosen ones, if any are."""
    width = draw(st.integers(1, 13))
    lengths = draw(st.lists(st.integers(0, width), min_size=1, max_size=3))
    padding = padding_of(lengths, width, left=draw(st.booleans()))
    chosen = draw(st.none() | st.lists(st.booleans(), min_size=padding.numel(), max_size=padding.numel()))
    chosen = None if chosen is None else torch.tensor(chosen).view_as(padding)
    global_tokens = find_global(padding, draw(st.integers(0, 3)), chosen)
    return padding, draw(st.integers(0, width + 3)), global_tokens, draw(st.integers(1, width + 2))


@settings(max_examples=150)
@given(batch=batches(), own=st.booleans())
def test_outputs_and_gradients_are_the_references(batch, own):
    padding, window, global_tokens, block = batch
    tensors, projections = inputs(padding, global_tokens, own)
    arguments = padding, tensors, projections, window, global_tokens
    expected = with_gradients(window_attention_reference, *arguments)
    found = with_gradients(window_attention, *arguments, block=block)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("left", [True, False])
def test_other_dtypes_are_the_same_but_for_rounding(dtype, rounding, left):
    """PyTorch computes them by other kernels."""
    padding = padding_of([40, 0, 13, 1], 40, left)
    first = find_global(padding, 1)
    arguments = padding, *inputs(padding, first, own=True, dtype=dtype), 5, first
    found = with_gradients(window_attention, *arguments, block=8)
    _, tensors, own, *_ = arguments
    exact = [x.detach().double().requires_grad_() for x in (*tensors, *own)]
    expected = with_gradients(window_attention_reference, padding, exact[:3], GlobalProjections(*exact[3:]), 5, first)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=rounding * theirs.abs().max().item())


def test_the_reference_is_full_attention_with_a_mask():
    """Written out once more for one sentence: window 1, padding on the left, the first token and a later one global."""
    padding = padding_of([6], 7, left=True)
    global_tokens = find_global(padding, 1, torch.arange(7).eq(4)[None])
    (query, key, value), _ = inputs(padding, global_tokens, own=False)
    #                    padding | a global token | two others | a global token | two others
    seen = torch.tensor(
        [
            [0, 0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 1, 1, 1],
            [0, 1, 1, 1, 1, 0, 0],
            [0, 1, 1, 1, 1, 0, 0],
            [0, 1, 1, 1, 1, 1, 1],
            [0, 1, 0, 0, 1, 1, 1],
            [0, 1, 0, 0, 1, 1, 1],
        ],
        dtype=torch.bool,
    )
    scores = (query @ key.transpose(2, 3) / SIZE**0.5).masked_fill(~seen, -torch.inf)
    expected = scores.softmax(dim=-1).nan_to_num() @ value
    found = window_attention_reference(query, key, value, padding, 1, global_tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_global", [0, 2])
def test_a_window_as_long_as_the_source_is_full_attention(num_global):
    padding = padding_of([9, 4, 7], 9, left=False)
    global_tokens = find_global(padding, num_global)
    (query, key, value), _ = inputs(padding, global_tokens, own=False)
    expected = F.scaled_dot_product_attention(query, key, value, ~padding[:, None, None])
    found = window_attention(query, key, value, padding, 9, global_tokens, block=4)
    real = ~padding[:, None, :, None].expand_as(found)
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-12)


@pytest.mark.parametrize("of_others", [0, 1, 2, 5])
def test_a_sentence_does_not_depend_on_its_batch_nor_on_the_side_of_its_padding(of_others):
    """It has its first token and two others as global ones, its neighbours more or fewer."""
    length, width = 7, 12
    no_padding, chosen = torch.zeros(1, length, dtype=torch.bool), torch.tensor([[0, 0, 0, 1, 1, 0, 0]]).bool()
    global_tokens = find_global(no_padding, 1, chosen)
    (query, key, value), own = inputs(no_padding, global_tokens, own=True)
    alone = window_attention(query, key, value, None, 2, global_tokens, own, block=3)
    for left in (True, False):
        padding = padding_of([length, width, 3], width, left)
        first, everywhere = padding.byte().argmin(dim=1), torch.zeros_like(padding)
        everywhere[0, first[0] : first[0] + length] = chosen[0]
        everywhere[1, 12 - of_others :] = True
        everywhere[2, first[2] + 1] = of_others > 0
        global_tokens = find_global(padding, 1, everywhere)
        rows, others = inputs(padding, global_tokens, own=True, seed=2)
        start = width - length if left else 0
        with torch.no_grad():
            for row, sentence in zip((*rows, *others[1:]), (query, key, value, *own[1:])):
                row[0, :, start : start + length] = sentence[0]
            others.query[0, :, :3] = own.query[0]
        found = window_attention(*rows, padding, 2, global_tokens, others, block=4)
        torch.testing.assert_close(found[0, :, start : start + length], alone[0], rtol=0, atol=1e-12)
        assert (found[0, :, :start] == 0).all() and (found[0, :, start + length :] == 0).all()


@pytest.mark.parametrize("left", [True, False])
def test_padded_inputs_change_nothing(left):
    padding = padding_of([6, 0, 2, 1], 6, left)
    global_tokens = find_global(padding, 2)
    arguments = padding, *inputs(padding, global_tokens, own=True), 1, global_tokens
    expected = with_gradients(window_attention, *arguments, block=2)
    _, tensors, own, *_ = arguments
    with torch.no_grad():
        for x in (*tensors, *own[1:]):
            x.masked_fill_(padding[:, None, :, None], 1e30)
    for found, wanted in zip(with_gradients(window_attention, *arguments, block=2), expected, strict=True):
        assert torch.equal(found, wanted)


@given(batch=batches())
def test_no_softmax_is_over_nothing(batch):
    """Which some of PyTorch's kernels make NaN of, outputs or gradients."""
    padding, window, global_tokens, block = batch
    masks = []

    def spy(query, key, value, attn_mask, **options):
        masks.append(attn_mask)
        return attend(query, key, value, attn_mask, **options)

    with pytest.MonkeyPatch.context() as patch:
        attend = F.scaled_dot_product_attention
        patch.setattr(F, "scaled_dot_product_attention", spy)
        window_attention(*inputs(padding, global_tokens, own=False)[0], padding, window, global_tokens, block=block)
    assert len(masks) == 1 + (global_tokens.places.size(1) > 0)
    assert all(mask.any(dim=-1).all() for mask in masks)


def test_the_first_tokens_of_a_sentence_are_global_on_either_side_of_padding():
    for left, expected in ((True, [[2, 3], [0, 1]]), (False, [[0, 1], [0, 1]])):
        assert find_global(padding_of([3, 5], 5, left), 2).places.tolist() == expected
    # shorter than that: the others are different places of padding
    found = find_global(padding_of([1], 4, left=True), 3)
    assert found.places.tolist() == [[3, 0, 1]]
    assert found.real.tolist() == [[True, False, False]]


def test_chosen_tokens_are_global_wherever_they_stand():
    padding = padding_of([3, 5], 5, left=True)
    chosen = torch.tensor([[1, 0, 0, 0, 1], [1, 1, 0, 1, 0]]).bool()  # padding and the first token are among them
    found = find_global(padding, 1, chosen)
    assert found.marks.tolist() == [[False, False, True, False, True], [True, True, False, True, False]]
    assert found.places.tolist() == [[2, 4, 0], [0, 1, 3]]
    assert found.real.tolist() == [[True, True, False], [True, True, True]]
    # none at all: a place all the same, so that no parameter is without a gradient
    none = find_global(padding, 0, torch.zeros_like(padding))
    assert not none.marks.any() and none.places.shape == (2, 1) and not none.real.any()


@pytest.mark.parametrize("num_global", [0, 1])
def test_dropout_drops_weights_and_scales_the_others(num_global):
    """With unit vectors as values the output is the weights, which are all equal here."""
    window, length, rate = 3, 16, 0.25
    zeros = torch.zeros(200, 1, length, length)
    value = torch.eye(length).expand_as(zeros)
    several, one = (find_global(torch.zeros(rows, length, dtype=torch.bool), num_global) for rows in (200, 1))
    weights = window_attention(zeros, zeros, value, None, window, several, dropout=rate, block=4)[:, 0]
    kept = window_attention(zeros[:1], zeros[:1], value[:1], None, window, one, block=4)[0, 0]
    assert (weights[:, kept == 0] == 0).all()
    possible = weights[:, kept > 0] / kept[kept > 0]
    dropped = possible == 0
    torch.testing.assert_close(possible[~dropped], torch.full_like(possible[~dropped], 1 / (1 - rate)))
    # of every weight by itself: 200 draws, a standard deviation of 0.031
    assert ((dropped.float().mean(dim=0) - rate).abs() < 0.15).all()
    assert abs(dropped.float().mean() - rate) < 0.01


@pytest.mark.parametrize("chosen", [[], [100, 101, 200]], ids=["first", "chosen"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_memory_is_linear_in_the_length(dropout, chosen):
    sizes = []
    for length in (256, 512):
        padding = torch.zeros(1, length, dtype=torch.bool)
        global_tokens = find_global(padding, 1, torch.zeros_like(padding).index_fill(1, torch.tensor(chosen).long(), 1))
        tensors, own = inputs(padding, global_tokens, own=True, dtype=torch.float32)
        with largest_tensor() as largest:
            window_attention(*tensors, None, 8, global_tokens, own, dropout).sum().backward()
        sizes.append(largest.elements)
    assert sizes[1] <= 2 * sizes[0]
    assert sizes[1] < 512 * 512
