"""The fused kernels against the plain reference in float64: on a GPU, and in Triton's interpreter on small shapes."""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from srformer_plugin.attention import backends
from srformer_plugin.attention.backends import resolve
from srformer_plugin.attention.cross_attention import SegmentedCrossAttention
from srformer_plugin.attention.method.memory import NoMemory, RAFMemory
from srformer_plugin.attention.method.raf import MIN_THRESHOLD
from srformer_plugin.attention.method.reference import segmented_recurrent_attention
from srformer_plugin.attention.method.schedule import build_schedule
from srformer_plugin.attention.method.segments import SourceLayout
from srformer_plugin.attention.request import Request
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.torch import attend as torch_ops
from srformer_plugin.attention.triton import attend as triton_ops
from srformer_plugin.attention.triton import support as triton_support
from srformer_plugin.attention.triton.exactness import by_entry, relative_error, scan_of_firing
from srformer_plugin.attention.triton.launches import launches
from srformer_plugin.attention.triton.tables import state_tables
from srformer_plugin.errors import ConfigurationError

triton = pytest.importorskip("triton")
if not torch.cuda.is_available() and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7):
    pytest.skip("Triton 3.6's interpreter fails beside NumPy 2.4", allow_module_level=True)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_GPU = pytest.mark.gpu
# Half inputs: states are kept in bfloat16 for the backward pass, fp16's as well, whose range they exceed.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
# Rounding error of products beside the clip, which are kept to 16 bits or more.
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 1e-4, torch.float16: 1e-4}
NAMES = ("query", "keys", "values", "W", "leak", "threshold", "gate")


