"""The encoder's attention without a mask: the same numbers as fairseq's, and what it costs."""

import copy

import pytest
import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from srformer_plugin.attention.fused import fused_attention
from srformer_plugin.models import encoder_attention
from srformer_plugin.models.encoder_attention import Run, SentenceAttention, attend_within_sentences

WIDTH, HEADS = 12, 3


@pytest.fixture(autouse=True)
def every_source_is_long(monkeypatch):
    monkeypatch.setattr(encoder_attention, "LONG_SOURCE", 1)


def pair(dtype=torch.float64, dropout=0.0):
    """fairseq's attention and ours with the same random parameters."""
    torch.manual_seed(1)
    stock = MultiheadAttention(WIDTH, HEADS, dropout=dropout, self_attention=True).to(dtype)
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ours = copy.deepcopy(stock)
    attend_within_sentences(ours)
    assert type(ours) is SentenceAttention
    return stock, ours


def mask_of(places, width):
    """A padding mask whose rows have tokens at start ... start + length - 1."""
    mask = torch.ones(len(places), width, dtype=torch.bool)
    for row, (start, length) in enumerate(places):
        mask[row, start : start + length] = False
    return mask


def states_for(mask, dtype=torch.float64, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(mask.size(1), mask.size(0), WIDTH, generator=generator, dtype=dtype)


def attend(module, states, mask, **options):
    return module(states, states, states, key_padding_mask=mask, **{"need_weights": False, **options})[0]


def graded(module, states, mask):
    """The output at real positions, and all gradients of a function of those."""
    states = states.clone().requires_grad_()
    real = ~mask.T
    output = attend(module, states, mask)[real]
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output, *torch.autograd.grad((output * weights).sum(), [states, *module.parameters()])]


