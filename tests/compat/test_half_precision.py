"""`--bf16` and `--fp16` without an accelerator, and the loss scale of `--amp`."""

import math

import pytest
import torch
from fairseq import trainer, utils
from fairseq.distributed import utils as distributed_utils
from fairseq.optim import AMPOptimizer
from stock_bart import full_configuration, stock


@pytest.mark.parametrize("flag", ["--bf16", "--memory-efficient-bf16", "--fp16", "--memory-efficient-fp16"])
def test_half_precision_trains_on_a_cpu(flag, train_here):
    log = train_here(flag, "--fp16-init-scale", "4")
    assert "num_updates 2" in log
    assert "=nan" not in log


@pytest.mark.parametrize(
    "flag, message", [("--bf16", "xla_device"), ("--fp16", "not compiled with CUDA|NVIDIA driver")]
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="--fp16 is only wrong where there is no GPU")
def test_stock_half_precision_fails_on_a_cpu(flag, message, train_here, monkeypatch):
    monkeypatch.setattr(distributed_utils, "call_main", stock(distributed_utils.call_main))
    with pytest.raises((AttributeError, AssertionError, RuntimeError), match=message):
        train_here(flag)


OVERFLOW = ["--fp16", "--fp16-init-scale", "1073741824", "--max-update", "2"]


def test_a_training_on_a_cpu_goes_on_after_an_overflow(train_here):
    log = train_here(*OVERFLOW)
    assert "gradient overflow detected" in log
    assert "num_updates 2" in log


def test_nobody_else_sees_that_mend(train_here, monkeypatch):
    """Another thread may use a GPU while one trains on a CPU: what everybody calls stays what it was, all the while."""
    seen, everybodys = set(), (torch.Tensor.cuda, torch.tensor)
    clip = trainer.Trainer.clip_grad_norm

    def looking(self, *args, **kwargs):
        seen.add((torch.Tensor.cuda, torch.tensor))
        return clip(self, *args, **kwargs)

    monkeypatch.setattr(trainer.Trainer, "clip_grad_norm", looking)
    train_here()
    assert seen == {everybodys}


@pytest.mark.skipif(torch.cuda.is_available(), reason="only wrong where there is no GPU")
def test_stock_training_on_a_cpu_ends_with_an_overflow(train_here, monkeypatch):
    monkeypatch.setattr(trainer, "torch", torch)
    with pytest.raises((AssertionError, RuntimeError), match="not compiled with CUDA|NVIDIA driver"):
        train_here(*OVERFLOW)


def test_a_machine_with_a_tpu_still_uses_it(tiny_corpus, monkeypatch):
    """What --bf16 means where torch_xla is installed stays fairseq's choice."""
    monkeypatch.setattr(utils, "xm", object())
    _, cfg = full_configuration(tiny_corpus, "--bf16")
    seen = []
    distributed_utils.call_main(cfg, lambda cfg: seen.append(cfg.common.tpu))
    assert seen == [True]


def test_no_part_of_the_configuration_still_says_tpu(tiny_corpus):
    _, cfg = full_configuration(tiny_corpus, "--bf16")
    seen = []
    distributed_utils.call_main(cfg, seen.append)
    assert not seen[0].common.tpu
    assert not seen[0].optimizer.tpu
    assert not seen[0].distributed_training.tpu


@pytest.fixture(params=["sgd", "adam", "fused_adam"])
def amp(request, tiny_corpus):
    """An optimizer of --amp with a loss scale of 128, which a CPU has too, and its weights."""
    cfg = full_configuration(tiny_corpus, "--optimizer", request.param, "--lr", "0.5", "--amp")[1]
    weights = torch.nn.Parameter(torch.zeros(1, 2))
    optimizer = AMPOptimizer.build_optimizer(cfg, [weights])
    optimizer._grad_scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    return optimizer, weights


def gradients_of_the_step(amp, monkeypatch, gradient):
    """What PyTorch's optimizer finds in two updates of a loss with that gradient, clipped to a norm of 1."""
    (optimizer, weights), found = amp, []
    step = optimizer.optimizer.step
    monkeypatch.setattr(optimizer.optimizer, "step", lambda *a: (found.append(weights.grad.tolist()), step(*a)))
    for _ in range(2):
        optimizer.zero_grad()
        optimizer.backward((weights * torch.tensor(gradient)).sum())
        optimizer.clip_grad_norm(1.0)
        optimizer.step()
    return found


def test_amp_steps_with_the_gradients_that_were_clipped(amp, monkeypatch):
    for gradient in gradients_of_the_step(amp, monkeypatch, [3.0, 4.0]):
        assert gradient[0] == pytest.approx([0.6, 0.8], rel=1e-5)


def test_amp_leaves_out_an_update_that_overflows(amp, monkeypatch):
    assert gradients_of_the_step(amp, monkeypatch, [math.inf, 4.0]) == []
    assert amp[1].tolist() == [[0, 0]]
    assert amp[0].scaler.get_scale() == 32


def test_stock_divides_gradients_of_amp_twice(amp, monkeypatch):
    monkeypatch.setattr(AMPOptimizer, "step", stock(AMPOptimizer.step))
    first, _ = gradients_of_the_step(amp, monkeypatch, [3.0, 4.0])
    assert first[0] == pytest.approx([0.6 / 128, 0.8 / 128], rel=1e-5)