class Case:
    """One set of inputs: sentences of `lengths` tokens in a source of `width`, padded on the sides `shifts` say."""

    def __init__(
        self,
        lengths,
        targets,
        segment_size,
        head_dim=16,
        heads=2,
        shifts=None,
        width=None,
        expected=None,
        dtype=torch.float32,
        clamp=2.0,
        gate=False,
        kind="srformer",
        masked=True,
        seed=1,
    ):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator)

        shifts = shifts or [0] * len(lengths)
        width = width or max(n + shift for n, shift in zip(lengths, shifts))
        self.lengths, self.segment_size, self.heads, self.dtype = lengths, segment_size, heads, dtype
        self.expected = expected or targets
        mask = torch.ones(len(lengths), width, dtype=torch.bool)
        for row, (n, shift) in enumerate(zip(lengths, shifts)):
            mask[row, shift : shift + n] = False
        self.mask = mask if masked else None
        settings = SegmentSettings(kv_clamp=clamp, memory_gate=gate)
        self.memory = (RAFMemory if kind == "srformer" else NoMemory)(heads, head_dim, settings)
        for parameter in self.memory.parameters():
            parameter.requires_grad_()
        if kind == "srformer":
            with torch.no_grad():
                self.memory.proj.weight.copy_(draw(head_dim, head_dim) * head_dim**-0.5)
                if gate:
                    self.memory.gate.copy_(draw(heads))
        self.memory = self.memory.to(dtype)
        self.query = (draw(len(lengths), heads, targets, head_dim) * head_dim**-0.5).to(dtype)
        self.keys, self.values = (draw(width, len(lengths), heads * head_dim).to(dtype) for _ in range(2))
        self.upstream = draw(len(lengths), heads, targets, head_dim).to(dtype)

    def _leaves(self, device, dtype, poison=0.0):
        tensors = [self.query, self.keys, self.values]
        if poison and self.mask is not None:
            tensors[1:] = [x.masked_fill(self.mask.T[:, :, None], poison) for x in tensors[1:]]
        inputs = [x.to(device, dtype).detach().clone().requires_grad_() for x in tensors]
        memory = type(self.memory)(self.heads, self.query.size(3), SegmentSettings(memory_gate=self._gated()))
        memory = memory.to(device, dtype)
        memory.load_state_dict(self.memory.state_dict())
        if hasattr(memory, "clamp"):
            memory.clamp = self.memory.clamp
        return inputs, memory

    def _gated(self):
        return getattr(self.memory, "gate", None) is not None

    def _results(self, output, inputs, memory, local=None):
        parameters = list(memory.parameters())
        names = list(NAMES[:3]) + [
            {"proj.weight": "W", "leak": "leak", "threshold": "threshold", "gate": "gate"}[name]
            for name, _ in memory.named_parameters()
        ]
        upstream = self.upstream.to(output.device, output.dtype)
        gradients = torch.autograd.grad(output, [*inputs, *parameters], upstream)
        results = {"output": output.detach(), **dict(zip(names, gradients))}
        if local is not None and self._gated():  # d tanh(gate) * recalled = (1 - tanh^2) / tanh * (output - local)
            tanh = memory.gate.detach().tanh().view(-1, 1, 1, 1)
            results["gate"] = (upstream * (output - local).detach()).transpose(0, 1) * (1 - tanh**2) / tanh
        return results

    def fused(self, dropout=0.0, poison=float("nan")):
        """Output and gradients by the kernels; padding holds NaN."""
        inputs, memory = self._leaves(DEVICE, self.dtype, poison)
        layout, plan = self.layout_and_plan(DEVICE)
        assert obstacle(inputs, layout, plan, memory) is None
        output, _ = triton_ops.attend_source(*inputs, layout, plan, memory, dropout)
        return self._results(output, inputs, memory)

    def layout_and_plan(self, device):
        mask = None if self.mask is None else self.mask.to(device)
        layout = SourceLayout(mask, len(self.lengths), self.keys.size(0), self.segment_size, device)
        return layout, build_schedule("fixed", self.expected).plan(layout, 0, self.query.size(2))

    @torch.no_grad()
    def firing(self, dtype=None):
        """Which neurons that are read fire, (B, H, R, D, D): by the kernels, or by PyTorch in float64."""
        (query, keys, values), memory = self._leaves(DEVICE, dtype or self.dtype)
        layout, plan = self.layout_and_plan(DEVICE)
        if dtype is None:
            return triton_ops.memory_states(query, keys, values, layout, plan, memory) > 0
        states = memory.encode(*(layout.split_heads(x, self.heads) for x in (keys, values)), layout, plan)
        read = torch.arange(states.size(2), device=DEVICE) <= plan.states.amax((1, 2, 3)).unsqueeze(1)
        return (states > 0) & read[:, None, :, None, None]

    def exact(self, by_torch=False, clamp=1.0, fired=None):
        """The same in float64 by the plain reference, or by its vectorised equal where the loops are too slow.

        The gradients of leak, threshold and gate come as terms of the sums that they are. `clamp`: a factor of the
        memory's; `fired`: which neurons fire, whatever their potentials are (with `by_torch`).
        """
        inputs, memory = self._leaves(DEVICE if by_torch else "cpu", torch.float64)
        by_entry(memory)
        if hasattr(memory, "proj"):
            memory.clamp = memory.clamp and memory.clamp * clamp
            memory.scan = memory.scan if fired is None else scan_of_firing(fired)
        if by_torch:
            layout, plan = self.layout_and_plan(DEVICE)
            output = torch_ops.attend_source(*inputs, layout, plan, memory)[0]
            local = torch_ops.attend_source(*inputs, layout, plan, NoMemory(self.heads, 0, None))[0]
            return self._results(output, inputs, memory, local)
        query, *sources = inputs
        real = torch.ones(len(self.lengths), self.keys.size(0), dtype=bool) if self.mask is None else ~self.mask
        packed = []
        for x in sources:
            rows = [x[real[b], b] for b in range(len(self.lengths))]
            x = torch.stack([F.pad(r, (0, 0, 0, max(self.lengths) - len(r))) for r in rows])
            packed.append(x.unflatten(2, (self.heads, -1)).transpose(1, 2))
        parameters = ()
        if hasattr(memory, "proj"):
            parameters = (memory.proj.weight, memory.leak, memory.threshold, memory.clamp)
        arguments = (query, *packed, self.lengths, self.segment_size, self.expected)
        output, local = (segmented_recurrent_attention(*arguments, *x) for x in (parameters, ()))
        if self._gated():
            output = local + (output - local) * memory.gate.tanh().view(1, -1, 1, 1)
        return self._results(output, inputs, memory, local)