def uses_a_mask(function):
    """Whether `function` calls for attention with a mask, or with its weights."""
    masks = []

    def spy(query, key, value, attn_mask=None, *args, **kwargs):
        masks.append(attn_mask is not None)
        return original(query, key, value, attn_mask, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        original = F.scaled_dot_product_attention
        patch.setattr(F, "scaled_dot_product_attention", spy)
        patch.setattr(F, "multi_head_attention_forward", _from_source_of(F.multi_head_attention_forward, spy))
        function()
    return not masks or any(masks)


def _from_source_of(function, spy):
    """PyTorch's function, calling `spy` for the attention that it looks up by its bare name."""

    def wrapped(*args, **kwargs):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(function.__globals__, "scaled_dot_product_attention", spy)
            return function(*args, **kwargs)

    return wrapped


@st.composite
def padded_batches(draw):
    width = draw(st.integers(1, 9))
    side = draw(st.sampled_from(["left", "right", "both"]))
    places = []
    for _ in range(draw(st.integers(1, 5))):
        length = draw(st.integers(1, width))
        start = {"left": width - length, "right": 0, "both": draw(st.integers(0, width - length))}[side]
        places.append((start, length))
    return mask_of(places, width)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
@given(mask=padded_batches())
def test_outputs_and_gradients_are_fairseqs_masked_ones(dtype, rounding, mask):
    stock, ours = pair(dtype)
    states = states_for(mask, dtype)
    assert not uses_a_mask(lambda: attend(ours, states, mask))
    expected = graded(stock, states, mask)
    largest = max(x.abs().max().item() for x in expected)
    for ours_is, stocks_is in zip(graded(ours, states, mask), expected, strict=True):
        torch.testing.assert_close(ours_is, stocks_is, atol=rounding * largest, rtol=0)


@pytest.mark.parametrize("value", [0.0, 1e30, -1e30])
def test_padded_inputs_change_nothing(value):
    mask = mask_of([(2, 5), (0, 7), (1, 3), (6, 1)], 7)
    _, ours = pair()
    states = states_for(mask)
    filled = states.masked_fill(mask.T[..., None], value)
    results, others = (graded(ours, x, mask) for x in (states, filled))
    assert all(torch.equal(*both) for both in zip(results, others))
    padded = attend(ours, filled, mask)[mask.T]
    assert torch.equal(padded, ours.out_proj.bias.expand_as(padded))


def test_gradients_of_gradients_are_right():
    mask = mask_of([(1, 2), (0, 3)], 3)
    _, ours = pair()
    states = states_for(mask).requires_grad_()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(lambda x: attend(ours, x, mask), states)


def test_neighbours_of_the_same_extent_share_a_call():
    read = encoder_attention._read_runs
    assert read(mask_of([(2, 5), (2, 5), (0, 7), (2, 5), (0, 3)], 7)) == [
        Run(2, 2, 5),
        Run(1, 0, 7),
        Run(1, 2, 5),
        Run(1, 0, 3),
    ]
    assert read(mask_of([(0, 4)] * 6, 6).byte()) == [Run(6, 0, 4)]
    assert read(mask_of([(0, 4), (2, 0)], 6)) is None


def a_hole(mask):
    mask[1, 3] = True
    return {}


def a_row_of_padding(mask):
    mask[1] = True
    return {}


FALL_BACKS = {
    "padding between tokens": a_hole,
    "a row without tokens": a_row_of_padding,
    "attention weights": lambda mask: {"need_weights": True},
    "weights per head": lambda mask: {"need_head_weights": True},
    "an attention mask": lambda mask: {"attn_mask": torch.zeros(mask.size(1), mask.size(1), dtype=torch.float64)},
}


@pytest.mark.parametrize("case", FALL_BACKS)
def test_what_it_does_not_cover_is_fairseqs(case):
    mask = mask_of([(2, 5), (0, 7)], 7)
    options = FALL_BACKS[case](mask)
    stock, ours = pair()
    states = states_for(mask)
    arguments = {"key_padding_mask": mask, "need_weights": False, **options}
    results = [module(states, states, states, **arguments) for module in (ours, stock)]
    for got, expected in zip(*results, strict=True):
        assert (got is expected is None) or torch.equal(got.nan_to_num(7), expected.nan_to_num(7))
    assert uses_a_mask(lambda: ours(states, states, states, **arguments))


def test_short_sources_keep_the_mask(monkeypatch):
    mask = mask_of([(2, 5), (0, 7)], 7)
    _, ours = pair()
    for least, masked in ((7, False), (8, True)):
        monkeypatch.setattr(encoder_attention, "LONG_SOURCE", least)
        assert uses_a_mask(lambda: attend(ours, states_for(mask), mask)) == masked


def test_fairseqs_options_keep_fairseqs_computation():
    mask = mask_of([(2, 5), (0, 7)], 7)
    added = ({"add_bias_kv": True}, None), ({"add_zero_attn": True}, None)
    for options, attribute in (*added, ({}, "onnx_trace"), ({}, "skip_embed_dim_check")):
        torch.manual_seed(1)
        stock = MultiheadAttention(WIDTH, HEADS, self_attention=True, **options).double()
        if attribute:
            setattr(stock, attribute, True)
        ours = copy.deepcopy(stock)
        attend_within_sentences(ours)
        states = states_for(mask)
        assert torch.equal(attend(ours, states, mask), attend(stock, states, mask))


def test_quantization_noise_leaves_the_weights_alone_as_in_fairseqs():
    torch.manual_seed(1)
    stock = MultiheadAttention(WIDTH, HEADS, self_attention=True, q_noise=0.5, qn_block_size=4).double().train()
    ours = copy.deepcopy(stock)
    attend_within_sentences(ours)
    mask = mask_of([(2, 5), (0, 6)], 7)
    states = states_for(mask)
    outputs = [attend(module, states, mask)[~mask.T] for module in (ours, stock)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-13)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), stock.parameters()))


