"""The projection and the loss in one, beside fairseq's loss of all logits: values, gradients, sizes, half precision."""

import pytest
import torch
import torch.nn.functional as F
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from hypothesis import given
from hypothesis import strategies as st
from largest_tensor import largest_tensor

from srformer_plugin.criterions import linear_cross_entropy as module
from srformer_plugin.criterions.linear_cross_entropy import _chunks, chunk_elements, linear_cross_entropy

PAD = 1
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# Relative, of a gradient's norm: roundings of the dtype, and half as many again for another order of sums.
TOLERANCES = {torch.float64: 1e-14, torch.float32: 3e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3}
HALF = [torch.bfloat16, torch.float16]


def inputs(rows, width, classes, dtype=torch.float64, spread=1.0, device="cpu"):
    """Features, weight and targets, of which every fourth is padding."""
    generator = torch.Generator().manual_seed(rows + 100 * classes)
    features = spread * torch.randn(rows, width, generator=generator)
    weight = torch.randn(classes, width, generator=generator)
    target = torch.randint(2, classes, (rows,), generator=generator)
    target[::4] = PAD
    return features.to(device, dtype), weight.to(device, dtype), target.to(device)


def fairseqs(features, weight, target, smoothing, reduce=True):
    """fairseq's loss and nll_loss; its log-softmax is in float32, but of float64 in float64 here."""
    wide = torch.promote_types(features.dtype, torch.float32)
    log_probabilities = F.log_softmax(F.linear(features, weight), dim=-1, dtype=wide)
    return label_smoothed_nll_loss(log_probabilities, target, smoothing, ignore_index=PAD, reduce=reduce)


def ours(features, weight, target, smoothing, reduce=True, **options):
    losses = linear_cross_entropy(
        features, weight, target, smoothing=smoothing, ignore_index=PAD, reduce=reduce, **options
    )
    return losses.loss, losses.nll_loss


def gradients(loss_of, features, weight, factor=1.0, wanted=(True, True)):
    """Those of features and weight of ``factor * loss``, None where not `wanted`."""
    leaves = [x.detach().clone().requires_grad_(asked) for x, asked in zip((features, weight), wanted)]
    loss = loss_of(*leaves)[0]
    (loss * factor).sum().backward()
    return [leaf.grad for leaf in leaves]


def apart(found, expected):
    """The norm of the difference, relative to that of what was expected, in float64."""
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def check(features, weight, target, smoothing, reduce, max_elements, factor=1.0):
    """Losses and gradients are fairseq's."""
    tolerance = TOLERANCES[features.dtype]
    options = {"max_elements": max_elements}
    expected = fairseqs(features, weight, target, smoothing, reduce)
    found = ours(features, weight, target, smoothing, reduce, **options)
    for a, b in zip(found, expected):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if features.dtype in HALF:  # a GPU may sum a logit in another order, and round it to its neighbour
            assert apart(a, b) < tolerance
        else:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    if not reduce:  # another one for every row
        factor = factor * torch.linspace(1, 2, len(target), dtype=expected[0].dtype, device=target.device)[:, None]
    pair = (
        gradients(lambda h, w: ours(h, w, target, smoothing, reduce, **options), features, weight, factor),
        gradients(lambda h, w: fairseqs(h, w, target, smoothing, reduce), features, weight, factor),
    )
    for a, b in zip(*pair):
        assert a.dtype == b.dtype == features.dtype
        if b.norm() == 0:
            assert a.norm() == 0
        else:
            assert apart(a, b) < tolerance


# --- fairseq's loss -------------------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 9),
    classes=st.integers(3, 50),
    smoothing=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    chunk=st.integers(0, 2500),
    reduce=st.booleans(),
)
def test_losses_and_gradients_are_fairseqs_in_chunks_of_any_size(rows, width, classes, smoothing, chunk, reduce):
    check(*inputs(rows, width, classes), smoothing, reduce, chunk)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_losses_and_gradients_are_fairseqs_in_every_precision(dtype, reduce, spread, device):
    check(*inputs(75, 16, 400, dtype, spread, device), 0.1, reduce, 400 * 7, factor=4.0)


def test_a_row_that_is_sure_and_one_with_large_logits_have_finite_losses():
    """-log p of a class with p = 0 in float32 is finite; nothing is lost by logits that are large together."""
    features = torch.tensor([[200.0, 0.0, 0.0], [0.0, 0.0, 3e3]])
    weight = torch.cat([torch.randn(9, 2), torch.ones(9, 1)], dim=1)
    weight[3, 0], weight[4, 0] = 2, -2
    check(features, weight, torch.tensor([4, 5]), 0.1, True, 9)
    loss, nll_loss = ours(features, weight, torch.tensor([4, 5]), 0.1)
    assert nll_loss > 700 and loss.isfinite()