def obstacle(inputs, layout, plan, memory, device=None, method="attend_source"):
    """What keeps the kernels from a call with these queries, keys and values."""
    heads = (inputs[0].size(1), inputs[0].size(3))
    request = Request.of(method, tuple(inputs), heads, layout, plan, memory)
    return triton_support.obstacle(replace(request, device=torch.device(device or request.device)))


def check(ours, exact, tolerance, upstream=None):
    for name, expected in exact.items():
        error = relative_error(ours[name], expected, expected if upstream is None else upstream)
        assert error < tolerance, f"{name}: {error:.2e}"


def check_case(case, tolerance, by_torch=False):
    """Every error is below `tolerance`, or as small as rounding allows.

    A neuron within rounding of its threshold fires or not, a product within rounding of the clip passes its gradient
    or not: whole entries of gradients hang on it. So the exact result is that of the neurons that fired (nearly all of
    which must), and an error is accepted as far as moving the clip by as much as rounding moves the result.
    """
    ours, exact = case.fused(), case.exact(by_torch)
    found = {name: relative_error(ours[name], exact[name], case.upstream) for name in exact}
    if not max(found.values()) < tolerance and hasattr(case.memory, "proj"):
        fired = case.firing()
        assert (fired != case.firing(torch.float64)).float().mean() < 1e-3
        exact = case.exact(by_torch=True, fired=fired)
        allowed = dict.fromkeys(found, 0.0)
        for factor in (1 - ROUNDING[case.dtype], 1 + ROUNDING[case.dtype]):
            for name, moved in case.exact(by_torch=True, clamp=factor, fired=fired).items():
                allowed[name] = max(allowed[name], relative_error(moved, exact[name], case.upstream))
        found = {name: relative_error(ours[name], exact[name], case.upstream) - allowed[name] for name in exact}
    for name, error in found.items():
        assert error < tolerance, f"{name}: {error:.2e}"


SMALL = {
    "padding on both sides": Case([13, 29, 1], 7, 8, shifts=[9, 0, 30], width=33),
    "no padding": Case([24, 24], 5, 8, masked=False),
    "no padding, a partial last segment": Case([21, 21], 5, 8, masked=False),
    "more segments than positions": Case([60, 21], 3, 8, shifts=[0, 20]),
    "more segments than the schedule's length": Case([60, 21], 9, 8, expected=4),
    "positions beyond the schedule": Case([20, 9], 40, 8, expected=6),
    "one token, one position": Case([1], 1, 8),
    "one segment": Case([7, 3], 4, 16),
    "a segment of several tiles": Case([150, 90], 5, 100, heads=1),
    "without clip": Case([40, 25], 6, 8, clamp=0.0, shifts=[0, 15]),
    "gate": Case([40, 25], 6, 8, gate=True),
    "no memory": Case([40, 25], 6, 8, kind="segmented", shifts=[3, 0]),
    "no memory, several tiles": Case([150, 90], 5, 100, heads=1, kind="segmented"),
    "several blocks of readers": Case([30, 17], 70, 8, heads=1),
    "D 32": Case([40, 25], 6, 8, head_dim=32),
}


@pytest.mark.parametrize("name", SMALL)
def test_output_and_gradients_equal_the_reference(name):
    check_case(SMALL[name], 1e-4)


@pytest.mark.parametrize(
    ("name", "value", "bound"), [("leak", 1.5, 1.0), ("leak", -0.5, 0.0), ("threshold", -0.2, MIN_THRESHOLD)]
)
def test_a_parameter_pushed_out_of_its_bounds_acts_as_one_at_the_bound(name, value, bound):
    case, found = Case([40, 25], 6, 8), []
    for setting in (value, bound):
        with torch.no_grad():
            getattr(case.memory, name).fill_(setting)
        found.append(case.fused())
    for result in found[0]:  # the gradient passes as well
        torch.testing.assert_close(found[0][result], found[1][result])