def test_dropout_is_on_in_training_only_unless_retained():
    mask = mask_of([(2, 5), (0, 7)], 7)
    _, ours = pair(dropout=0.5)
    states = states_for(mask)

    def differs():
        return not torch.equal(attend(ours, states, mask), attend(ours, states, mask))

    assert ours.training and differs()
    ours.eval()
    assert not differs()
    ours.dropout_module.make_generation_fast_("", retain_dropout=True, retain_dropout_modules=["MultiheadAttention"])
    assert differs()


def test_dropout_drops_its_share_of_the_weights_and_scales_up_the_others():
    mask = mask_of([(1, 1)], 2).expand(4000, -1)  # a sentence of one token: its weight is 1
    _, ours = pair(dropout=0.25)
    with torch.no_grad():
        ours.out_proj.weight.copy_(torch.eye(WIDTH))
        ours.out_proj.bias.zero_()
    states = states_for(mask)
    values = ours.v_proj(states)[1].unflatten(1, (HEADS, -1))
    scales = attend(ours, states, mask)[1].unflatten(1, (HEADS, -1)) / values
    dropped = scales[..., 0] == 0
    torch.testing.assert_close(scales, torch.where(dropped, 0.0, 1 / 0.75).double()[..., None].expand_as(scales))
    assert dropped.double().mean().item() == pytest.approx(0.25, abs=0.02)


class LargeAllocations(TorchDispatchMode):
    """Counts results of at least `least` numbers that lie in memory of their own."""

    def __init__(self, least):
        super().__init__()
        self.least, self.kept, self.names = least, [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        before = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        for x in result if isinstance(result, (tuple, list)) else [result]:
            is_large = isinstance(x, torch.Tensor) and x.numel() >= self.least
            if is_large and x.untyped_storage().data_ptr() not in before:
                self.names.append(str(function))
        self.kept.append(result)  # no address is used twice while we count
        return result


def test_the_backward_pass_makes_no_padded_gradient_per_sentence():
    rows, width = 16, 64
    mask = mask_of([(width - length, length) for length in range(40, 40 + rows)], width)
    _, ours = pair()
    output = attend(ours, states_for(mask).requires_grad_(), mask)
    with LargeAllocations(width * rows * WIDTH) as large:
        output.sum().backward()
    padded = [name for name in large.names if "zero" in name or "slice" in name]
    assert len(padded) == 3  # of queries, keys and values
    assert len(large.names) <= 12, large.names


def count_copies_to_the_host(monkeypatch):
    copies = []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: copies.append(tensor.shape) or original(tensor))
    return copies


