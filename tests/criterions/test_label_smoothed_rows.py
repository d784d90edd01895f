"""Losses and gradients of rows of logits: the kernel and PyTorch's operations beside the formula in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from srformer_plugin import triton_here
from srformer_plugin.criterions import label_smoothed_rows as module
from srformer_plugin.criterions.linear_cross_entropy import linear_cross_entropy

triton = pytest.importorskip("triton")
if not torch.cuda.is_available() and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7):
    pytest.skip("Triton 3.6's interpreter fails beside NumPy 2.4", allow_module_level=True)

from srformer_plugin.criterions.label_smoothed_rows_kernel import launch  # noqa: E402 (needs Triton)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PAD = 1
DTYPES = st.sampled_from(module.KERNEL_DTYPES)
SMOOTHINGS = st.sampled_from([0.0, 0.1, 1.0])
INF, NAN = float("inf"), float("nan")


def by_kernel(logits, target, factor, smoothing, block=4096):
    """Losses (rows,) that nobody has written are -1."""
    loss, nll_loss = (torch.full((len(logits),), -1.0, device=logits.device) for _ in range(2))
    correct = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    launch(logits, target, PAD, smoothing, factor, loss, nll_loss, correct, block)
    return loss, nll_loss, correct


def by_torch(logits, target, factor, smoothing, block=None):
    return module._by_torch(logits, target, smoothing, PAD, factor)


def drawn(rows, classes, dtype, spread=1.0, offset=0.0, seed=0):
    """Logits, targets of which every third is padding, and factors."""
    generator = torch.Generator().manual_seed(seed)
    logits = offset + spread * torch.randn(rows, classes, generator=generator)
    target = torch.randint(0, classes, (rows,), generator=generator)
    target[1::3] = PAD
    return (x.to(DEVICE) for x in (logits.to(dtype), target, 0.5 + torch.rand(rows, generator=generator)))


def check(way, logits, target, factor, smoothing, block=4096):
    """Losses to 1e-5 of their terms, gradients to 1e-5 of theirs and a rounding, and what is the best class."""
    z, gradients = logits.double(), logits.clone()
    loss, nll_loss, correct = way(gradients, target, factor, smoothing, block)
    assert loss.dtype == nll_loss.dtype == torch.float32 and correct.dtype == torch.bool
    other = smoothing / (z.size(1) - 1)
    kept = target != PAD
    surprise = -z.log_softmax(1)  # -log p
    at_target = surprise.gather(1, target[:, None])[:, 0]
    smooth = other * surprise.sum(1) if smoothing else torch.zeros_like(at_target)
    for found, expected, terms in (
        (nll_loss, at_target, at_target),
        (loss, (1 - smoothing - other) * at_target + smooth, at_target + smooth),
    ):
        assert (found[~kept] == 0).all()
        # 1e-6: the logarithm of a sum that is nearly 1
        close = (found - expected).abs() <= 1e-5 * terms + 1e-6
        assert (close | (found == expected))[kept].all(), (found, expected)
    assert torch.equal(correct, (logits.argmax(1) == target) & kept)

    p = z.softmax(1)
    subtracted = torch.full_like(p, other).scatter_(1, target[:, None], 1 - smoothing)
    factor = (factor * kept).double()[:, None]
    expected = (p - subtracted) * factor
    tolerance = torch.finfo(logits.dtype).eps * expected.abs() + 1e-5 * (p + subtracted) * factor + 1e-7 * factor
    assert ((gradients - expected).abs() <= tolerance).all()
    assert (gradients[~kept] == 0).all()

    left = logits.clone()
    for a, b in zip(way(left, target, None, smoothing, block), (loss, nll_loss, correct)):
        assert torch.equal(a, b)
    assert torch.equal(left, logits)  # without a factor


# --- the formula ----------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    rows=st.integers(1, 4),
    classes=st.integers(2, 70),
    block=st.sampled_from([16, 32, 128]),
    dtype=DTYPES,
    smoothing=SMOOTHINGS,
    spread=st.sampled_from([0.0, 1.0, 8.0]),
)
def test_the_kernel_computes_rows_of_any_size(rows, classes, block, dtype, smoothing, spread):
    """Of less than a block, of several, of whole ones and with a rest; with a spread of 0 all logits are equal."""
    check(by_kernel, *drawn(rows, classes, dtype, spread, seed=classes), smoothing, block)


@given(rows=st.integers(1, 9), classes=st.integers(2, 70), dtype=DTYPES, smoothing=SMOOTHINGS)
def test_pytorchs_operations_compute_the_same(rows, classes, dtype, smoothing):
    check(by_torch, *drawn(rows, classes, dtype, 3.0, seed=classes), smoothing)


@settings(max_examples=15)
@given(dtype=DTYPES, smoothing=SMOOTHINGS, offset=st.sampled_from([-1e4, 1e4]), spread=st.sampled_from([0.0, 1.0, 5e3]))
def test_the_kernel_keeps_its_accuracy_where_logits_are_large(dtype, smoothing, offset, spread):
    check(by_kernel, *drawn(3, 41, dtype, spread, offset), smoothing, 16)


@settings(max_examples=15)
@given(target=st.integers(2, 39), values=st.integers(1, 3), dtype=DTYPES)
def test_of_equal_logits_the_first_is_the_best(target, values, dtype):
    logits = torch.randint(values, (1, 40), device=DEVICE).to(dtype)
    logits[0, target] = values - 1
    check(by_kernel, logits, torch.tensor([target], device=DEVICE), torch.ones(1, device=DEVICE), 0.1, 16)


@pytest.mark.parametrize("way", [by_kernel, by_torch])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_class_of_no_probability_costs_nothing_unless_it_is_smoothed(way, smoothing):
    """All of the first block, and the last column."""
    logits, _, factor = drawn(2, 40, torch.float32)
    logits[:, :16] = logits[:, 39] = -INF
    target = torch.tensor([20, 3], device=DEVICE)
    gradients = logits.clone()
    loss, nll_loss, correct = way(gradients, target, factor, smoothing, 16)
    expected = -logits.log_softmax(1)
    torch.testing.assert_close(nll_loss, torch.stack([expected[0, 20], expected[1, 3]]))
    assert nll_loss[1] == INF and not correct[1]
    assert torch.equal(loss, torch.full_like(loss, INF) if smoothing else nll_loss)
    other = smoothing / 39
    expected = logits.softmax(1) - other
    expected[0, 20] -= 1 - smoothing - other
    expected[1, 3] -= 1 - smoothing - other
    torch.testing.assert_close(gradients, expected * factor[:, None])


@pytest.mark.parametrize("wrong", [INF, NAN])
@pytest.mark.parametrize("place", [0, 30])
def test_a_logit_that_overflowed_makes_all_of_its_row_nan_and_none_of_another(wrong, place):
    """So a scaler of fp16 sees it."""
    logits, _, factor = drawn(3, 40, torch.float16)
    logits[0, place] = logits[1, place] = wrong
    target = torch.tensor([7, PAD, 7], device=DEVICE)
    loss, nll_loss, correct = by_kernel(logits, target, factor, 0.1, 16)
    assert loss[0].isnan() and nll_loss[0].isnan() and not correct[0]
    assert logits[0].isnan().all()
    assert loss[1] == nll_loss[1] == 0 and (logits[1] == 0).all()
    assert loss[2].isfinite() and logits[2].isfinite().all()


def test_a_target_that_is_no_class_reads_nothing_of_another_row():
    logits, _, factor = drawn(3, 40, torch.float32)
    loss, _, correct = by_kernel(logits, torch.tensor([-5, 7, 40], device=DEVICE), factor, 0.1)
    assert loss.isnan().tolist() == [True, False, True] and not correct[0] and not correct[2]


# --- which way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "dtype", "version", "expected"), [
    ("cuda", torch.bfloat16, "3.7.1", True),
    ("cuda", torch.float16, "3.6.0", True),
    ("cuda", torch.float32, "3.7.1", True),
    ("cuda", torch.float64, "3.7.1", False),
    ("cpu", torch.float32, "3.7.1", False),
    ("cuda", torch.bfloat16, None, False),
    ("cuda", torch.bfloat16, "3.3.1", False),
])  # fmt: skip
def test_the_kernel_computes_what_a_gpu_with_triton_has(
    monkeypatch, triton_asked_anew, device, dtype, version, expected
):
    monkeypatch.setattr(triton_here, "triton_version", lambda: version)
    assert module.has_kernel(torch.device(device), dtype) == expected


@pytest.mark.parametrize("dtype", module.KERNEL_DTYPES)
@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_whole_loss_is_the_same_by_either(monkeypatch, dtype, reduce, smoothing):
    """Gradients at once or, of fp16 and of rows, in the backward pass; in chunks, with a factor."""
    features, weight = torch.randn(11, 6, device=DEVICE), torch.randn(37, 6, device=DEVICE)
    target = torch.randint(2, 37, (11,), device=DEVICE)
    target[::4] = PAD
    found = []
    for kernel in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(module, "has_kernel", lambda device, dtype, kernel=kernel: kernel)
            if kernel:
                patch.delattr(module, "_by_torch")
            leaves = [x.to(dtype).requires_grad_() for x in (features, weight)]
            options = {"smoothing": smoothing, "ignore_index": PAD, "reduce": reduce, "max_elements": 37 * 4}
            losses = linear_cross_entropy(*leaves, target, **options)
            (losses.loss * torch.linspace(3, 4, losses.loss.numel(), device=DEVICE)[:, None]).sum().backward()
            found.append((losses, [x.grad for x in leaves]))
    (ours, gradients), (expected, theirs) = found
    torch.testing.assert_close(ours.loss, expected.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.nll_loss, expected.nll_loss, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours.correct, expected.correct)
    for a, b in zip(gradients, theirs):
        assert a.dtype == dtype
        assert (a.double() - b.double()).norm() <= 2 * torch.finfo(dtype).eps * b.double().norm()


# --- on a GPU -------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", module.KERNEL_DTYPES)
@pytest.mark.parametrize("classes", [50264, 50265, 32128, 100])  # rows begin at multiples of 16 bytes, or do not
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_on_a_gpu_large_vocabularies_and_the_same_bits_every_time(dtype, classes, smoothing):
    logits, *rest = *drawn(64, classes, dtype, 3.0), smoothing
    check(by_kernel, logits, *rest)
    runs = []
    for _ in range(2):
        gradients = logits.clone()
        runs.append((*by_kernel(gradients, *rest), gradients))
    assert all(torch.equal(a, b) for a, b in zip(*runs))


@pytest.mark.gpu
def test_on_a_gpu_rows_beyond_2_to_the_31_elements_are_their_own():
    rows, classes = 42800, 50264
    assert rows * classes > 2**31
    if torch.cuda.mem_get_info()[0] < 8 * 2**30:
        pytest.skip("needs 8 GiB of free memory")
    logits = torch.zeros(rows, classes, dtype=torch.bfloat16, device="cuda")
    last, target, factor = drawn(64, classes, torch.bfloat16, 3.0)
    logits[-64:] = last
    targets = torch.full((rows,), PAD, device="cuda")
    targets[-64:] = target
    factors = torch.ones(rows, device="cuda")
    factors[-64:] = factor
    loss, nll_loss, correct = by_kernel(logits, targets, factors, 0.1)
    alone = by_kernel(last, target, factor, 0.1)
    assert all(torch.equal(a[-64:], b) for a, b in zip((loss, nll_loss, correct), alone))
    assert torch.equal(logits[-64:], last)
    assert not logits[:-64].any()
