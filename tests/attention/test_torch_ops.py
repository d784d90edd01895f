"""The vectorised attention and its module against the plain reference, and what must hold for any input."""

import copy

import pytest
import torch
import torch.nn.functional as F
from against_reference import build, by_reference, pad_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from largest_tensor import largest_tensor

from srformer_plugin.attention.backends import resolve
from srformer_plugin.attention.cross_attention import SegmentedCrossAttention
from srformer_plugin.attention.method.memory import NoMemory, inverse_key_norm
from srformer_plugin.attention.method.raf import MIN_THRESHOLD
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.source_context import SourceContext
from srformer_plugin.errors import ConfigurationError
from srformer_plugin.triton_here import unusable


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 21), min_size=1, max_size=3),
    shifts=st.lists(st.integers(0, 4), min_size=3, max_size=3),
    targets=st.integers(1, 14),
    segment_size=st.integers(1, 9),
    expected=st.integers(1, 16),
    heads=st.integers(1, 3),
    head_dim=st.sampled_from([1, 3, 8]),
    clamp=st.sampled_from([0.0, 0.5, 2.0]),
    kind=st.sampled_from(["srformer", "segmented"]),
    seed=st.integers(0, 2**31),
)
def test_output_and_gradients_equal_the_reference(
    lengths, shifts, targets, segment_size, expected, heads, head_dim, clamp, kind, seed
):
    torch.manual_seed(seed)
    options = {"kv_clamp": clamp, "cross_attention": kind}
    module = build(heads, head_dim, segment_size=segment_size, expected_target_length=expected, **options)
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


def test_target_schedule_goes_by_each_sentences_own_length():
    module = build(segment_schedule="target")
    encoder, mask = pad_batch([19, 8], 19, [0, 11], module.embed_dim)
    query = torch.randn(7, 2, module.embed_dim, dtype=torch.float64)
    ours, _ = module(query, encoder, encoder, SourceContext(mask, torch.tensor([7, 3])))
    plain, _ = by_reference(module, query, encoder, mask, [7, 3])
    torch.testing.assert_close(ours[:, 0], plain[:, 0])
    torch.testing.assert_close(ours[:3, 1], plain[:3, 1])


def test_padding_is_never_read():
    """NaN at padded positions reaches neither the output nor a gradient."""
    module = build()
    encoder, mask = pad_batch([9, 4, 1], 12, [3, 0, 5], module.embed_dim)
    poisoned = encoder.masked_fill(mask.T[..., None], float("nan"))
    query = torch.randn(5, 3, module.embed_dim, dtype=torch.float64)
    clean, _ = module(query, encoder, encoder, mask)
    output, _ = module(query, poisoned, poisoned, mask)
    torch.testing.assert_close(output, clean)


def test_a_sentence_does_not_depend_on_its_batch_or_its_padding():
    module = build()
    encoder, mask = pad_batch([6, 23, 11], 25, [19, 0, 7], module.embed_dim)
    query = torch.randn(9, 3, module.embed_dim, dtype=torch.float64)
    together, _ = module(query, encoder, encoder, mask)
    for row in range(3):
        alone = encoder[~mask[row], row].unsqueeze(1)
        output, _ = module(query[:, row : row + 1], alone, alone, None)
        torch.testing.assert_close(together[:, row : row + 1], output)


@pytest.mark.parametrize("kind", ["srformer", "segmented"])
@pytest.mark.parametrize("segment_size", [10, 64])
def test_one_segment_is_full_attention(kind, segment_size):
    module = build(segment_size=segment_size, cross_attention=kind)
    encoder, mask = pad_batch([10, 6], 10, [0, 4], module.embed_dim)
    query = torch.randn(5, 2, module.embed_dim, dtype=torch.float64)
    ours, _ = module(query, encoder, encoder, mask)
    q, k, v = (
        p(x).unflatten(2, (2, -1)).permute(1, 2, 0, 3)
        for p, x in ((module.q_proj, query), (module.k_proj, encoder), (module.v_proj, encoder))
    )
    full = F.scaled_dot_product_attention(q, k, v, attn_mask=~mask[:, None, None])
    torch.testing.assert_close(ours, module.out_proj(full.permute(2, 0, 1, 3).flatten(2)))


