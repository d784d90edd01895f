"""The fused kernels against the plain reference in float64: on a GPU, and in Triton's interpreter on small shapes."""

import random

import pytest
import torch
import torch.nn.functional as F

from srformer_plugin.attention.cross_attention import SegmentedCrossAttention
from srformer_plugin.attention.method.raf import MIN_THRESHOLD
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.triton import plain
from srformer_plugin.attention.triton.launches import launches
from srformer_plugin.attention.triton.tables import state_tables
from tests.attention.kernel_cases import DEVICE, ON_GPU, TOLERANCE, Case, check, check_case, triton_ops

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


def test_each_forward_kernel_stores_what_its_plain_twin_computes():
    case = Case([40, 25], 6, 8, shifts=[0, 15], gate=True)
    inputs, memory = case._leaves(DEVICE, torch.float32)
    layout, plan = case.layout_and_plan(DEVICE)
    leaves, tables = triton_ops._arguments(*inputs, layout, plan, memory)
    call = triton_ops.Call(*leaves, *tables, dropout=0.0)
    with torch.no_grad():
        output, stored = call.forward(None, call.new_excess())
    query, keys, values, weight, leak, threshold, gate = (x.detach().double() for x in leaves)
    for number in range(4):
        b, h = divmod(number, 2)
        real, head = ~case.mask[b].to(DEVICE), slice(16 * h, 16 * h + 16)
        k, v = keys[real, b, head], values[real, b, head]
        segment_of_state, states = plan.segments[b, 0, :, 0].unique(return_inverse=True)
        local, lse, y, total, squares = plain.segment_forward(
            query[b, h], k, v, weight, plan.segments[b, 0, :, 0], segment_of_state, 8, memory.clamp
        )
        drive, inverse_norm = plain.total_products(total, squares, weight, memory.clamp)
        attended, excess = plain.scan_forward(
            query[b, h], states, y, drive, inverse_norm, local, leak, threshold, gate[h].tanh()
        )
        ours = (output[b, h], stored[0][b, h], stored[1][number], stored[2][number, : len(excess)])
        ours += (stored[3][number], stored[4][number])
        for found, exact in zip(ours, (attended, local, lse, excess, total, inverse_norm)):
            check({"": found}, {"": exact}, 1e-4)


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
