"""Attention of sentences without padding between them: a plain softmax of each, and what it is computed with."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from srformer_plugin.attention.packed import is_fast, packed_attention, read_packing

HEADS, HEAD_DIM = 2, 8


def padding_of(rows):
    """(B, N) from strings, a dot at padding."""
    return torch.tensor([[mark == "." for mark in row] for row in rows])


def heads_for(count, dtype=torch.float64, device="cpu", head_dim=HEAD_DIM):
    generator = torch.Generator().manual_seed(3)
    shape = (3, count, HEADS, head_dim)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_().unbind()


def plainly(query, key, value, lengths):
    """One sentence after the other, a matrix of scores each."""
    outputs = []
    for q, k, v in zip(*(x.split(lengths) for x in (query, key, value))):
        scores = torch.einsum("thd,shd->hts", q, k) * q.size(-1) ** -0.5
        outputs.append(torch.einsum("hts,shd->thd", scores.softmax(dim=-1), v))
    return torch.cat(outputs)


@given(st.lists(st.text("x.", min_size=7, max_size=7), min_size=1, max_size=5))
def test_packing_and_unpacking_keep_tokens_in_order_and_zero_the_rest(rows):
    padding = padding_of(rows)
    packing = read_packing(padding)
    if padding.all():
        assert packing is None
        return
    x = torch.arange(1.0, padding.numel() + 1).view(*padding.shape, 1)
    packed = packing.pack(x)
    assert packed.shape == ((~padding).sum(), 1)
    assert torch.equal(packed, x[~padding])
    unpacked = packing.unpack(packed)
    assert torch.equal(unpacked, x.masked_fill(padding.unsqueeze(2), 0).transpose(0, 1))
    assert unpacked.is_contiguous()  # or each product of a decoder's layers would copy it
    counts = [row.count("x") for row in rows if "x" in row]
    assert packing.lengths == counts and packing.borders.diff().tolist() == counts
    assert [n for count, length in packing.runs() for n in [length] * count] == counts


def test_the_host_reads_from_the_device_once(monkeypatch):
    """Each time it waits. `tolist` is no operation that a dispatcher sees."""

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    found, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: found.append("tolist") or tolist(x))
    with Names():
        read_packing(padding_of(["xx.", ".x.", "..."]))
    reads = {"tolist", "nonzero", "_local_scalar_dense", "masked_select", "is_nonzero"}
    assert [name for name in found if name in reads] == ["tolist"]


@given(
    st.lists(st.text("x.", min_size=6, max_size=6), min_size=1, max_size=5).filter(lambda rows: "x" in "".join(rows))
)
def test_every_sentence_attends_to_itself(rows):
    packing = read_packing(padding_of(rows))
    heads = heads_for(sum(packing.lengths))
    output = packed_attention(*heads, packing)
    expected = plainly(*heads, packing.lengths)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-13)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    gradients = [torch.autograd.grad((x * weights).sum(), heads) for x in (output, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-13)


def test_dropout_drops_its_share_of_the_weights_and_scales_up_the_others():
    packing = read_packing(torch.zeros(4000, 1, dtype=torch.bool))  # sentences of one token: every weight is 1
    torch.manual_seed(1)
    query, key, value = heads_for(4000)
    scales = packed_attention(query, key, value, packing, dropout=0.25) / value
    dropped = scales[..., 0] == 0
    torch.testing.assert_close(scales, torch.where(dropped, 0.0, 1 / 0.75).double()[..., None].expand_as(scales))
    assert dropped.double().mean().item() == pytest.approx(0.25, abs=0.02)


def test_a_processor_and_float32_have_no_packed_kernel():
    assert not is_fast(torch.device("cpu"), torch.bfloat16, 64)
    assert not is_fast(torch.device("cuda"), torch.float32, 64)


@pytest.mark.parametrize(("head_dim", "fast"), [(64, True), (192, True), (200, False), (256, False), (60, False)])
def test_only_heads_that_no_backward_pass_refuses_are_packed_at_once(monkeypatch, head_dim, fast):
    """As an RTX 3090's does more than 192 features."""
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert is_fast(torch.device("cuda"), torch.bfloat16, head_dim) is fast


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_the_packed_kernel_computes_the_same_in_one_launch(dtype, head_dim):
    padding = torch.arange(300, device="cuda") >= torch.tensor([[300], [1], [0], [257], [64]], device="cuda")
    packing = read_packing(padding)
    heads = heads_for(sum(packing.lengths), dtype, "cuda", head_dim)
    assert is_fast(heads[0].device, dtype, head_dim)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        output = packed_attention(*heads, packing)
        weights = torch.linspace(-1, 1, output.numel(), device="cuda").view_as(output).to(dtype)
        gradients = torch.autograd.grad(output, heads, weights)
    names = [event.name for event in profile.events()]
    assert names.count("aten::_flash_attention_forward") == names.count("aten::_flash_attention_backward") == 1
    exact = [x.detach().double().requires_grad_() for x in heads]
    expected = plainly(*exact, packing.lengths)
    theirs = torch.autograd.grad(expected, exact, weights.double())
    for got, wanted in zip((output, *gradients), (expected, *theirs), strict=True):
        assert (got.double() - wanted).norm() < 1e-2 * wanted.norm()


@pytest.mark.gpu
def test_on_a_gpu_the_host_waits_for_the_lengths_alone(monkeypatch):
    def read(lengths):
        torch.cuda.set_sync_debug_mode("default")
        found = tolist(lengths)
        torch.cuda.set_sync_debug_mode("error")
        return found

    padding = torch.arange(300, device="cuda") >= torch.tensor([[300], [1], [0]], device="cuda")
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", read)
    torch.cuda.set_sync_debug_mode("error")
    try:
        packing = read_packing(padding)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(packing.places, (~padding).flatten().nonzero().squeeze(1))


@pytest.mark.gpu
def test_the_packed_kernel_drops_its_share():
    padding = torch.zeros(64, 64, dtype=torch.bool, device="cuda")
    packing = read_packing(padding)
    query, key, _ = heads_for(64 * 64, torch.bfloat16, "cuda", 64)
    ones = torch.ones_like(key)
    outputs = packed_attention(query * 0, key, ones, packing, dropout=0.25).float()[..., 0]  # kept share / 0.75
    assert outputs.mean().item() == pytest.approx(1, abs=0.01)
    assert outputs.std().item() == pytest.approx((0.25 / 0.75 / 64) ** 0.5, rel=0.1)
