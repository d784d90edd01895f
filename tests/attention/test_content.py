"""Segments chosen by content, and the memories that take part in the softmax, against the plain reference."""

import copy

import pytest
import torch
import torch.nn.functional as F
from against_reference import build, by_reference, pad_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from largest_tensor import largest_tensor

from srformer_plugin.attention.method.content import ContentSchedule, highest
from srformer_plugin.attention.method.reference import chosen_segments
from srformer_plugin.attention.method.segments import SourceLayout
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.source_context import SourceContext
from srformer_plugin.attention.torch import chosen
from srformer_plugin.attention.torch.chosen import attend_segments
from srformer_plugin.errors import ConfigurationError

PAIRS = [
    ("content", "segmented"),
    ("content", "pooled"),
    ("content", "srformer"),
    ("fixed", "pooled"),
    ("fixed", "previous"),
]
pairs = pytest.mark.parametrize(("schedule", "memory"), PAIRS)


def build_pair(schedule, memory, **options):
    return build(segment_schedule=schedule, cross_attention=memory, **{"segments_per_query": 2, **options})


@settings(max_examples=80, deadline=None)
@given(
    pair=st.sampled_from(PAIRS),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    shifts=st.lists(st.integers(0, 4), min_size=3, max_size=3),
    targets=st.sampled_from([1, 5, 16, 17, 40]),
    segment_size=st.integers(1, 9),
    per_query=st.integers(1, 5),
    expected=st.integers(1, 20),
    heads=st.integers(1, 3),
    head_dim=st.sampled_from([1, 3, 8]),
    seed=st.integers(0, 2**31),
)
def test_output_and_gradients_equal_the_reference(
    pair, lengths, shifts, targets, segment_size, per_query, expected, heads, head_dim, seed
):
    torch.manual_seed(seed)
    options = {"segment_size": segment_size, "segments_per_query": per_query, "expected_target_length": expected}
    module = build_pair(*pair, heads=heads, head_dim=head_dim, **options)
    width = max(length + shift for length, shift in zip(lengths, shifts))
    encoder, mask = pad_batch(lengths, width, shifts, module.embed_dim)
    query = torch.randn(targets, len(lengths), module.embed_dim, dtype=torch.float64)
    inputs = [encoder.requires_grad_(), query.requires_grad_(), *module.parameters()]
    ours, _ = module(query, encoder, encoder, mask)
    plain, _ = by_reference(module, query, encoder, mask, expected)
    scale = plain.abs().max().clamp(min=1)
    assert ((ours - plain).abs().max() / scale) < 1e-9
    upstream = torch.randn_like(plain)
    gradients = (torch.autograd.grad(out, inputs, upstream, allow_unused=True) for out in (ours, plain))
    for a, b in zip(*gradients):
        a, b = (torch.zeros(()) if g is None else g for g in (a, b))
        assert ((a - b).norm() / b.norm().clamp(min=1)) < 1e-9


@pytest.mark.parametrize("memory", ["segmented", "pooled"])
@pytest.mark.parametrize("targets", [3, 40])
def test_with_no_more_segments_than_a_query_chooses_it_is_full_attention(memory, targets):
    """Also for a sentence whose neighbour in the batch has more."""
    module = build_pair("content", memory, segment_size=4, segments_per_query=3)
    for lengths in ([12, 5], [30, 11]):
        encoder, mask = pad_batch(lengths, max(lengths), [0, 2], module.embed_dim)
        query = torch.randn(targets, 2, module.embed_dim, dtype=torch.float64)
        ours, _ = module(query, encoder, encoder, mask)
        q, k, v = (
            p(x).unflatten(2, (2, -1)).permute(1, 2, 0, 3)
            for p, x in ((module.q_proj, query), (module.k_proj, encoder), (module.v_proj, encoder))
        )
        full = F.scaled_dot_product_attention(q, k, v, attn_mask=~mask[:, None, None])
        full = module.out_proj(full.permute(2, 0, 1, 3).flatten(2))
        torch.testing.assert_close(ours[:, 1], full[:, 1])
        assert torch.allclose(ours[:, 0], full[:, 0]) == (lengths[0] == 12)