def loss_and_gradients(model, sample):
    generator = torch.Generator().manual_seed(5)
    previous = torch.randint(4, 20, (len(sample["id"]), 9), generator=generator)
    loss = model(**sample["net_input"], prev_output_tokens=previous)[0].logsumexp(-1).sum()
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("kind", ["srformer", "segmented", "full"])
@pytest.mark.parametrize("left_pad", [True, False])
def test_a_models_loss_and_gradients_are_those_with_the_mask(build_model, make_sample, monkeypatch, kind, left_pad):
    results = []
    for least in (1, 10**9):
        monkeypatch.setattr(encoder_attention, "LONG_SOURCE", least)
        model = build_model(cross_attention=kind, encoder_layers=2, spread=2.0).double().train()
        results.append(loss_and_gradients(model, make_sample([23, 5, 14, 14], left_pad=left_pad)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_layers_are_fairseqs_but_for_the_class_of_their_attention(build_model):
    options = {"encoder_layers": 2, "encoder_layerdrop": 0.2, "checkpoint_activations": True}
    ours = build_model("srformer_bart_tiny", cross_attention="full", **options)
    stock = build_model(
        "bart_base",
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=64,
        encoder_attention_heads=2,
        decoder_layers=1,
        decoder_attention_heads=2,
        **options,
    )
    assert ours.state_dict().keys() == stock.state_dict().keys()
    attentions = [type(module) for module in ours.encoder.modules() if isinstance(module, MultiheadAttention)]
    assert attentions == [SentenceAttention] * 2
    for a, b in zip(ours.encoder.modules(), stock.encoder.modules(), strict=True):
        assert type(a) is type(b) or isinstance(a, SentenceAttention)
        assert hasattr(a, "precheckpoint_forward") == hasattr(b, "precheckpoint_forward")
        # for --retain-dropout-modules: fairseq documents TransformerEncoderLayer, and its own layer has the other name
        documented = getattr(b, "module_name", None)
        assert getattr(a, "module_name", None) == (documented and documented.removesuffix("Base"))
    assert not any(isinstance(module, SentenceAttention) for module in ours.decoder.modules())


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_host_reads_the_mask_once_per_forward_pass(build_model, make_sample, monkeypatch, checkpointed):
    model = build_model(encoder_layers=3, cross_attention="full", checkpoint_activations=checkpointed).train()
    copies = count_copies_to_the_host(monkeypatch)
    for lengths in ([23, 5, 14], [7, 23, 14], [9, 9, 4]):
        copies.clear()
        loss_and_gradients(model, make_sample(lengths))
        assert copies == [(3, 3)]  # and none when layers are computed again


def test_recomputation_gives_the_gradients_of_its_own_batch(build_model, make_sample):
    """Two forward passes before one backward pass: the second one's mask is not the first one's."""
    gradients = []
    for checkpointed in (False, True):
        model = build_model(encoder_layers=2, checkpoint_activations=checkpointed).double().train()
        previous = torch.full((2, 4), 5)
        batches = [make_sample(lengths)["net_input"] for lengths in ([23, 5], [9, 23])]
        losses = [model(**batch, prev_output_tokens=previous)[0].logsumexp(-1).sum() for batch in batches]
        sum(losses).backward()
        gradients.append([p.grad for p in model.parameters()])
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected)


def test_a_mask_is_read_again_when_it_changed_or_another_lies_in_its_place(monkeypatch):
    memo = encoder_attention._Memo()
    copies = count_copies_to_the_host(monkeypatch)
    mask = mask_of([(2, 5), (0, 7)], 7)
    assert memo.runs(mask) is memo.runs(mask.detach()) and len(copies) == 1
    mask[1, 0] = True
    assert memo.runs(mask)[1] == Run(1, 1, 6)
    for length in range(1, 8):  # each mask is freed before the next one is made
        assert memo.runs(mask_of([(7 - length, length)], 7)) == [Run(1, 7 - length, length)]
    with torch.inference_mode():
        mask = mask_of([(2, 5)], 7)
        memo.runs(mask)
        mask[0, 2] = True
        assert memo.runs(mask) == [Run(1, 3, 4)]


@pytest.mark.gpu
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_cudnn_plans_no_length_of_a_sentence_and_its_switch_stays(dropout):
    """The kernels that are called, and their numbers: a padded row's length is cuDNN's where PyTorch chooses it."""
    heads = [torch.randn(1, 2, 4096, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    before = torch.backends.cuda.cudnn_sdp_enabled()
    outputs = []
    for often in (True, False):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            outputs.append(fused_attention(*heads, often=often))
            fused_attention(*heads, dropout=dropout, often=often).sum().backward()
        names = {event.name for event in profile.events()}
        assert often or not any("cudnn" in name for name in names)
    torch.testing.assert_close(*outputs, rtol=2e-2, atol=2e-2)
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


def test_no_switch_of_the_process_is_written(monkeypatch):
    """Another thread would see it."""
    for name in ("enable_cudnn_sdp", "enable_flash_sdp", "enable_mem_efficient_sdp", "enable_math_sdp"):
        monkeypatch.setattr(torch.backends.cuda, name, lambda enabled: pytest.fail("a process-wide switch"))
    _, ours = pair()
    mask = mask_of([(2, 5), (0, 7)], 7)
    attend(ours, states_for(mask), mask)