def test_half_precision_in_the_interpreter():
    """Its bfloat16 truncates, so the tolerance is wider than on a GPU."""
    case = Case([40, 25], 6, 8, dtype=torch.bfloat16)
    check_case(case, 2e-2 if DEVICE == "cpu" else 1e-2)


def test_a_source_without_a_token_gives_zeros_and_harms_no_other():
    for kind in ("srformer", "segmented"):
        case = Case([0, 20], 5, 8, kind=kind)
        ours = case.fused()
        assert all(x.isfinite().all() for x in ours.values())
        assert (ours["output"][0] == 0).all() and (ours["query"][0] == 0).all() and (ours["keys"][:, 0] == 0).all()
        alone = Case([20], 5, 8, kind=kind)
        for name in ("query", "keys", "values", "upstream"):
            value = getattr(case, name)
            setattr(alone, name, value[1:] if value.dim() == 4 else value[:, 1:])
        alone.memory = case.memory
        check({"output": ours["output"][1:]}, {"output": alone.exact()["output"]}, 1e-4)


def test_dropout_drops_the_share_asked_for_and_its_gradients_are_those_of_the_kept_weights():
    """Values that are one-hot per slot make the output the dropped weights; a reference then repeats them."""
    case = Case([30, 30], 12, 16, kind="segmented", expected=12)
    layout, plan = case.layout_and_plan(DEVICE)
    query, keys, values, memory = (*(x.to(DEVICE) for x in (case.query, case.keys, case.values)), case.memory)
    slot = torch.arange(30, device=DEVICE) % 16
    one_hot = F.one_hot(slot, 16).float().view(30, 1, 1, 16).expand(30, 2, 2, 16).flatten(2)
    outputs = []
    for v in (one_hot, values):
        torch.manual_seed(3)
        leaves = [x.clone().requires_grad_() for x in (query, keys, v)]
        outputs.append((triton_ops.attend_source(*leaves, layout, plan, memory, 0.4)[0], leaves))
    whole = triton_ops.attend_source(query, keys, one_hot, layout, plan, memory)[0]
    dropped = outputs[0][0].detach()
    keep = torch.where(dropped > 0, 1 / 0.6, 0.0)
    torch.testing.assert_close(dropped, whole * keep)
    present = whole > 0
    assert 0.5 < (dropped > 0)[present].float().mean() < 0.7

    output, leaves = outputs[1]
    plain = [x.detach().double().requires_grad_() for x in leaves]
    k, v = (F.pad(x.view(30, 2, 2, 16), (0, 0, 0, 0, 0, 0, 0, 2)).view(2, 16, 2, 2, 16) for x in plain[1:])
    segment = plan.segments[0, 0, :, 0]
    scores = torch.einsum("bhtd,tsbhd->bhts", plain[0], k[segment])
    real = (segment[:, None] * 16 + torch.arange(16, device=DEVICE)) < 30
    weights = scores.masked_fill(~real, -torch.inf).softmax(-1) * keep.double()
    expected = torch.einsum("bhts,tsbhd->bhtd", weights, v[segment])
    check({"output": output}, {"output": expected.detach()}, 1e-5)
    upstream = torch.randn_like(output)
    ours, exact = torch.autograd.grad(output, leaves, upstream), torch.autograd.grad(expected, plain, upstream.double())
    for a, b in zip(ours, exact):
        check({"x": a}, {"x": b}, 1e-5)


def test_the_same_inputs_give_the_same_bits_and_a_second_backward_pass_the_same_gradients():
    case = Case([40, 25], 6, 8)
    first, second = case.fused(), case.fused()
    assert all(torch.equal(first[name], second[name]) for name in first)
    inputs, memory = case._leaves(DEVICE, case.dtype)
    output, _ = triton_ops.attend_source(*inputs, *case.layout_and_plan(DEVICE), memory)
    leaves = [*inputs, *memory.parameters()]
    twice = [torch.autograd.grad(output, leaves, output.detach(), retain_graph=True) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*twice))
    with torch.no_grad():  # stores no states
        assert torch.equal(triton_ops.attend_source(*inputs, *case.layout_and_plan(DEVICE), memory)[0], output)


