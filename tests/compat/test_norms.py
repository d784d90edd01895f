"""An update whose gradients are no numbers, or not the same in all processes, ends as in stock; one read tells."""

import math
from types import SimpleNamespace

import pytest
import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.tasks import FairseqTask
from fairseq.trainer import Trainer
from stock_bart import stock, train_arguments
from update_mends import leave_updates_to_fairseq, update_as_one_of_several, without_clocks

from srformer_plugin.compat.norms import GradientNorm, are_usable
from srformer_plugin.compat.transfers import HostCopy

# --- one norm ---------------------------------------------------------------------------------------------


def trainer_of(norms):
    """What `_check_grad_norms` needs of the first of some processes, or of one; its optimizer skips nothing."""
    return SimpleNamespace(
        _grad_norm_buf=torch.tensor([7.0] * len(norms), dtype=torch.double) if len(norms) > 1 else None,
        data_parallel_rank=0,
        data_parallel_process_group=None,
        cfg=SimpleNamespace(common=SimpleNamespace(amp=False)),
        task=FairseqTask(None),
        optimizer=SimpleNamespace(),
    )


@pytest.mark.parametrize(
    ("norms", "usable"),
    [
        ([0.0], True),
        ([3.0, 3.0], True),
        ([0.0, 0.0, 0.0], True),
        ([3.0, 3.0 + 2e-6], True),
        ([3.0, 3.0 - 2e-6, 3.0 + 4e-6], False),
        ([3.0, 2.0], False),
        ([0.0, 1e-9], False),
        ([math.nan], False),
        ([math.inf, math.inf], False),
        ([1.0, math.nan], False),
        ([math.inf, 1.0], False),
    ],
)
def test_norms_are_judged_as_by_fairseq_and_read_once(monkeypatch, norms, usable):
    monkeypatch.setattr(distributed_utils, "all_reduce", lambda tensor, group: tensor.copy_(given))
    given, own, reads, read = torch.tensor(norms, dtype=torch.double), torch.tensor(norms[0]), [], HostCopy.read
    monkeypatch.setattr(HostCopy, "read", lambda copy: reads.append(copy) or read(copy))
    assert are_usable(given).tolist() is usable
    norm = GradientNorm(own)
    if usable:
        assert stock(Trainer._check_grad_norms)(trainer_of(norms), own) is None
        assert Trainer._check_grad_norms(trainer_of(norms), norm) is None
        norm.value = None  # is not asked any more
        assert torch.isfinite(norm).all()
    elif len(norms) == 1:  # the trainer finds it
        with pytest.raises(FloatingPointError, match="^gradients are Nan/Inf$"):
            Trainer._check_grad_norms(trainer_of(norms), norm)
    else:
        errors = []
        for check, value in ((Trainer._check_grad_norms, norm), (stock(Trainer._check_grad_norms), own)):
            with pytest.raises(FloatingPointError, match="gradients are inconsistent between workers") as caught:
                check(trainer_of(norms), value)
            errors.append(str(caught.value))
        assert errors[0] == errors[1]
    assert len(reads) == 1


@pytest.mark.parametrize("value", [0.0, 2.5, math.inf, math.nan])
def test_a_norm_that_the_trainer_does_not_compare_answers_for_itself(value):
    """With --use-bmuf and slowmo."""
    norm = GradientNorm(torch.tensor(value))
    assert torch.isfinite(norm).all().item() is math.isfinite(value)
    with pytest.raises(TypeError):
        torch.sqrt(norm)


@pytest.mark.parametrize("name", ["amp", "tpu"])
def test_norms_with_which_the_trainer_goes_on_are_fairseqs(name):
    cfg = SimpleNamespace(common=SimpleNamespace(amp=name == "amp"))
    trainer = SimpleNamespace(
        cfg=cfg,
        tpu=name == "tpu",
        is_fsdp=False,
        optimizer=SimpleNamespace(clip_grad_norm=lambda *a, **k: torch.ones(())),
    )
    assert torch.is_tensor(Trainer.clip_grad_norm(trainer, 1.0))
    trainer.tpu = cfg.common.amp = False
    assert isinstance(Trainer.clip_grad_norm(trainer, 1.0), GradientNorm)


# --- trainings --------------------------------------------------------------------------------------------

