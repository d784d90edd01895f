"""Full cross-attention in training: fairseq's numbers, without its (B, H, T, N) tensors."""

import copy

import pytest
import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from largest_tensor import largest_tensor

from srformer_plugin.attention import source_context
from srformer_plugin.attention.causal import CausalSelfAttention, attend_without_masks
from srformer_plugin.attention.fused import aligned, fused_attention, without_cudnn
from srformer_plugin.attention.shared_by_beams import FullCrossAttention
from srformer_plugin.attention.source_context import SourceContext

WIDTH, HEADS, SOURCE_WIDTH = 12, 3, 20
OPTIONS = {"kdim": SOURCE_WIDTH, "vdim": SOURCE_WIDTH, "encoder_decoder_attention": True}


def pair(dtype=torch.float64, **options):
    """fairseq's cross-attention and ours with the same random parameters, in training."""
    stock, ours = (kind(WIDTH, HEADS, **OPTIONS, **options) for kind in (MultiheadAttention, FullCrossAttention))
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ours.load_state_dict(stock.state_dict())
    return stock.to(dtype), ours.to(dtype)


def batch(rows=2, targets=5, source=7, dtype=torch.float64):
    """Queries, encoder states, and a padding mask with padding on both sides."""
    query = torch.randn(targets, rows, WIDTH, dtype=dtype, requires_grad=True)
    states = torch.randn(source, rows, SOURCE_WIDTH, dtype=dtype, requires_grad=True)
    mask = torch.zeros(rows, source, dtype=torch.bool)
    mask[0, -3:] = mask[1, :2] = True
    return query, states, mask


def attend(module, query, states, mask, **options):
    options = {"static_kv": True, "need_weights": False, **options}
    return module(query, states, states, key_padding_mask=mask, **options)[0]


@pytest.mark.parametrize("with_mask", [True, False])
def test_outputs_and_gradients_are_fairseqs(with_mask):
    stock, ours = pair()
    query, states, mask = batch()
    mask = mask if with_mask else None
    results = []
    for module in (stock, ours):
        output = attend(module, query, states, mask)
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
        results.append([output, *torch.autograd.grad((output * weights).sum(), [query, states, *module.parameters()])])
    for expected, found in zip(*results):
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)  # fairseq's softmax is float32's


def test_what_hides_the_padding_is_made_once_for_all_layers_of_a_pass(monkeypatch):
    made, make = [], source_context.hide
    monkeypatch.setattr(source_context, "hide", lambda *arguments: made.append(make(*arguments)) or made[-1])
    query, states, mask = batch()
    context, modules = SourceContext(mask), [pair()[1] for _ in range(2)]
    for module in modules:
        assert torch.equal(attend(module, query, states, context), attend(module, query, states, mask))
    assert len(made) == 1 + len(modules)
    attend(pair(torch.float32)[1], query.float(), states.float(), context)
    assert made[-1].bias.dtype == torch.float32


def test_in_training_no_tensor_has_all_targets_by_all_sources():
    stock, ours = pair(torch.float32)
    query, states, mask = batch(targets=50, source=60, dtype=torch.float32)
    elements = []
    for module in (stock, ours):
        with largest_tensor() as largest:
            attend(module, query, states, mask).sum().backward()
        elements.append(largest.elements)
    assert elements[0] >= 2 * HEADS * 50 * 60 > elements[1]


@pytest.mark.parametrize("options", [{"need_weights": True}, {"need_head_weights": True, "need_weights": True}])
def test_weights_and_evaluation_are_fairseqs_own_to_the_bit(options):
    stock, ours = pair(torch.float32)
    query, states, mask = batch(dtype=torch.float32)
    for found, expected in zip(*(m(query, states, states, mask, static_kv=True, **options) for m in (ours, stock))):
        assert torch.equal(found, expected)
    stock.eval(), ours.eval()
    assert torch.equal(attend(ours, query, states, mask), attend(stock, query, states, mask))


def test_a_key_that_fairseq_adds_is_attended_to():
    stock, ours = pair(torch.float32, add_zero_attn=True)
    query, states, mask = batch(dtype=torch.float32)
    assert torch.equal(attend(ours, query, states, mask), attend(stock, query, states, mask))


def test_several_targets_of_a_source_attend_to_it():
    _, ours = pair()
    query, states, mask = batch()
    several = torch.cat([query, query.flip(0)], dim=2).unflatten(2, (2, -1)).flatten(1, 2)  # rows: a, a', b, b'
    together = attend(ours, several, states, mask).unflatten(1, (2, 2))
    torch.testing.assert_close(together[:, :, 0], attend(ours, query, states, mask))
    torch.testing.assert_close(together[:, :, 1], attend(ours, query.flip(0), states, mask))


def test_dropout_is_that_of_the_weights_and_of_training_alone():
    """Kept weights are scaled: the mean over many draws is the output without dropout."""
    _, ours = pair(dropout=0.5)
    plain = copy.deepcopy(ours)
    plain.dropout_module.p = 0.0
    query, states, mask = batch()
    with torch.no_grad():
        draws = torch.stack([attend(ours, query, states, mask) for _ in range(4000)])
        expected = attend(plain, query, states, mask)
        assert draws.std(dim=0).min() > 0.05
        torch.testing.assert_close(
            draws.mean(dim=0), expected, rtol=0, atol=5 * (draws.std(dim=0).max() / 4000**0.5).item()
        )
        torch.testing.assert_close(attend(ours.eval(), query, states, mask), expected, rtol=0, atol=5e-6)


