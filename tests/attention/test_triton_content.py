"""Kernels for segments chosen by content against plain operations in float64: on a GPU, and interpreted when small."""

import pytest
import torch
import torch.nn.functional as F

from srformer_plugin.attention.cross_attention import SegmentedCrossAttention
from srformer_plugin.attention.method.segments import SourceLayout
from srformer_plugin.attention.request import Request
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.source_context import SourceContext
from srformer_plugin.attention.triton.content import call as launching
from srformer_plugin.attention.triton.content import plain
from srformer_plugin.attention.triton.content import step as stepping
from srformer_plugin.attention.triton.content.attend import (
    attend_by_content,
    attend_chosen,
    choose,
    segment_means,
)
from srformer_plugin.attention.triton.content.step import attend_step_chosen
from srformer_plugin.attention.triton.exactness import relative_error
from srformer_plugin.attention.triton.support import obstacle

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
rank = pytest.importorskip("srformer_plugin.attention.triton.content.kernels.choose").rank
if not torch.cuda.is_available() and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7):
    pytest.skip("Triton 3.6's interpreter fails beside NumPy 2.4", allow_module_level=True)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 4e-3}
ROUNDING = 1e-5  # of scores, relative to the largest of their query
NAMES = ("output", "query", "keys", "values")


@pytest.fixture(autouse=True)
def uninitialized_memory_is_nan():
    """What a kernel forgets to write shows itself; PyTorch fills new memory only in its deterministic mode."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


class Case:
    """One set of inputs: sentences of `lengths` tokens in a source of `width`, padded on the sides `shifts` say."""

    def __init__(
        self, lengths, targets, segment_size, k, head_dim=16, heads=1, shifts=None, width=None, dtype=torch.float32,
        masked=True, seed=1,
    ):  # fmt: skip
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)

        shifts = shifts or [0] * len(lengths)
        width = width or max(n + shift for n, shift in zip(lengths, shifts))
        self.k, self.heads, self.dtype = k, heads, dtype
        mask = torch.ones(len(lengths), width, dtype=torch.bool)
        for row, (n, shift) in enumerate(zip(lengths, shifts)):
            mask[row, shift : shift + n] = False
        self.mask = mask.to(DEVICE) if masked else None
        self.layout = SourceLayout(self.mask, len(lengths), width, segment_size, torch.device(DEVICE))
        # positions outermost, as a model's projections are
        query = draw(targets, len(lengths), heads, head_dim) * head_dim**-0.5
        self.query = query.permute(1, 2, 0, 3)
        self.keys, self.values = (draw(width, len(lengths), heads * head_dim) for _ in range(2))
        self.upstream = draw(len(lengths), heads, targets, head_dim)

    def inputs(self, dtype=None, poisoned=False):
        """Query, keys and values; NaN in the padding where `poisoned`."""
        tensors = [self.query, self.keys, self.values]
        if poisoned and self.mask is not None:
            tensors[1:] = [x.masked_fill(self.mask.T[:, :, None], float("nan")) for x in tensors[1:]]
        return [x.detach().to(dtype or self.dtype).requires_grad_() for x in tensors]

    def chosen(self):
        query, keys, _ = self.inputs(poisoned=True)
        return choose(query, segment_means(keys, self.layout, self.heads), self.layout.segment_counts, self.k)

    def exact_scores(self):
        query, keys, _ = self.inputs(torch.float64)
        means = plain.segment_means(keys, self.layout, self.heads)
        return plain.scores(query, means, self.layout.segment_counts).detach()

    def fused(self, chosen=None):
        """Output and gradients by the kernels; padding holds NaN."""
        inputs = self.inputs(poisoned=True)
        if chosen is None:
            output, chosen = attend_by_content(*inputs, self.layout, self.k)
            assert torch.equal(chosen, self.chosen())
        else:
            output = attend_chosen(*inputs, self.layout, chosen)
        return results(output, inputs, self.upstream)

    def exact(self, chosen):
        inputs = self.inputs(torch.float64)
        return results(plain.attend_chosen(*inputs, self.layout, chosen), inputs, self.upstream)


def results(output, inputs, upstream):
    """Output and gradients by name."""
    gradients = torch.autograd.grad(output, inputs, upstream.to(output.dtype))
    return dict(zip(NAMES, (output.detach(), *gradients)))


def check(ours, exact, tolerance, upstream):
    for name, expected in exact.items():
        error = relative_error(ours[name], expected, upstream)
        assert error < tolerance, f"{name}: {error:.2e}"


def check_choices(case, chosen):
    """The choices are the best by exact scores: each as good as its place asks for, up to rounding."""
    scores, k = case.exact_scores(), min(case.k, case.layout.max_segments)
    counts = case.layout.segment_counts.view(-1, 1, 1, 1)
    real = chosen >= 0
    assert torch.equal(real.sum(3, keepdim=True), counts.clamp(max=case.k).expand_as(real[..., :1]))
    assert (real[..., :1] & (chosen < counts) & (real | (chosen == -1))).all()
    assert ((chosen.diff(dim=3) > 0) | ~real[..., 1:]).all(), "not ascending, or twice the same"
    ours = scores.gather(3, chosen.long().clamp(min=0)).masked_fill(~real, float("-inf")).sort(descending=True).values
    best = scores.topk(k, dim=3).values
    allowed = ROUNDING * scores.masked_fill(scores.isinf(), 0).abs().amax(3, keepdim=True).expand_as(best)
    same = best.isinf() & ours[..., :k].isinf()
    assert (same | ((best - ours[..., :k]).abs() <= allowed)).all()
    equal = (chosen == plain.choose(*case_for_plain(case))).all(3)
    assert equal.float().mean() > 0.99


def case_for_plain(case):
    query, keys, _ = case.inputs(torch.float64)
    return query, plain.segment_means(keys, case.layout, case.heads), case.layout.segment_counts, case.k


SMALL = {
    "padding on both sides, a source without a token": Case(
        [13, 29, 1, 0, 8], 5, 8, 3, shifts=[9, 0, 30, 3, 20], width=33
    ),
    "padding on the left": Case([15, 16, 33], 4, 16, 2, shifts=[18, 17, 0]),
    "padding on the right": Case([100, 63], 35, 16, 4, width=101),
    "no mask, whole segments": Case([32], 6, 8, 2, heads=2, masked=False),
    "no mask, a partial segment": Case([27, 27], 6, 8, 2, masked=False),
    "a segment size that is no power of two": Case([50, 31], 6, 20, 2, shifts=[0, 19]),
    "more choices than segments": Case([20, 9], 6, 8, 5, shifts=[0, 11]),
    "one choice": Case([40, 25], 6, 8, 1, shifts=[0, 15]),
    "one token": Case([1], 3, 8, 8),
    "D 32, segments of 64": Case([150, 64], 4, 64, 2, head_dim=32),
}
BIG = {
    "D 64": Case([1000, 503], 128, 16, 8, head_dim=64, heads=3, shifts=[24, 300], width=1024),
    "D 128, segments of 64": Case([3000, 100], 100, 64, 32, head_dim=128, heads=2),
    "D 32, segments of 8": Case([500, 63], 300, 8, 32, head_dim=32, heads=2),
    "many queries": Case([700, 450], 1100, 16, 4, head_dim=64, heads=2),
    "long": Case([16384, 12000], 200, 16, 8, head_dim=64, heads=2, shifts=[0, 17]),
}
CASES = [*SMALL, *(pytest.param(name, marks=pytest.mark.gpu) for name in BIG)]


@pytest.fixture
def case(request):
    return {**SMALL, **BIG}[request.param]


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_output_and_gradients_are_exact(case):
    """Of the chosen segments, which are the best; padding holds NaN."""
    chosen = case.chosen()
    check_choices(case, chosen)
    check(case.fused(chosen), case.exact(chosen), TOLERANCE[case.dtype], case.upstream)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "sizes",
    [
        ([29, 13], 5, 8, 3, 16, 1),
        *(
            pytest.param(sizes, marks=pytest.mark.gpu)
            for sizes in [
                ([1000, 503], 128, 16, 8, 64, 3),
                ([900, 700], 64, 20, 5, 128, 2),
                ([900, 70], 64, 8, 32, 32, 2),
            ]
        ),
    ],
    ids=str,
)
def test_half_precision(sizes, dtype):
    case = Case(*sizes, shifts=[3, 20], dtype=dtype)
    chosen = case.chosen()
    check_choices(case, chosen)
    check(case.fused(chosen), case.exact(chosen), TOLERANCE[dtype], case.upstream)


def test_means_are_over_real_tokens_alone():
    case = SMALL["padding on both sides, a source without a token"]
    means = segment_means(case.inputs(poisoned=True)[1], case.layout, case.heads)
    exact = plain.segment_means(case.inputs(torch.float64)[1], case.layout, case.heads)
    torch.testing.assert_close(means.double(), exact, rtol=1e-6, atol=1e-6)
    assert (means[3] == 0).all()


def test_of_equal_scores_the_first_segment_is_taken():
    case = Case([64], 3, 8, 3)
    case.keys = case.keys[:8].repeat(8, 1, 1)  # every segment the same
    assert (case.chosen() == torch.arange(3, device=DEVICE)).all()
    case.keys[-8:] *= -1  # and one that is better for some queries and worse for others
    scores = case.exact_scores()
    better = scores[..., -1] > scores[..., 0]
    assert better.any() and not better.all()
    best = torch.tensor([[0, 1, 2], [0, 1, 7]], device=DEVICE)[better.long()]
    assert torch.equal(case.chosen(), best.to(torch.int32))


@triton.jit
def rank_rows(scores, ranked):
    """`choose.rank` of 16 scores, for the test below."""
    place = tl.arange(0, 16)
    row = tl.load(scores + place)
    tl.store(ranked + place[None, :], rank(tl.broadcast_to(row[None, :], [1, 16]), place, place < 15))


def test_a_rank_orders_by_score_and_then_by_segment():
    values = [
        0.0,
        -0.0,
        1.5,
        -1.5,
        1.5,
        float("inf"),
        float("-inf"),
        1e-40,
        -1e-40,
        3e38,
        -3e38,
        2.0,
        -2.0,
        -0.0,
        0.0,
        9,
    ]
    scores, ranked = torch.tensor(values, device=DEVICE), torch.empty(1, 16, dtype=torch.int64, device=DEVICE)
    rank_rows[(1,)](scores, ranked)
    expected = sorted(range(15), key=lambda j: (-values[j], j))
    assert ranked[0, :15].argsort(descending=True).tolist() == expected
    assert ranked[0, 15] == ranked.min()  # the last was not there


def test_a_long_source_is_cut_into_parts(monkeypatch):
    """Sentences whose last parts hold no segment; where a part has fewer segments than are chosen."""
    monkeypatch.setattr(launching, "CHOOSE_PROGRAMS", 100)
    monkeypatch.setattr(launching, "LEAST_PART", 32)
    launching.ChoiceCall.cache_clear()
    case = Case([134, 40], 3, 2, 5)
    case_parts = launching.cut(case.layout.max_segments, 2)
    assert case_parts == (64, 2) and case.layout.max_segments == 67
    check_choices(case, case.chosen())


def test_where_all_segments_are_chosen_it_is_full_attention():
    case = SMALL["more choices than segments"]
    query, keys, values = (x.requires_grad_() for x in case.inputs(torch.float64))
    heads = (x.unflatten(2, (case.heads, -1)).permute(1, 2, 0, 3) for x in (keys, values))
    mask = ~case.mask[:, None, None, :]
    full = F.scaled_dot_product_attention(query, *heads, attn_mask=mask, scale=1.0)
    exact = results(full, (query, keys, values), case.upstream)
    check(case.fused(), exact, 1e-5, case.upstream)


def test_a_source_without_a_token_gives_zeros():
    found = SMALL["padding on both sides, a source without a token"].fused()
    assert (found["output"][3] == 0).all() and (found["query"][3] == 0).all()
    assert (found["keys"][:, 3] == 0).all() and (found["values"][:, 3] == 0).all()


def test_the_same_bits_every_time():
    case = BIG["D 64"] if DEVICE == "cuda" else SMALL["padding on the left"]
    chosen = case.chosen()
    assert torch.equal(chosen, case.chosen())
    inputs = case.inputs(poisoned=True)
    output = attend_chosen(*inputs, case.layout, chosen, 0.0)
    passes = [torch.autograd.grad(output, inputs, case.upstream, retain_graph=True) for _ in range(2)]
    again = case.fused(chosen)
    for first, second, name in zip(*passes, NAMES[1:]):
        assert torch.equal(first, second) and torch.equal(first, again[name])
    assert torch.equal(output, again["output"])


def test_inputs_may_lie_in_memory_as_they_like():
    case = SMALL["padding on the left"]
    chosen = case.chosen()
    expected = case.fused(chosen)

    def elsewhere(x):  # every second number of a larger tensor
        return x.detach().repeat_interleave(2, dim=-1)[..., ::2].requires_grad_()

    inputs = [elsewhere(x) for x in case.inputs(poisoned=True)]
    output = attend_chosen(*inputs, case.layout, chosen.repeat_interleave(2, dim=-1)[..., ::2])
    found = results(output, inputs, elsewhere(case.upstream).detach())
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("targets, k, count", [(3, 2, 3), (70, 3, 7), (600, 1, 2)])
def test_readers_are_a_stable_sort_of_the_choice(targets, k, count):
    """One word of marks, several, and more than are read at once; a query in four has a choice less."""
    case = Case([count * 8, count * 8], targets, 8, k, heads=2)
    chosen = torch.rand(2, 2, targets, count, device=DEVICE).argsort(3)[..., :k].to(torch.int32)
    chosen[:, :, ::4, -1] = -1
    call = launching.content_call(*case.inputs(), case.layout, k, 0.0)
    starts, listed = call.readers(chosen.contiguous())
    for head, flat in enumerate(chosen.flatten(0, 1).flatten(1)):
        real = flat[flat >= 0]
        order = flat.masked_fill(flat < 0, count).argsort(stable=True)[: len(real)]
        assert torch.equal(listed[head, : len(real)].long(), order)
        expected = F.pad(torch.bincount(real, minlength=count).cumsum(0), (1, 0))
        assert torch.equal(starts[head].long(), expected)


def test_dropout_drops_the_same_weights_in_both_passes():
    """Values that are unit vectors make the output the weights; the exact result is that of the weights it kept."""
    case, rate = Case([15, 16], 20, 8, 2, heads=2), 0.4
    case.values = torch.eye(16, device=DEVICE).view(16, 1, 16).repeat(1, 2, 2)
    chosen = case.chosen()
    inputs = case.inputs()
    torch.manual_seed(3)
    weights = attend_chosen(*inputs, case.layout, chosen, rate)
    kept = (weights != 0).double() / (1 - rate)
    real = ~case.mask[:, None, None, :].expand_as(weights)
    assert abs((weights != 0)[real].float().mean() - (1 - rate)) < 0.06
    assert not torch.equal(kept[0], kept[1]) and not torch.equal(kept[:, 0], kept[:, 1])
    gradients = torch.autograd.grad(weights, inputs, case.upstream)
    query, keys, values = (x.requires_grad_() for x in case.inputs(torch.float64))
    heads = [x.unflatten(2, (2, -1)).permute(1, 2, 0, 3) for x in (keys, values)]
    scores = (query @ heads[0].transpose(2, 3)).masked_fill(~real, float("-inf"))
    output = (scores.softmax(3) * kept) @ heads[1]
    check(
        dict(zip(NAMES, (weights, *gradients))),
        results(output, (query, keys, values), case.upstream),
        TOLERANCE[case.dtype],
        case.upstream,
    )


@pytest.mark.parametrize("x, part", [(1, 128), (3, 2), (17, 128)])
def test_a_decoding_step_is_a_position_of_training(x, part, monkeypatch):
    """Hypotheses of a sentence stand in the place of positions; sources of one part and of several."""
    monkeypatch.setattr(stepping, "RANK_PART", part)
    lengths, shifts = ([29], [0]) if x == 17 else ([13, 0, 29], [9, 3, 2])
    check_step(Case(lengths, x, 8, 3, shifts=shifts, width=35), 1e-5)


@pytest.mark.parametrize("k", [1, 5])
def test_a_decoding_step_in_groups_of_segments(k, monkeypatch):
    monkeypatch.setattr(stepping, "TILE", 256)  # two segments of 8 tokens and 16 channels
    check_step(Case([13, 58], 1, 8, k, shifts=[9, 2], width=60), 1e-5)


def check_step(case, tolerance):
    query, keys, values = (x.detach() for x in case.inputs(poisoned=True))
    means = segment_means(keys, case.layout, case.heads)
    source = (keys.transpose(0, 1), values.transpose(0, 1), means, case.layout, case.k)
    ours = attend_step_chosen(query, *source)
    expected = attend_chosen(query, keys, values, case.layout, case.chosen())
    assert relative_error(ours, expected, case.upstream) < tolerance
    exact = [x.detach() for x in case.inputs(torch.float64)]
    exact[1:] = [x.transpose(0, 1) for x in exact[1:]]
    means = plain.segment_means(exact[1].transpose(0, 1), case.layout, case.heads)
    exact = plain.attend_step_chosen(*exact, means, case.layout, case.k)
    assert relative_error(ours, exact, case.upstream) < max(tolerance, TOLERANCE[case.dtype])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_decoding_steps_of_a_long_source(dtype):
    check_step(Case([16384, 9000], 4, 16, 8, head_dim=64, heads=12, shifts=[0, 50], dtype=dtype), 1e-2)


@pytest.mark.gpu
def test_a_graph_replays_training_and_decoding():
    """Without host synchronisation, and with other inputs than those it was recorded with."""
    case = BIG["D 64"]
    query, keys, values = case.inputs(poisoned=True)
    step_query = query.detach()[:, :, :4].clone()

    def run():
        means = segment_means(keys, case.layout, case.heads)
        chosen = choose(query, means, case.layout.segment_counts, case.k)
        output = attend_chosen(query, keys, values, case.layout, chosen)
        gradients = torch.autograd.grad(output, (query, keys, values), case.upstream)
        source = (keys.detach().transpose(0, 1), values.detach().transpose(0, 1), means, case.layout, case.k)
        return output.detach(), *gradients, attend_step_chosen(step_query, *source)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = run()
    for _ in range(2):
        with torch.no_grad():
            for tensor in (query, keys, values, step_query):
                tensor.copy_(torch.randn_like(tensor))
        graph.replay()
        for found, expected in zip(recorded, run()):
            assert torch.equal(found, expected)


def build(backend, **options):
    torch.manual_seed(1)
    settings = SegmentSettings(
        segment_schedule="content",
        attention_backend=backend,
        **{"cross_attention": "segmented", "segment_size": 4, "segments_per_query": 3, **options},
    )
    return SegmentedCrossAttention(32, 2, settings.check()).to(DEVICE)


@pytest.mark.parametrize("shifts", [[0, 0], [9, 30]], ids=["right", "left"])
def test_a_module_computes_with_them_what_it_computes_without(shifts):
    """Training, gradients and the steps of `--fast-generate`, through the dispatcher."""
    mask = torch.ones(2, 48, dtype=torch.bool)
    for row, (length, shift) in enumerate(zip((39, 18), shifts)):
        mask[row, shift : shift + length] = False
    encoder, query = torch.randn(48, 2, 32).to(DEVICE), torch.randn(5, 2, 32).to(DEVICE)
    mask, found = mask.to(DEVICE), {}
    for backend in ("torch", "triton"):
        module = build(backend)
        output, _ = module(query, encoder, encoder, mask)
        gradients = torch.autograd.grad(output.square().sum(), list(module.parameters()))
        with torch.no_grad():
            source = module.open_source(encoder, SourceContext(mask), 5)
            at = [torch.tensor([t], device=DEVICE) for t in range(5)]
            steps = [module.step(query[t : t + 1], source, at[t]) for t in range(5)]
        found[backend] = (output, torch.cat(steps), *gradients)
        assert ("means" in source) == (backend == "triton")
    # gradients are sums of terms of one size that may cancel (the keys' bias's to nothing): one measure for all
    size = max(tensor.norm() for tensor in found["torch"])
    for ours, expected in zip(found["triton"], found["torch"]):
        assert (ours - expected).norm() <= 5e-5 * size


@pytest.mark.parametrize(
    ("options", "more", "reason"),
    [
        ({}, {}, None),
        ({"segments_per_query": 33}, {}, "33 segments per query"),
        ({"segment_size": 65}, {}, "segment size 65"),
        ({"cross_attention": "pooled"}, {}, "PooledMemory"),
        ({"cross_attention": "srformer", "expected_target_length": 4}, {}, "RAFMemory"),
        ({}, {"dtypes": (torch.float64,)}, "float64"),
        ({}, {"head_dim": 24}, "head size 24"),
        ({}, {"need_weights": True}, "attention weights"),
        ({}, {"method": "attend_next"}, "step-by-step"),
    ],
    ids=str,
)
def test_what_the_kernels_cannot_compute_is_said(options, more, reason):
    module = build("triton", **options)
    layout = SourceLayout(None, 1, 70, module.segment_size, DEVICE)
    plan = module.schedule.plan(layout, 0, 3)
    request = {"method": "attend_source", "device": torch.device(DEVICE), "dtypes": (torch.float32,), "num_heads": 2}
    request |= {"head_dim": 16, "layout": layout, "plan": plan, "memory": module.memory, **more}
    found = obstacle(Request(**request))
    assert found is None if reason is None else reason in found