def test_a_wholly_padded_sentence_stays_finite_and_harms_no_other():
    module = build()
    encoder, mask = pad_batch([0, 9], 9, [0, 0], module.embed_dim)
    query = torch.randn(4, 2, module.embed_dim, dtype=torch.float64)
    output, _ = module(query, encoder, encoder, mask)
    output.sum().backward()
    assert output.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    alone, _ = module(query[:, 1:], encoder[:, 1:], encoder[:, 1:], mask[1:])
    torch.testing.assert_close(output[:, 1:], alone)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dead_key_channels_and_a_zero_threshold_stay_finite(dtype):
    module = build(dtype=dtype)
    with torch.no_grad():
        module.k_proj.weight[[1, 6]] = 0
        module.k_proj.bias[[1, 6]] = 0
        module.memory.threshold.zero_()
    encoder, mask = pad_batch([17, 9], 17, [0, 8], module.embed_dim, dtype)
    output, _ = module(torch.randn(6, 2, module.embed_dim).to(dtype), encoder, encoder, mask)
    # 2^-6 stands for fp16's loss scale: the threshold's gradient is a sum over all segments and heads
    (output * 2.0**-6).sum().backward()
    assert output.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_a_dead_key_channel_has_inverse_norm_zero_and_others_theirs():
    keys = torch.randn(1, 1, 2, 3, 4).index_fill(4, torch.tensor([2]), 0.0)
    expected = 1 / keys.flatten(2, 3).norm(dim=2)
    expected[..., 2] = 0
    torch.testing.assert_close(inverse_key_norm(keys), expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
@pytest.mark.parametrize("clamp", [0.0, 2.0])
def test_precision_against_float64(dtype, tolerance, clamp):
    module = build(heads=2, head_dim=16, segment_size=16, kv_clamp=clamp)
    encoder, mask = pad_batch([130, 70], 130, [0, 60], module.embed_dim)
    query = torch.randn(12, 2, module.embed_dim, dtype=torch.float64)
    # equal inputs for both: what is measured is the arithmetic, not the rounding of the weights
    module, encoder, query = module.to(dtype), encoder.to(dtype), query.to(dtype)
    exact = copy.deepcopy(module).double()
    exact.backend = module.backend
    output, _ = module(query, encoder, encoder, mask)
    reference, _ = exact(query.double(), encoder.double(), encoder.double(), mask)
    assert output.dtype == dtype
    assert ((output.double() - reference).norm() / reference.norm()) < tolerance


def test_memory_states_are_float32_in_half_precision_and_hold_five_digit_values():
    module = build(dtype=torch.float16, segment_size=4, kv_clamp=0)
    encoder, mask = pad_batch([400], 400, [0], module.embed_dim, torch.float16)
    state = {}
    module.eval()(torch.randn(1, 1, module.embed_dim).half(), encoder * 30, encoder * 30, mask, state)
    states = module.get_incremental_state(state, "attn_state")["memory"]
    assert states.dtype == torch.float32
    norm = inverse_key_norm(module.get_incremental_state(state, "attn_state")["prev_key"]).reciprocal()
    assert (states * norm[:, :, None, None]).abs().max() > torch.finfo(torch.float16).max


def test_autocast_keeps_the_memory_in_float32():
    module = build(dtype=torch.float32)
    encoder, mask = pad_batch([40, 22], 40, [0, 3], module.embed_dim, torch.float32)
    query = torch.randn(6, 2, module.embed_dim)
    plain, _ = module(query, encoder, encoder, mask)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = module(query, encoder, encoder, mask)
    assert ((cast - plain).norm() / plain.norm()) < 3e-2


def test_no_tensor_of_all_targets_by_all_sources():
    module = build(2, 4, torch.float32, segment_size=8, expected_target_length=512)
    encoder = torch.randn(1024, 1, module.embed_dim)
    query = torch.randn(512, 1, module.embed_dim)
    with largest_tensor() as trace:
        output, weights = module(query, encoder, encoder, torch.zeros(1, 1024, dtype=torch.bool))
        output.sum().backward()
    assert weights is None
    assert trace.elements < 512 * 1024


def test_model_can_be_copied_after_a_step_and_two_decodings_interleave():
    module = build().eval()
    first, second = (pad_batch([11, 7], 11, [0, 4], module.embed_dim)[0] for _ in range(2))
    query = torch.randn(6, 2, module.embed_dim, dtype=torch.float64)
    expected = [module(query, encoder, encoder, None)[0] for encoder in (first, second)]
    expected[0].sum().backward()
    copied = copy.deepcopy(module)
    states = ({}, {})
    for t in range(6):
        for encoder, state, whole in zip((first, second), states, expected):
            step, _ = copied(query[t : t + 1], encoder, encoder, None, state)
            torch.testing.assert_close(step[0], whole[t])


def test_gradcheck_through_the_module():
    module = build(heads=1, head_dim=2, segment_size=2, expected_target_length=3, kv_clamp=0)
    encoder, mask = pad_batch([5, 3], 5, [0, 2], module.embed_dim)
    query = torch.randn(3, 2, module.embed_dim, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda q, e: module(q, e, e, mask)[0], (query.requires_grad_(), encoder.requires_grad_())
    )


def test_compiled_module_equals_eager():
    module = build(dtype=torch.float32)
    encoder, mask = pad_batch([13, 6], 13, [0, 7], module.embed_dim, torch.float32)
    query = torch.randn(5, 2, module.embed_dim)
    eager, _ = module(query, encoder, encoder, mask)
    compiled, _ = torch.compile(module, backend="aot_eager")(query, encoder, encoder, mask)
    torch.testing.assert_close(compiled, eager)


@pytest.mark.parametrize("ratio", [1.01, 0.99])
def test_a_key_channel_is_dead_below_a_norm_of_a_millionth_alone(ratio):
    norm = 1e-6 * ratio
    keys = torch.full((1, 1, 2, 2, 1), norm / 2, dtype=torch.float64)
    expected = 1 / norm if ratio > 1 else 0.0
    torch.testing.assert_close(inverse_key_norm(keys), torch.full((1, 1, 1), expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "value", "bound"), [("leak", 1.5, 1.0), ("leak", -0.5, 0.0), ("threshold", -0.2, MIN_THRESHOLD)]
)
def test_a_parameter_pushed_out_of_its_bounds_acts_as_one_at_the_bound(name, value, bound):
    module = build(kv_clamp=0.5)
    encoder, mask = pad_batch([23, 11], 23, [0, 12], module.embed_dim)
    query = torch.randn(6, 2, module.embed_dim, dtype=torch.float64)
    outputs = []
    for setting in (value, bound):
        with torch.no_grad():
            getattr(module.memory, name).fill_(setting)
        outputs.append(module(query, encoder, encoder, mask)[0])
    torch.testing.assert_close(*outputs)


def test_dropout_acts_on_the_local_weights_in_training_only():
    module = build()
    module.dropout_module.p = 0.5
    encoder, mask = pad_batch([13], 13, [0], module.embed_dim)
    query = torch.randn(5, 1, module.embed_dim, dtype=torch.float64)
    training = [module(query, encoder, encoder, mask)[0] for _ in range(2)]
    evaluated = [module.eval()(query, encoder, encoder, mask)[0] for _ in range(2)]
    assert not torch.allclose(*training)
    torch.testing.assert_close(*evaluated, rtol=0, atol=0)
    module.dropout_module.p = 1 - 1e-12  # nothing local is left: the output is the recurrent term alone
    without = module.train()(query, encoder, encoder, mask)[0]
    whole = module.eval()(query, encoder, encoder, mask)[0]
    module.memory = NoMemory(2, 4, None)
    local = module(query, encoder, encoder, mask)[0]
    torch.testing.assert_close(without, whole - local + module.out_proj.bias)
    assert (whole - local).abs().max() > 0.01  # there is a recurrent term


def test_weights_are_returned_when_asked_on_the_positions_that_were_attended():
    module = build(segment_size=4, expected_target_length=6)
    encoder, mask = pad_batch([12, 5], 14, [1, 9], module.embed_dim)
    query = torch.randn(6, 2, module.embed_dim, dtype=torch.float64)
    _, none = module(query, encoder, encoder, mask)
    _, average = module(query, encoder, encoder, mask, need_weights=True)
    _, per_head = module(query, encoder, encoder, mask, need_head_weights=True)
    assert none is None
    assert average.shape == (2, 6, 14)
    assert per_head.shape == (2, 2, 6, 14)
    torch.testing.assert_close(per_head.mean(0), average)
    torch.testing.assert_close(average.sum(-1), torch.ones(2, 6, dtype=torch.float64))
    assert (average.masked_fill(~mask.unsqueeze(1), 0) == 0).all()
    for t in range(6):  # 12 tokens from position 1 on, 3 segments, 2 positions each
        outside = torch.ones(14, dtype=torch.bool)
        outside[1 + 4 * (t // 2) : 1 + 4 * (t // 2 + 1)] = False
        assert (average[0, t, outside] == 0).all()


def test_the_gate_starts_as_segmented_attention_and_learns():
    gated, plain = build(memory_gate=True), build(cross_attention="segmented")
    plain.load_state_dict({k: v for k, v in gated.state_dict().items() if not k.startswith("memory")})
    encoder, mask = pad_batch([13, 6], 13, [0, 7], gated.embed_dim)
    query = torch.randn(5, 2, gated.embed_dim, dtype=torch.float64)
    output, _ = gated(query, encoder, encoder, mask)
    torch.testing.assert_close(output, plain(query, encoder, encoder, mask)[0])
    output.sum().backward()
    assert gated.memory.gate.shape == (2,)
    assert (gated.memory.gate.grad != 0).all()
    with torch.no_grad():
        gated.memory.gate.fill_(20.0)  # tanh is 1
    ungated, _ = by_reference(gated, query, encoder, mask, 6)
    torch.testing.assert_close(gated(query, encoder, encoder, mask)[0], ungated)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment_size": 0}, "--segment-size must be at least 1, got 0"),
        ({"expected_target_length": 0}, "--expected-target-length must be at least 1, got 0"),
        ({"segment_schedule": "clock"}, "--segment-schedule 'clock' is unknown"),
        ({"cross_attention": "sparse"}, "--cross-attention 'sparse' is unknown"),
        ({"attention_backend": "fpga"}, "--attention-backend 'fpga' is unknown; choose one of: auto, torch, triton"),
        ({"raf_leak": 1.5}, "--raf-leak must be in"),
        ({"raf_threshold": 0.0}, "--raf-threshold must be above 0"),
        ({"kv_clamp": -1.0}, "--kv-clamp must be at least 0"),
    ],
)
def test_a_bad_setting_is_one_clear_error(options, message):
    with pytest.raises(ConfigurationError, match=message):
        SegmentSettings(**options).check()


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigurationError, match="--decoder-attention-heads 3 does not divide --decoder-embed-dim 8"):
        SegmentedCrossAttention(8, 3, SegmentSettings(expected_target_length=4))


def test_auto_is_a_backend_that_runs_here():
    kernels = unusable() is None and torch.cuda.is_available()
    assert resolve("auto") is resolve("triton" if kernels else "torch")