def test_hooks_may_lay_saved_tensors_out_anew():
    """As `torch.autograd.graph.save_on_cpu(pin_memory=True)` does."""
    case, found = Case([40, 25], 6, 8, gate=True), []
    for unpack in (lambda x: x, lambda x: x.contiguous() if x.dim() > 1 else x):
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, unpack):
            found.append(case.fused())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@ON_GPU
def test_calls_that_look_alike_give_what_triton_gives_when_it_looks_at_every_argument():
    """Other values each time, in the end also at odd addresses, which need kernels of their own."""

    def results(case, odd):
        inputs, memory = case._leaves(DEVICE, case.dtype, float("nan"))
        if odd:
            inputs = [torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape).detach() for x in inputs]
            inputs = [x.requires_grad_() for x in inputs]
        output, _ = triton_ops.attend_source(*inputs, *case.layout_and_plan(DEVICE), memory)
        return case._results(output, inputs, memory)

    cases = [(Case([130, 77], 21, 16, head_dim=32, gate=True, seed=seed), seed > 2) for seed in range(1, 5)]
    looked_at = []
    for case in cases:
        launches.cache_clear()
        looked_at.append(results(*case))
    launches.cache_clear()
    for case, expected in zip(cases, looked_at):
        found = results(*case)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_tables_hold_every_query_once_in_blocks_of_one_state():
    case = Case([60, 21, 9], 50, 8, expected=20)
    layout, plan = case.layout_and_plan("cpu")
    tables = state_tables(plan, layout)
    states, segments = plan.states[:, 0, :, 0], plan.segments[:, 0, :, 0]
    for b in range(3):
        count = int(tables.item_count[b])
        first = tables.item_first[b, : count + 1].tolist()
        assert first[0] == 0 and first[-1] == 50 and (tables.item_first[b, count:] == 50).all()
        for i in range(count):
            assert 0 < first[i + 1] - first[i] <= tables.block
            assert (states[b, first[i] : first[i + 1]] == tables.item_state[b, i]).all()
        for t in range(50):
            state = int(states[b, t])
            assert tables.starts[b, state] <= t < tables.starts[b, state + 1]
            assert tables.state_of_segment[b, segments[b, t]] == state
        read = set(segments[b].tolist())
        assert {j for j in range(plan.max_segments) if tables.state_of_segment[b, j] >= 0} == read


def test_what_the_kernels_cannot_do_is_done_by_pytorch_and_said_once(caplog):
    case = Case([40, 25], 6, 8, head_dim=24)
    inputs, memory = case._leaves(DEVICE, torch.float32)
    layout, plan = case.layout_and_plan(DEVICE)
    backends._told.clear()
    with caplog.at_level("INFO"):
        results = [resolve("triton").attend_source(*inputs, layout, plan, memory)[0] for _ in range(2)]
    expected = torch_ops.attend_source(*inputs, layout, plan, memory)[0]
    assert all(torch.equal(result, expected) for result in results)
    assert [r.message.split(": ")[1] for r in caplog.records] == ["the head size 24 is none of 16, 32, 64, 128"]


def test_the_module_trains_by_kernels_as_by_pytorch():
    results = []
    for backend in ("torch", "triton"):
        torch.manual_seed(5)
        settings = SegmentSettings(segment_size=8, expected_target_length=6, attention_backend=backend)
        module = SegmentedCrossAttention(32, 2, settings).to(DEVICE)
        query, encoder = torch.randn(7, 2, 32, device=DEVICE), torch.randn(30, 2, 32, device=DEVICE)
        mask = torch.zeros(2, 30, dtype=torch.bool, device=DEVICE)
        mask[1, :11] = True
        output, _ = module(query, encoder.requires_grad_(), encoder, mask)
        gradients = torch.autograd.grad(output.square().sum(), [encoder, *module.parameters()])
        results.append([output.detach(), *gradients])
    for name, a, b in zip(("output", "encoder", *dict(module.named_parameters())), *results):
        # a key's bias moves all scores of a softmax alike: its gradient comes from the memory alone, and is small
        check({name: a}, {name: b}, 1e-3 if name == "k_proj.bias" else 1e-4)


