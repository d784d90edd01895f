"""What the host reads from the device in an update behind its passes, and whether the optimizer is launched before."""

import contextlib

import pytest
import torch
from fairseq.tasks import FairseqTask
from fairseq.tasks.translation import TranslationTask
from fairseq.trainer import Trainer
from stock_bart import train_arguments
from torch.utils._python_dispatch import TorchDispatchMode
from update_mends import leave_updates_to_fairseq, update_as_one_of_several

from srformer_plugin.compat.transfers import HostCopy


class Numbers(TorchDispatchMode):
    """Notes when a tensor is asked for its number."""

    def __init__(self, noted):
        super().__init__()
        self.noted = noted

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            self.noted.append("number")
        return function(*args, **(kwargs or {}))


# The trainer's first method behind the passes, of one process and of several.
FIRST = {False: "clip_grad_norm", True: "_aggregate_logging_outputs"}


def what_is_read(train_here, monkeypatch, several, *flags):
    """Of each update behind its passes: "number" of a tensor, "copy" on the host, and where the "optimizer" begins."""
    if several:
        update_as_one_of_several(monkeypatch)
    updates, behind = [], contextlib.ExitStack()
    train_step, first = Trainer.train_step, getattr(Trainer, FIRST[several])

    def begin(*args, **kwargs):
        updates.append([])
        behind.enter_context(Numbers(updates[-1]))
        return first(*args, **kwargs)

    def noted(what, function):
        return lambda *args, **more: updates[-1].append(what) or function(*args, **more)

    monkeypatch.setattr(Trainer, FIRST[several], begin)
    monkeypatch.setattr(Trainer, "train_step", lambda *args: (train_step(*args), behind.close())[0])
    monkeypatch.setattr(HostCopy, "read", noted("copy", HostCopy.read))
    monkeypatch.setattr(FairseqTask, "optimizer_step", noted("optimizer", FairseqTask.optimizer_step))
    train_here(
        "--log-interval", 100, "--clip-norm", 0.5, "--disable-validation", "--no-save", "--report-accuracy", *flags
    )
    return updates


# The number is the trainer's question whether the norm is finite, which is answered on the host.
NORM_FIRST, NORM_LAST = ["copy", "number", "optimizer"], ["number", "optimizer", "copy"]


@pytest.mark.parametrize("several", [False, True], ids=["one process", "several"])
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], NORM_FIRST),
        (["--bf16"], NORM_FIRST),
        (["--optimizer", "fused_adam"], NORM_LAST),
        (["--optimizer", "fused_adam", "--bf16"], NORM_LAST),
    ],
    ids=str,
)
def test_an_update_reads_whether_it_may_be_and_of_several_processes_all_sums_at_once(
    train_here, monkeypatch, several, flags, expected
):
    updates = what_is_read(train_here, monkeypatch, several, *flags)
    known = [update.index("copy", len(expected)) + 1 if several else len(update) for update in updates]
    assert [update[:end] for update, end in zip(updates, known)] == [[*expected, *(["copy"] if several else [])]] * 2
    # behind it the sums are tensors of the host, which criterions and meters ask for their numbers
    assert all("copy" not in update[end:] for update, end in zip(updates, known))


def test_a_task_that_launches_the_optimizer_itself_does_so_behind_the_look(train_here, monkeypatch):
    def optimizer_step(self, optimizer, model, update_num):
        looks.append(len(reads))
        optimizer.step()

    looks, reads, read = [], [], HostCopy.read
    monkeypatch.setattr(HostCopy, "read", lambda copy: reads.append(1) or read(copy))
    monkeypatch.setattr(TranslationTask, "optimizer_step", optimizer_step, raising=False)
    train_here("--optimizer", "fused_adam")
    assert looks == [1, 2]


def test_stock_reads_the_sums_one_by_one(train_here, monkeypatch):
    leave_updates_to_fairseq(monkeypatch.setattr)
    for update in what_is_read(train_here, monkeypatch, True):
        before = update.index("optimizer")
        assert before >= 4
        assert len(update) - before > 10


def test_stock_reads_the_norm_before_the_optimizer(train_here, monkeypatch):
    leave_updates_to_fairseq(monkeypatch.setattr)
    for update in what_is_read(train_here, monkeypatch, False, "--optimizer", "fused_adam"):
        assert update[:2] == ["number", "optimizer"]


# --- on a GPU ---------------------------------------------------------------------------------------------


@pytest.fixture
def update_on_a_gpu(tiny_corpus, tmp_path, train_in_process, monkeypatch):
    """Three updates, with an error where the host waits for the device behind the passes, but for an event of it."""

    def run(several, *flags):
        if several:
            update_as_one_of_several(monkeypatch)
        train_step, first = Trainer.train_step, getattr(Trainer, FIRST[several])

        def begin(*args, **kwargs):
            torch.cuda.set_sync_debug_mode("error")
            return first(*args, **kwargs)

        def watched(*args):
            try:
                return train_step(*args)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        monkeypatch.setattr(Trainer, FIRST[several], begin)
        monkeypatch.setattr(Trainer, "train_step", watched)
        arguments = [flag for flag in train_arguments(tiny_corpus, tmp_path) if flag != "--cpu"]
        train_in_process(
            *arguments, "--distributed-world-size", 1, "--max-update", 3, "--clip-norm", 0.5, "--disable-validation",
            "--no-save", "--log-interval", 100, *flags,
        )  # fmt: skip

    return run


@pytest.mark.gpu
@pytest.mark.parametrize("several", [False, True], ids=["one process", "several"])
@pytest.mark.parametrize("flags", [[], ["--bf16"], ["--bf16", "--update-freq", "2"]], ids=" ".join)
def test_on_a_gpu_the_host_waits_for_its_copies_alone(update_on_a_gpu, several, flags):
    update_on_a_gpu(several, "--optimizer", "fused_adam", *flags)


@pytest.mark.gpu
@pytest.mark.parametrize("several", [False, True], ids=["one process", "several"])
def test_on_a_gpu_stock_waits_for_the_device(update_on_a_gpu, monkeypatch, several):
    leave_updates_to_fairseq(monkeypatch.setattr)
    with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
        update_on_a_gpu(several, "--optimizer", "fused_adam")
