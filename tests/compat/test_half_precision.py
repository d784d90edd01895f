"""`--bf16` and `--fp16` without an accelerator."""

import pytest
import torch
from fairseq import trainer, utils
from fairseq.distributed import utils as distributed_utils
from stock_bart import full_configuration, stock


@pytest.mark.parametrize("flag", ["--bf16", "--memory-efficient-bf16", "--fp16", "--memory-efficient-fp16"])
def test_half_precision_trains_on_a_cpu(flag, train_here):
    log = train_here(flag, "--fp16-init-scale", "4")
    assert "num_updates 2" in log
    assert "nan" not in log


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