@pytest.mark.parametrize(("version", "message"), [(None, "is not installed"), ("3.3.1", "3.3.1 is older than 3.6")])
def test_triton_asked_for_and_missing_or_old_is_one_clear_error(monkeypatch, version, message):
    monkeypatch.setattr(triton_support, "unusable", triton_support.unusable.__wrapped__)
    monkeypatch.setattr(backends, "unusable", triton_support.unusable)
    monkeypatch.setattr(triton_support, "triton_version", lambda: version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigurationError, match=f"--attention-backend triton needs Triton 3.6 or later.*{message}"):
        resolve("triton")
    assert resolve("auto") is resolve("torch")
    case = Case([40, 25], 6, 8)
    inputs, memory = case._leaves("cpu", torch.float32)
    assert message in obstacle(inputs, *case.layout_and_plan("cpu"), memory)


def test_a_gpu_with_too_little_shared_memory_is_an_obstacle(monkeypatch):
    case = Case([40, 25], 6, 8)
    inputs, memory = case._leaves(DEVICE, torch.float32)
    arguments = (*case.layout_and_plan(DEVICE), memory)
    for size, dtype, fits in (
        (64, torch.bfloat16, False),  # T4
        (99, torch.bfloat16, True),  # A10
        (99, torch.float32, False),
        (227, torch.float32, True),  # H100
    ):
        monkeypatch.setattr(triton_support, "shared_memory", lambda _, size=size: size * 1024)
        found = obstacle([x.to(dtype) for x in inputs], *arguments, device="cuda")
        assert (found is None) == fits, found
        assert fits or "more shared memory than this GPU has" in found


def test_a_memory_with_another_scan_is_left_to_pytorch():
    case = Case([40, 25], 6, 8)
    inputs, memory = case._leaves(DEVICE, torch.float32)
    by_entry(memory)
    found = obstacle(inputs, *case.layout_and_plan(DEVICE), memory)
    assert found == "the memory's scan is not its own"


def test_a_gradient_of_a_gradient_is_an_error():
    case = Case([40, 25], 6, 8)
    inputs, memory = case._leaves(DEVICE, torch.float32)
    output, _ = triton_ops.attend_source(*inputs, *case.layout_and_plan(DEVICE), memory)
    (gradient,) = torch.autograd.grad(output.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


@ON_GPU
@pytest.mark.parametrize("clamp", [0.0, 2.0])
@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("segment_size", [64, 24])
def test_odd_sizes_on_the_gpu(dtype, head_dim, clamp, segment_size):
    for n in (1, 63, 500, 1000):
        for t in (1, 7, 129):
            lengths, shifts = [n, max(1, n // 3), 1], [0, n - max(1, n // 3), n // 2]
            case = Case(lengths, t, segment_size, head_dim, 3, shifts, n, max(1, t - 2), dtype, clamp)
            check_case(case, TOLERANCE[dtype], by_torch=True)


@ON_GPU
@pytest.mark.parametrize("seed", range(50))
def test_random_shapes_on_the_gpu(seed):
    rng = random.Random(seed)
    width = rng.choice([40, 300, 1500])
    lengths = [rng.randint(1, width) for _ in range(rng.randint(1, 4))]
    shifts = [rng.randint(0, width - n) for n in lengths]
    targets = rng.randint(1, 200)
    dtype = rng.choice(list(TOLERANCE))
    case = Case(
        lengths, targets, rng.choice([8, 16, 17, 64, 100, 256]), rng.choice([32, 64, 128]), rng.randint(1, 4), shifts,
        width, rng.randint(1, 250), dtype, rng.choice([0.0, 2.0]), rng.random() < 0.3,
        rng.choice(["srformer", "srformer", "segmented"]), seed=seed,
    )  # fmt: skip
    check_case(case, TOLERANCE[dtype], by_torch=True)