def causal_pair(dtype=torch.float64, **options):
    """fairseq's self-attention of a decoder and ours, in training."""
    stock = MultiheadAttention(WIDTH, HEADS, self_attention=True, **options).to(dtype)
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ours = attend_without_masks(copy.deepcopy(stock))
    assert type(ours) is CausalSelfAttention
    return stock, ours


def attend_back(module, states, mask=None, **options):
    """A decoder's call: `mask` (B, T) is True at padding."""
    later = torch.full((len(states), len(states)), float("-inf"), dtype=states.dtype).triu(1)
    options = {"need_weights": False, "attn_mask": later, **options}
    return module(states, states, states, key_padding_mask=mask, **options)[0]


def test_targets_attend_to_what_came_before_as_fairseqs_do():
    states = torch.randn(6, 2, WIDTH, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[0, 4:] = True
    results = []
    for module in causal_pair():
        output = attend_back(module, states, mask)[~mask.T]
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
        results.append([output, *torch.autograd.grad((output * weights).sum(), [states, *module.parameters()])])
    for expected, found in zip(*results):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_in_training_targets_make_no_mask_of_every_head():
    states, mask, elements = torch.randn(50, 2, WIDTH), torch.zeros(2, 50, dtype=torch.bool), []
    for module in causal_pair(torch.float32):
        with largest_tensor() as largest:
            attend_back(module, states, mask).sum().backward()
        elements.append(largest.elements)
    assert elements[0] >= 2 * HEADS * 50 * 50 > elements[1]


def test_targets_in_evaluation_or_without_an_order_are_fairseqs_to_the_bit(monkeypatch):
    stock, ours = causal_pair(torch.float32)
    monkeypatch.setattr(CausalSelfAttention, "_attend_fused", lambda *_: pytest.fail("by another kernel"))
    states = torch.randn(6, 2, WIDTH)
    assert torch.equal(attend_back(ours, states, attn_mask=None), attend_back(stock, states, attn_mask=None))
    assert torch.equal(attend_back(ours.eval(), states), attend_back(stock.eval(), states))


def test_what_fairseq_computes_by_xformers_is_left_to_it(monkeypatch):
    monkeypatch.setattr(MultiheadAttention, "_xformers_attn_forward", lambda *_: ("by xformers", None))
    _, ours = causal_pair()
    ours.use_xformers = True  # as with an xformers_att_config, where that package is
    assert attend_back(ours, torch.randn(6, 2, WIDTH, dtype=torch.float64)) == "by xformers"


def test_targets_drop_attention_weights_in_training():
    _, ours = causal_pair(dropout=0.5)
    states = torch.randn(6, 2, WIDTH, dtype=torch.float64)
    assert not torch.allclose(attend_back(ours, states), attend_back(ours, states))


@pytest.mark.parametrize("width", [7, 16, 33])
def test_a_bias_s_rows_are_aligned_and_its_numbers_kept(width):
    bias = torch.randn(2, 1, 3, width, dtype=torch.bfloat16)
    found = aligned(bias)
    assert torch.equal(found, bias)
    assert found.stride(2) % 16 == found.stride(0) % 16 == 0 and found.stride(3) == 1


@pytest.mark.parametrize("bias", [None, (2, 1, 1), (1, 3, 5)])
def test_pytorch_s_other_kernels_are_called_as_they_are_declared(bias):
    """On tensors without numbers, since they need a GPU."""
    options = {"device": "meta", "dtype": torch.bfloat16, "requires_grad": True}
    query, keys, values = torch.empty(2, 3, 5, 64, **options), *(torch.empty(2, 3, 9, 64, **options) for _ in range(2))
    bias = None if bias is None else torch.empty(*bias, 9, **options)
    output = without_cudnn(query, keys, values, bias, 0.1, 1.0, causal=bias is None)
    assert output.shape == query.shape
    output.sum().backward()
    assert all(x.grad.shape == x.shape for x in (query, keys, values, bias) if x is not None)


@pytest.mark.gpu
@pytest.mark.parametrize("source", [304, 299])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_on_a_gpu_cudnn_is_not_asked_and_the_numbers_are_the_same(source, dropout):
    options = {"device": "cuda", "dtype": torch.bfloat16, "requires_grad": True}
    query, keys, values = (torch.randn(2, 3, length, 64, **options) for length in (320, source, source))
    bias = torch.zeros(2, 1, 1, source, device="cuda", dtype=torch.bfloat16)
    bias[0, :, :, -9:] = torch.finfo(torch.bfloat16).min
    for shown in (None, bias):
        with (
            torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
            largest_tensor() as largest,
        ):
            output = fused_attention(query, keys, values, shown, dropout)
            output.sum().backward()
        assert not any("cudnn" in event.name for event in profile.events())
        assert largest.elements < 2 * 3 * 320 * source
        if dropout == 0:
            expected = F.scaled_dot_product_attention(
                *(x.double() for x in (query, keys, values)), None if shown is None else shown.double()
            )
            torch.testing.assert_close(output.double(), expected, rtol=2e-2, atol=2e-2)


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
