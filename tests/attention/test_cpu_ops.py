"""The loop over segments on a CPU against the plain operations: outputs, every gradient, and where it is used."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from srformer_plugin.attention.backends import resolve
from srformer_plugin.attention.cpu import attend as cpu_ops
from srformer_plugin.attention.method.memory import NoMemory, RAFMemory
from srformer_plugin.attention.method.schedule import build_schedule
from srformer_plugin.attention.method.segments import SourceLayout
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.torch import attend as torch_ops


@pytest.fixture(autouse=True)
def small_states_too(monkeypatch):
    monkeypatch.setattr(cpu_ops, "FEWEST_NUMBERS", 0)


class Case:
    """Inputs of sentences of `lengths` tokens in a source of `width`, the first one padded by `shifts` on the left."""

    def __init__(
        self, lengths, targets, segment_size, *, shifts=None, width=None, expected=None, target_lengths=None,
        heads=2, head_dim=4, clamp=2.0, gate=True, masked=True, dtype=torch.float64, seed=0,
    ):  # fmt: skip
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        batch = len(lengths)
        shifts = shifts or [0] * batch
        width = width or max(n + shift for n, shift in zip(lengths, shifts))
        self.mask = torch.ones(batch, width, dtype=torch.bool)
        for row, (n, shift) in enumerate(zip(lengths, shifts)):
            self.mask[row, shift : shift + n] = False
        self.layout = SourceLayout(self.mask if masked else None, batch, width, segment_size, "cpu")
        schedule = build_schedule("fixed" if target_lengths is None else "target", expected or targets)
        known = None if target_lengths is None else torch.tensor(target_lengths)
        self.plan = schedule.plan(self.layout, 0, targets, target_lengths=known)
        self.memory = RAFMemory(heads, head_dim, SegmentSettings(kv_clamp=clamp, memory_gate=gate)).to(dtype)
        with torch.no_grad():
            self.memory.proj.weight.copy_(draw(head_dim, head_dim) * head_dim**-0.5)
            self.memory.leak.fill_(0.7)
            if gate:
                self.memory.gate.copy_(draw(heads))
        self.query = draw(batch, heads, targets, head_dim).requires_grad_()
        self.keys, self.values = (draw(width, batch, heads * head_dim).requires_grad_() for _ in range(2))
        self.upstream = draw(batch, heads, targets, head_dim)

    @property
    def inputs(self):
        return self.query, self.keys, self.values, self.layout, self.plan, self.memory

    @property
    def leaves(self):
        return [self.query, self.keys, self.values, *self.memory.parameters()]

    def results(self, attend, **options):
        """Output and gradients, by name."""
        output, weights = attend(*self.inputs, **options)
        assert weights is None
        gradients = torch.autograd.grad(output, self.leaves, self.upstream)
        names = ("output", "query", "keys", "values", *dict(self.memory.named_parameters()))
        return dict(zip(names, (output.detach(), *gradients)))


def loop(*inputs, **options):
    """The loop itself: a case that it declines is an error in the test."""
    query, keys, values, layout, plan, memory = inputs
    assert cpu_ops.obstacle(query, keys, values, layout, plan, memory, False) is None
    return cpu_ops.attend_source(*inputs, **options)


def check(ours, exact, tolerance=1e-9):
    assert ours.keys() == exact.keys()
    for name, expected in exact.items():
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(ours[name] / scale, expected / scale, rtol=0, atol=tolerance, msg=name)


@st.composite
def cases(draw):
    batch = draw(st.integers(1, 3))
    width = draw(st.integers(1, 200))
    lengths = [draw(st.integers(0, width)) for _ in range(batch)]
    targets = draw(st.integers(1, 40))
    by_length = draw(st.booleans())
    return Case(
        lengths,
        targets,
        draw(st.sampled_from([8, 16, 64])),
        shifts=[draw(st.sampled_from([0, width - n, (width - n) // 2])) for n in lengths],
        width=width,
        expected=draw(st.integers(1, 50)),
        target_lengths=[draw(st.integers(1, targets)) for _ in lengths] if by_length else None,
        heads=draw(st.integers(1, 3)),
        head_dim=draw(st.sampled_from([1, 3, 8])),
        clamp=draw(st.sampled_from([0.0, 0.5, 2.0])),
        gate=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )


@settings(max_examples=150, deadline=None)
@given(cases())
@example(Case([40, 40], 6, 8, masked=False))
@example(Case([37, 37], 6, 8, masked=False))
@example(Case([1], 1, 8))
@example(Case([0, 20], 5, 8))
@example(Case([60, 21], 9, 8, expected=4))
@example(Case([20, 9], 40, 8, expected=6))
@example(Case([60, 50, 9], 12, 8, shifts=[0, 10, 51], target_lengths=[12, 3, 7]))
def test_output_and_gradients_equal_the_plain_operations(case):
    if case.memory.acts_on_values(case.layout.max_segments * case.layout.segment_size, case.plan):
        case.memory.clamp = 1e6  # no clip that does anything, for which the loop is used
    check(case.results(loop), case.results(torch_ops.attend_source))


def test_derivatives_equal_differences():
    case = Case([13, 9], 5, 4, shifts=[0, 4], heads=1, head_dim=3)
    names = list(dict(case.memory.named_parameters()))

    def attend(query, keys, values, *parameters):
        def run(*inputs):
            return loop(*inputs, case.layout, case.plan, case.memory)[0]

        functional = torch.func.functional_call
        module = torch.nn.Module()
        module.memory, module.forward = case.memory, lambda *inputs: run(*inputs)
        named = {f"memory.{name}": p for name, p in zip(names, parameters)}
        return functional(module, named, (query, keys, values))

    assert torch.autograd.gradcheck(attend, case.leaves, eps=1e-7, atol=1e-5)


def test_float32_is_as_exact_as_it_can_be():
    exact = Case([130, 90], 20, 16, shifts=[0, 40], head_dim=16).results(torch_ops.attend_source)
    ours = Case([130, 90], 20, 16, shifts=[0, 40], head_dim=16, dtype=torch.float32).results(loop)
    for name, expected in exact.items():
        assert ((ours[name].double() - expected).norm() / expected.norm()) < 1e-5, name


def test_padding_is_never_read_and_gets_no_gradient():
    clean, poisoned = (Case([13, 29, 1], 7, 8, shifts=[9, 0, 30], width=33) for _ in range(2))
    with torch.no_grad():
        for x in (poisoned.keys, poisoned.values):
            x.masked_fill_(poisoned.mask.T.unsqueeze(2), float("nan"))
    ours = poisoned.results(loop)
    check(ours, clean.results(loop), 0)
    for name in ("keys", "values"):
        assert (ours[name][poisoned.mask.T] == 0).all()


def test_the_same_inputs_give_the_same_bits_and_a_second_backward_pass_the_same_gradients():
    case = Case([40, 25], 6, 8, dtype=torch.float32)
    first, second = case.results(loop), case.results(loop)
    assert all(torch.equal(first[name], second[name]) for name in first)
    output, _ = loop(*case.inputs)
    for _ in range(2):
        gradients = torch.autograd.grad(output, case.leaves, case.upstream, retain_graph=True)
        assert all(torch.equal(a, b) for a, b in zip(gradients, list(first.values())[1:]))
    with torch.no_grad():
        assert torch.equal(loop(*case.inputs)[0], first["output"])


def test_a_gradient_of_a_gradient_is_refused():
    case = Case([20], 5, 8)
    (gradient,) = torch.autograd.grad(loop(*case.inputs)[0].square().sum(), case.query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_dropout_drops_the_share_asked_for_and_its_gradients_are_those_of_the_kept_weights(monkeypatch):
    case = Case([30, 22], 12, 16, shifts=[0, 8])
    drawn = []
    empty = torch.Tensor.bernoulli_
    monkeypatch.setattr(torch.Tensor, "bernoulli_", lambda x, p: drawn.append(empty(x, p).clone()) or drawn[-1].clone())
    torch.manual_seed(3)
    ours = case.results(loop, dropout=0.4)
    (kept,) = drawn
    assert 0.55 < kept.mean() < 0.65
    # the plain operations with the same weights dropped
    tables = cpu_ops.visit_tables(case.plan, case.layout, 2)
    by_query = kept[tables.slot_rows].view(12, 2, 2, 1, 16).permute(1, 2, 0, 3, 4)

    def dropout(probabilities, p, training):
        assert (p, training) == (0.4, True)
        return probabilities * case.plan.local.spread_reads(by_query) / 0.6

    monkeypatch.setattr(torch_ops.F, "dropout", dropout)
    check(ours, case.results(torch_ops.attend_source, dropout=0.4))


class Recorder:
    """Stands in for the plain operations and counts its calls."""

    def __init__(self, monkeypatch):
        self.calls = 0
        self.plain = torch_ops.attend_source
        monkeypatch.setattr(torch_ops, "attend_source", self)

    def __call__(self, *arguments, **options):
        self.calls += 1
        return self.plain(*arguments, **options)


def no_memory(case):
    case.memory = NoMemory(2, 4, SegmentSettings())


def own_memory(case):
    case.memory.__class__ = type("OwnMemory", (RAFMemory,), {})


def half_precision(case):
    case.query, case.keys, case.values = (x.detach().bfloat16() for x in (case.query, case.keys, case.values))
    case.memory.bfloat16()


def out_of_order(case):
    case.plan = build_schedule("fixed", 6).plan(case.layout, 3, 6)


def cheaper_on_values(case):
    case.memory.clamp = None
    case.layout = SourceLayout(case.mask, 2, 40, 2, "cpu")
    case.plan = build_schedule("fixed", 60).plan(case.layout, 0, 6, decoding=True)


def mixed(case):
    case.keys = case.keys.detach().float()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (no_memory, "NoMemory"),
        (own_memory, "OwnMemory"),
        (half_precision, "bfloat16"),
        (out_of_order, "order"),
        (cheaper_on_values, "W costs less"),
        (mixed, "float32"),
    ],
)
def test_what_the_loop_does_not_cover_is_left_to_the_plain_operations(change, reason, monkeypatch):
    case = Case([40, 25], 6, 8)
    change(case)
    assert reason in cpu_ops.obstacle(*case.inputs, False)
    if change is not mixed:  # which no implementation takes
        recorder = Recorder(monkeypatch)
        output = resolve("torch").attend_source(*case.inputs)[0]
        assert torch.equal(output, recorder.plain(*case.inputs)[0]) and recorder.calls == 1


def test_weights_and_mixed_precision_are_left_to_the_plain_operations(monkeypatch):
    case = Case([40, 25], 6, 8, dtype=torch.float32)
    recorder = Recorder(monkeypatch)
    assert resolve("torch").attend_source(*case.inputs, need_weights=True)[1].shape == (2, 2, 6, 1, 8)
    assert recorder.calls == 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        resolve("torch").attend_source(*case.inputs)
    assert recorder.calls == 2
    resolve("torch").attend_source(*case.inputs)
    assert recorder.calls == 2, "the loop is not used where it applies"


def test_every_slot_of_the_tables_is_a_query_and_every_row_is_written_once():
    case = Case([60, 50, 9], 12, 8, shifts=[0, 10, 51], target_lengths=[12, 3, 7], heads=3)
    tables = cpu_ops.visit_tables(case.plan, case.layout, 3)
    assert cpu_ops.visit_tables(case.plan, case.layout, 3) is tables, "made once"
    rows = 3 * 3 * 60
    written = tables.gradient_rows.flatten()
    assert torch.equal(written[written < rows].sort().values, torch.arange(rows))
    assert torch.equal(tables.query_rows[tables.slot_rows], torch.arange(3 * 3 * 12))
    assert tables.unused.sum() == len(tables.query_rows) - 3 * 3 * 12
    assert sum(tables.readers) * 9 == len(tables.query_rows) and min(tables.readers) > 0