@given(
    rows=st.integers(1, 4),
    numbers=st.lists(st.integers(-2, 2), min_size=1, max_size=12),
    count=st.integers(1, 12),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_of_equal_scores_the_lower_segments_are_chosen(rows, numbers, count, dtype):
    scores = torch.tensor(numbers, dtype=dtype).div(3).repeat(rows, 1)
    scores[0] = scores[0].flip(0)
    count = min(count, len(numbers))
    expected = [sorted(sorted(range(len(numbers)), key=lambda j: (-row[j], j))[:count]) for row in scores.tolist()]
    assert highest(scores, count).tolist() == expected


def test_equal_segments_are_chosen_alike_by_the_reference_and_the_schedule():
    """A source of one sentence said five times: the first ones are read."""
    keys = torch.randn(1, 2, 1, 4, 8).repeat(1, 1, 5, 1, 1)
    layout = SourceLayout(None, 1, 20, 4, "cpu")
    schedule = ContentSchedule(2)
    query = torch.randn(1, 2, 6, 8)
    segments = schedule.choose(query, schedule.summarise(keys, layout), layout.segment_counts)
    assert segments.tolist() == [[[[0, 1]] * 6] * 2]
    assert chosen_segments(query[0, 0, 0], list(keys[0, 0].mean(1)), 2) == [0, 1]


def test_the_choice_is_made_in_float32_from_the_keys_as_they_are():
    """Scores of bfloat16 could not tell these two apart; and float64 stays float64."""
    layout = SourceLayout(None, 1, 2, 1, "cpu")
    for dtype, step in ((torch.bfloat16, 2.0**-7), (torch.float64, 2.0**-40)):
        schedule, query = ContentSchedule(1), torch.ones(1, 1, 20, 64, dtype=dtype)
        keys = torch.ones(1, 1, 2, 1, 64, dtype=dtype)
        keys[0, 0, 1, 0, 0] += step
        segments = schedule.choose(query, schedule.summarise(keys, layout), layout.segment_counts)
        assert (segments == 1).all()


def test_no_gradient_passes_through_the_choice():
    layout = SourceLayout(None, 1, 8, 2, "cpu")
    keys, query = torch.randn(1, 1, 4, 2, 3, requires_grad=True), torch.randn(1, 1, 20, 3, requires_grad=True)
    schedule = ContentSchedule(2)
    assert not schedule.score.summarise(keys.detach(), layout).requires_grad
    assert not schedule.summarise(keys, layout).requires_grad
    # keys that nobody chose get none
    with torch.no_grad():
        keys[0, 0, 3] = -100 * query[0, 0].sign().mean(0)
    segments = torch.tensor([0, 1]).expand(1, 1, 20, 2)
    output = attend_segments(query, keys, keys.detach(), None, segments)[0]
    gradient = torch.autograd.grad(output.sum(), keys)[0]
    assert gradient[0, 0, :2].any() and not gradient[0, 0, 2:].any()


@pairs
def test_a_sentence_does_not_depend_on_its_batch_or_its_padding(schedule, memory):
    module = build_pair(schedule, memory)
    encoder, mask = pad_batch([6, 23, 11], 25, [19, 0, 7], module.embed_dim, poison=float("nan"))
    query = torch.randn(18, 3, module.embed_dim, dtype=torch.float64)
    together, _ = module(query, encoder, encoder, mask)
    for row in range(3):
        alone = encoder[~mask[row], row].unsqueeze(1)
        output, _ = module(query[:, row : row + 1], alone, alone, None)
        torch.testing.assert_close(together[:, row : row + 1], output)


@pairs
@pytest.mark.parametrize("targets", [4, 20])
def test_a_wholly_padded_sentence_stays_finite_and_harms_no_other(schedule, memory, targets):
    module = build_pair(schedule, memory)
    encoder, mask = pad_batch([0, 13], 13, [0, 0], module.embed_dim)
    query = torch.randn(targets, 2, module.embed_dim, dtype=torch.float64)
    output, _ = module(query, encoder, encoder, mask)
    output.sum().backward()
    assert output.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    alone, _ = module(query[:, 1:], encoder[:, 1:], encoder[:, 1:], mask[1:])
    torch.testing.assert_close(output[:, 1:], alone)


@pairs
@pytest.mark.parametrize("shifts", [[0, 0], [4, 17], [2, 3]], ids=["right", "left", "both"])
def test_steps_equal_all_positions_at_once_whatever_the_beam(schedule, memory, shifts):
    """Hypotheses of a sentence share keys and choose apart; the fixed-shape step computes the same."""
    module = build_pair(schedule, memory, segment_size=3).eval()
    encoder, mask = pad_batch([26, 13], 30, shifts, module.embed_dim)
    targets, beam = 19, 3
    query = torch.randn(targets, 2 * beam, module.embed_dim, dtype=torch.float64)
    with torch.no_grad():
        copies = encoder.repeat_interleave(beam, 1)
        whole, weights = module(query, copies, copies, mask.repeat_interleave(beam, 0), need_weights=True)
        state = {}
        steps = [module(query[t : t + 1], encoder, encoder, mask, state, need_weights=True) for t in range(targets)]
        torch.testing.assert_close(torch.cat([step[0] for step in steps]), whole)
        torch.testing.assert_close(torch.cat([step[1] for step in steps], dim=1), weights)
        # prefix tokens come several at a time
        state, length = {}, 11
        first, _ = module(query[:length], encoder, encoder, mask, state)
        torch.testing.assert_close(first, whole[:length])
        then, _ = module(query[length : length + 1], encoder, encoder, mask, state)
        torch.testing.assert_close(then, whole[length : length + 1])

        source = module.open_source(encoder, SourceContext(mask), targets)
        steps = [module.step(query[t : t + 1], source, torch.tensor([t])) for t in range(targets)]
        torch.testing.assert_close(torch.cat(steps), whole)


@pairs
def test_weights_are_on_the_source_and_give_the_output(schedule, memory):
    """A segment that stands in the softmax as its mean spreads its weight over its tokens, which is the same."""
    module = build_pair(schedule, memory, segment_size=3)
    encoder, mask = pad_batch([17, 8], 20, [0, 5], module.embed_dim)
    query = torch.randn(20, 2, module.embed_dim, dtype=torch.float64)
    without, none = module(query, encoder, encoder, mask)
    output, weights = module(query, encoder, encoder, mask, need_head_weights=True)
    assert none is None
    torch.testing.assert_close(output, without)
    assert weights.shape == (2, 2, 20, 20)
    torch.testing.assert_close(weights.sum(3), torch.ones(2, 2, 20, dtype=torch.float64))
    assert not weights[:, mask.unsqueeze(1).expand(-1, 20, -1)].any()
    if memory != "srformer":  # its recurrent term has no weights
        values = module.v_proj(encoder).unflatten(2, (2, -1)).permute(2, 1, 0, 3)
        by_weights = (weights @ values).permute(2, 1, 0, 3).flatten(2)
        torch.testing.assert_close(module.out_proj(by_weights), output)
    looked_at = (weights > 0).sum(3)
    assert (looked_at.amax(dim=(0, 2)) == torch.tensor([17, 8])).all() == (memory == "pooled")


@pairs
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_precision_against_float64(schedule, memory, dtype, tolerance):
    """Where no two scores are so close that rounding could choose another segment."""
    module = build_pair(schedule, memory, heads=2, head_dim=16, segment_size=8, expected_target_length=20)
    encoder, mask = pad_batch([130, 70], 130, [0, 60], module.embed_dim)
    query = torch.randn(24, 2, module.embed_dim, dtype=torch.float64)
    module, encoder, query = module.to(dtype), encoder.to(dtype), query.to(dtype)
    exact = copy.deepcopy(module).double()
    exact.backend = module.backend
    ours, _ = module(query, encoder, encoder, mask)
    reference, _ = exact(query.double(), encoder.double(), encoder.double(), mask)
    assert ours.dtype == dtype
    clear = torch.ones(24, 2, dtype=torch.bool)
    if schedule == "content":
        clear = ~nearly_tied(exact, query.double(), encoder.double(), mask, {torch.float32: 1e-4}.get(dtype, 0.1))
        assert clear.float().mean() > 0.3
    error = (ours.double() - reference)[clear].norm() / reference[clear].norm()
    assert error < tolerance


def nearly_tied(module, query, encoder, mask, gap):
    """(T, B) bool: for some head the k-th and the (k + 1)-th score are no further apart than `gap`."""
    layout = SourceLayout(mask, mask.size(0), mask.size(1), module.segment_size, "cpu")
    keys = layout.split_heads(module.k_proj(encoder), module.num_heads)
    queries = module.split_query(module.q_proj(query) * module.scaling, 1)
    scores = module.schedule.score.rate(queries, module.schedule.summarise(keys, layout))
    beyond = torch.arange(layout.max_segments) >= layout.segment_counts[:, None]
    best = scores.masked_fill(beyond[:, None, None], -torch.inf).sort(dim=3, descending=True).values
    count = module.schedule.segments_per_query
    return (best[..., count - 1] - best[..., count] <= gap).any(1).T


def test_training_under_autocast_is_close_to_float32():
    module = build_pair("content", "pooled", dtype=torch.float32, segments_per_query=4)
    encoder, mask = pad_batch([40, 22], 40, [0, 3], module.embed_dim, torch.float32)
    query = torch.randn(20, 2, module.embed_dim)
    plain, _ = module(query, encoder, encoder, mask)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = module(query, encoder, encoder, mask)
        cast.float().sum().backward()
    assert ((cast - plain).norm() / plain.norm()) < 0.1
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("targets", [10, 60], ids=["copies", "tiles"])
def test_dropout_drops_its_share_keeps_the_mean_and_lets_gradients_through(targets):
    torch.manual_seed(3)
    keys, values = torch.zeros(1, 2, 6, 8, 4), torch.ones(1, 2, 6, 8, 4, requires_grad=True)
    query, segments = torch.randn(1, 2, targets, 4), torch.randint(5, (1, 2, targets, 1)) + torch.tensor([0, 1])
    outputs = torch.stack([attend_segments(query, keys, values, None, segments, 0.25)[0] for _ in range(200)])
    assert outputs.mean().item() == pytest.approx(1, abs=0.01)
    # 16 equal weights, each dropped or divided by 3/4
    assert outputs.var().item() == pytest.approx(1 / 16 / 3, rel=0.1)
    for _ in range(2):  # also a second time through the same graph
        gradient = torch.autograd.grad(outputs[0].sum(), values, retain_graph=True)[0]
        assert gradient.sum().item() == pytest.approx(outputs[0].sum().item(), rel=1e-4)


def test_tiles_equal_copies_and_can_be_differentiated_twice_over_the_same_graph():
    query = torch.randn(2, 3, 37, 5, dtype=torch.float64, requires_grad=True)
    keys, values = (torch.randn(2, 3, 7, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    is_real = torch.rand(2, 7, 4) > 0.3
    segments = torch.rand(2, 3, 37, 7).topk(3).indices
    segments[0, 0, :5, 0] = -1
    segments[1, :, 30:, :] = torch.tensor([0, 1, 2])  # far more readers than the others have
    upstream = (torch.randn(2, 3, 37, 5).double(), torch.randn(2, 3, 37).double())
    tiles = attend_segments(query, keys, values, is_real, segments)[:2]
    copies = attend_segments(query, keys, values, is_real, segments, need_weights=True)[:2]
    torch.testing.assert_close(tiles, copies)
    leaves = (query, keys, values)
    first = torch.autograd.grad(tiles, leaves, upstream, retain_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(copies, leaves, upstream))
    torch.testing.assert_close(first, torch.autograd.grad(tiles, leaves, upstream))


@pytest.mark.parametrize("memory", ["segmented", "pooled"])
def test_no_tensor_of_all_targets_by_all_sources(memory):
    module = build_pair("content", memory, heads=2, head_dim=8, segment_size=8, dtype=torch.float32)
    targets, source = 256, 1024
    encoder, query = torch.randn(source, 1, 16), torch.randn(targets, 1, 16)
    with largest_tensor() as largest:
        module(query, encoder, encoder, None)[0].sum().backward()
    assert largest.elements < 2 * targets * source / 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment_schedule": "content", "cross_attention": "previous"}, "--cross-attention previous .* has none"),
        ({"segment_schedule": "content", "segments_per_query": 0}, "--segments-per-query must be at least 1, got 0"),
        ({"segment_schedule": "content", "segment_score": "best"}, "--segment-score 'best' is unknown; .*mean"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(options, message):
    with pytest.raises(ConfigurationError, match=message):
        SegmentSettings(**options).check()


def test_a_clock_is_needed_only_by_a_memory_of_visits():
    for memory in ("segmented", "pooled"):
        assert build_pair("content", memory, expected_target_length=None).schedule.clock is None
    with pytest.raises(ConfigurationError, match="--expected-target-length"):
        build_pair("content", "srformer", expected_target_length=0)
    assert build_pair("content", "srformer", expected_target_length=7).schedule.clock.expected_target_length == 7
    assert chosen.FEW_QUERIES == 16  # the numbers of targets above are on both sides of it