def test_the_log_of_a_loss_and_the_rows_that_were_right():
    features, weight, target = inputs(41, 6, 9, spread=3.0)
    best = (features @ weight.t()).argmax(1)
    target[1::3] = best[1::3]
    losses = linear_cross_entropy(
        features.requires_grad_(), weight, target, smoothing=0.1, ignore_index=PAD, max_elements=99
    )
    assert torch.equal(losses.correct, best.eq(target) & target.ne(PAD))
    assert 5 < losses.correct.sum() < 41
    assert losses.loss.requires_grad and not losses.nll_loss.requires_grad


def test_nothing_but_padding_and_no_rows_at_all_have_no_loss_and_no_gradient():
    features, weight, target = inputs(7, 3, 5)
    for rows in (7, 0):
        padding = torch.full_like(target[:rows], PAD)
        assert ours(features[:rows], weight, padding, 0.1) == (0, 0)
        for gradient in gradients(lambda h, w, t=padding: ours(h, w, t, 0.1), features[:rows], weight):
            assert torch.equal(gradient, torch.zeros_like(gradient))


@given(rows=st.integers(0, 300), classes=st.integers(1, 60), max_elements=st.integers(0, 2000))
def test_chunks_cover_all_rows_in_order_and_keep_to_the_limit(rows, classes, max_elements):
    chunks = [range(rows)[chunk] for chunk in _chunks(rows, classes, max_elements)]
    assert [row for chunk in chunks for row in chunk] == list(range(rows))
    assert all(0 < len(chunk) <= max(1, max_elements // classes) for chunk in chunks)
    assert max(map(len, chunks), default=0) - min(map(len, chunks), default=0) <= 1


# --- which gradients, and how often ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_a_gradient_that_nobody_wants_is_not_computed(dtype, wanted):
    features, weight, target = inputs(30, 8, 20, dtype)
    found, expected = (
        gradients(lambda h, w, f=f: f(h, w, target, 0.1), features, weight, wanted=wanted) for f in (ours, fairseqs)
    )
    for a, b in zip(found, expected):
        assert (a is None) == (b is None)
        assert a is None or apart(a, b) < TOLERANCES[dtype]


def test_without_gradients_there_is_the_loss_and_nothing_is_computed_for_them(monkeypatch):
    monkeypatch.delattr(module._Gradients, "add")
    features, weight, target = inputs(30, 8, 20)
    expected = fairseqs(features, weight, target, 0.1)
    for x in (features, weight):
        x.requires_grad_()
    with torch.no_grad():
        loss, nll_loss = ours(features, weight, target, 0.1)
    assert not loss.requires_grad
    torch.testing.assert_close((loss, nll_loss), expected)


def test_a_loss_that_is_multiplied_by_zero_in_place_has_gradients_of_zero():
    """As fairseq's trainer does it with a batch that a process has only to keep step with the others."""
    features, weight, target = inputs(9, 4, 7)

    def ignored(h, w):
        loss = ours(h, w, target, 0.1)[0]
        loss *= 0
        return (loss,)

    assert [x.abs().max() for x in gradients(ignored, features, weight)] == [0, 0]


def test_gradients_of_several_batches_add_up():
    """--update-freq, and a weight that is an embedding as well."""
    features, weight, target = inputs(24, 5, 11)

    def of(function, h, w):
        batches = zip(h.split(8), target.split(8))
        return (sum(function(rows, w, t, 0.1)[0] for rows, t in batches) + (w[target] * h).sum(),)

    found, expected = (gradients(lambda h, w, f=f: of(f, h, w), features, weight) for f in (ours, fairseqs))
    for a, b in zip(found, expected):
        assert apart(a, b) < 1e-14


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_second_backward_pass_has_the_gradients_of_the_first(dtype):
    features, weight, target = inputs(9, 4, 7, dtype)
    loss = ours(features, weight.requires_grad_(), target, 0.1)[0]
    loss.backward(retain_graph=True)
    once = weight.grad.clone()
    (2 * loss).backward()
    torch.testing.assert_close(weight.grad, 3 * once)


# --- half precision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALF)
def test_gradients_of_many_chunks_are_as_near_to_the_true_ones_as_fairseqs(dtype):
    """A sum in half precision would lose more with every chunk: about 3 times as much here."""
    features, weight, target = inputs(1500, 8, 30, dtype)
    exact = gradients(lambda h, w: fairseqs(h, w, target, 0.1), features.double(), weight.double())
    found, theirs = (
        gradients(lambda h, w, f=f, o=o: f(h, w, target, 0.1, **o), features, weight)
        for f, o in ((ours, {"max_elements": 10 * 30}), (fairseqs, {}))
    )
    for a, b, true in zip(found, theirs, exact):
        assert apart(a, true) < 1.2 * apart(b, true)


@pytest.mark.parametrize(("scale", "overflows"), [(2.0**-8, False), (1.0, False), (2.0**7, False), (2.0**15, True)])
def test_fp16_keeps_what_the_loss_scale_keeps_and_overflows_where_fairseqs_does(scale, overflows):
    """A probability of 1e-7 is lost in fp16 unless the scale is there when it is rounded. What many rows have in common
    is too much for 2^15, which fairseq's scaler must see."""
    features, weight, target = inputs(300, 8, 9000, torch.float16, spread=0.1)
    features += 2
    weight *= 0.1
    weight[4] += 1  # nearly all of the probability, and hardly ever right
    never = torch.ones(9000, dtype=torch.bool).index_fill_(0, target, False)
    never[4] = False
    exact = gradients(lambda h, w: fairseqs(h, w, target, 0.0), features.double(), weight.double())
    found, theirs = (
        gradients(lambda h, w, f=f: f(h, w, target, 0.0), features, weight, scale) for f in (ours, fairseqs)
    )
    for a, b, true in zip(found, theirs, exact):
        assert torch.equal(a.isfinite(), b.isfinite())
        if b.isfinite().all():
            assert apart(a.double() / scale, true) < 1.2 * apart(b.double() / scale, true)
    if not overflows:  # a target's gradient is large, and hides what happens to the other classes'
        a, b, true = (x[1][never] for x in (found, theirs, exact))
        assert apart(a.double() / scale, true) < 1.2 * apart(b.double() / scale, true)
    assert overflows == (not all(x.isfinite().all() for x in found))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALF)
def test_autocast_rounds_features_and_weight_as_a_linear_layer(dtype, device):
    features, weight, target = inputs(30, 8, 20, torch.float32, device=device)
    with torch.autocast(device, dtype):
        found = ours(features, weight, target, 0.1)[0]
        expected = fairseqs(features, weight, target, 0.1)[0]
    torch.testing.assert_close(found, expected)

    def under_autocast(function, h, w):
        with torch.autocast(device, dtype):
            return (function(h, w, target, 0.1)[0],)

    found, expected = (gradients(lambda h, w, f=f: under_autocast(f, h, w), features, weight) for f in (ours, fairseqs))
    for a, b in zip(found, expected):
        assert a.dtype == torch.float32
        assert apart(a, b) < TOLERANCES[dtype]


# --- memory and waiting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("reduce", [True, False])
def test_no_tensor_of_all_rows_and_all_classes_is_made(dtype, reduce):
    rows, width, classes, max_elements = 90, 4, 70, 10 * 70
    features, weight, target = inputs(rows, width, classes, dtype)
    found = {}
    for name, loss_of in (
        ("ours", lambda h, w: ours(h, w, target, 0.1, reduce, max_elements=max_elements)),
        ("fairseq's", lambda h, w: fairseqs(h, w, target, 0.1, reduce)),
    ):
        with largest_tensor() as largest:
            gradients(loss_of, features, weight)
        found[name] = largest.elements
    assert found == {"ours": max_elements, "fairseq's": rows * classes}


@pytest.mark.parametrize(("kernel", "dtype", "bytes_each", "limit"), [
    (False, torch.bfloat16, 4, 128),  # probabilities
    (True, torch.bfloat16, 2, 256),
    (True, torch.float32, 4, 256),
])  # fmt: skip
def test_a_chunk_of_barts_vocabulary_keeps_to_its_bytes(monkeypatch, kernel, dtype, bytes_each, limit):
    monkeypatch.setattr(module, "has_kernel", lambda device, dtype: kernel)
    (first, *_) = _chunks(80000, 50264, chunk_elements(torch.device("cuda"), dtype))
    assert 0.9 * limit * 2**20 < bytes_each * 50264 * first.stop <= limit * 2**20


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_on_a_gpu_a_batch_needs_a_fraction_of_the_memory_and_nobody_waits(dtype):
    rows, width, classes = 4096, 256, 50264
    features, weight, target = inputs(rows, width, classes, dtype, 0.1, "cuda")
    peaks = {}
    for name, function in (("ours", ours), ("fairseq's", fairseqs)):
        gradients(lambda h, w, f=function: f(h, w, target, 0.1), features, weight)  # libraries take theirs
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.set_sync_debug_mode("error" if name == "ours" else "default")
        try:
            gradients(lambda h, w, f=function: f(h, w, target, 0.1), features, weight)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        peaks[name] = torch.cuda.max_memory_allocated() - before
    copies = 3 * classes * width * 4  # of the weight: a leaf, the gradient's sum, and that in the weight's dtype
    assert peaks["ours"] < 1.5 * module.KERNEL_BYTES + copies
    assert peaks["ours"] < peaks["fairseq's"] / 3