ENDS = {
    "no number": "gradients are Nan/Inf",
    "no number in two processes": "gradients are inconsistent between workers",
    "another in the other process": "gradients are inconsistent between workers",
}


@pytest.fixture
def ended(tiny_corpus, tmp_path, train_in_process, monkeypatch):
    """Function (fault, stock, flags) -> error and crash.pt of a training that ends in its third update.

    The weights of crash.pt, and the optimizer's averages, are those of the second.
    """

    def run(fault, is_stock, *flags, device="cpu"):
        train_step, numbers = FairseqTask.train_step, []

        def poisoned(self, sample, model, criterion, optimizer, update_num, **more):
            found = train_step(self, sample, model, criterion, optimizer, update_num, **more)
            numbers.append(update_num)
            if update_num == 2 and fault != "another in the other process":
                next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = math.nan
            return found

        folder = tmp_path / ("stock" if is_stock else "mended")
        arguments = [flag for flag in train_arguments(tiny_corpus, folder) if (flag, device) != ("--cpu", "cuda")]
        with monkeypatch.context() as patch:
            patch.setattr(FairseqTask, "train_step", poisoned)
            if fault != "no number":
                update_as_one_of_several(patch, lambda norm: norm * (2 if numbers[-1] == 2 else 1))
            if is_stock:
                leave_updates_to_fairseq(patch.setattr)
            with pytest.raises(FloatingPointError) as caught:
                train_in_process(
                    *arguments, "--distributed-world-size", 1, "--clip-norm", 0.5, "--max-update", 4,
                    "--disable-validation", "--save-interval-updates", 2, *flags,
                )  # fmt: skip
        assert numbers == [0, 1, 2, 2]  # the passes are made again to find the place
        kept, crashed = (
            without_clocks(torch.load(folder / file, weights_only=True)) for file in ("checkpoint_1_2.pt", "crash.pt")
        )
        assert crashed["model"] == kept["model"]
        assert crashed["last_optimizer_state"] == kept["last_optimizer_state"]
        assert ENDS[fault] in str(caught.value)
        return str(caught.value), crashed

    return run


@pytest.mark.parametrize("flags", [[], ["--bf16"], ["--bf16", "--clip-norm", "0"]], ids=" ".join)
@pytest.mark.parametrize("optimizer", ["adam", "fused_adam"])
@pytest.mark.parametrize("fault", ENDS)
def test_a_training_ends_as_in_stock_and_before_its_weights_change(ended, fault, optimizer, flags):
    ours, theirs = (ended(fault, is_stock, "--optimizer", optimizer, *flags) for is_stock in (False, True))
    assert ours == theirs


@pytest.mark.parametrize("flags", [[], ["--bf16"]], ids=" ".join)
@pytest.mark.parametrize("optimizer", ["adam", "fused_adam"])
def test_a_training_whose_first_update_fails_goes_on_from_crash(train_here, tmp_path, monkeypatch, optimizer, flags):
    train_step = FairseqTask.train_step

    def poisoned(self, sample, model, criterion, *args, **more):
        found = train_step(self, sample, model, criterion, *args, **more)
        next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = math.nan
        return found

    with monkeypatch.context() as patch, pytest.raises(FloatingPointError, match="gradients are Nan/Inf"):
        patch.setattr(FairseqTask, "train_step", poisoned)
        train_here("--optimizer", optimizer, *flags)
    crash = tmp_path / "crash.pt"
    for state in torch.load(crash, weights_only=True)["last_optimizer_state"]["state"].values():
        assert state["step"] == 0
        assert not state["exp_avg"].any() and not state["exp_avg_sq"].any()
    train_here("--optimizer", optimizer, "--restore-file", crash, *flags)
    states = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["last_optimizer_state"]["state"]
    assert {state["step"] for state in states.values()} == {2}
    assert all(state["exp_avg"].isfinite().all() for state in states.values())


@pytest.mark.gpu
@pytest.mark.parametrize("flags", [[], ["--bf16"], ["--bf16", "--fp16-no-flatten-grads"]], ids=" ".join)
@pytest.mark.parametrize("fault", ENDS)
def test_on_a_gpu_a_training_ends_before_its_weights_change(ended, fault, flags):
    ended(fault, False, "--optimizer", "fused_adam", *flags, device="cuda")
