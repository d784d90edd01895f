"""What several processes sum up beside gradients: the numbers are fairseq's, and the host reads them late."""

import contextlib
import re
from types import SimpleNamespace

import pytest
import torch
import warm
from conftest import run_side_by_side
from fairseq.distributed import utils as distributed_utils
from fairseq.tasks import FairseqTask
from fairseq.trainer import Trainer
from helpers import free_port
from stock_bart import stock, train_arguments
from torch.utils._python_dispatch import TorchDispatchMode
from update_mends import leave_updates_to_fairseq, update_as_one_of_several, without_clocks

from srformer_plugin.compat.sums import ReadLater, SampleSize
from srformer_plugin.compat.transfers import HostCopy

RANK = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
TIMES = r'"\w*(wps|ups|wall)": "[^"]*"(, )?'


# --- trainings --------------------------------------------------------------------------------------------


def two_processes(corpus, folder, kind, flags):
    """The log's lines and the checkpoint of 4 updates; the third batch of the second process is a dummy."""
    port = free_port()
    logs = run_side_by_side(*(
        [
            warm.programs() / "python", "-c", RANK, __file__.replace("test_sums", "rank_of_training"), kind,
            *train_arguments(
                corpus, folder / kind, "--max-update", 4, "--log-format", "json", "--dropout", 0.1,
                "--distributed-world-size", 2, "--distributed-rank", rank, "--distributed-no-spawn",
                "--distributed-init-method", f"tcp://127.0.0.1:{port}", "--distributed-backend", "gloo", *flags,
            ),
        ]
        for rank in range(2)
    ))  # fmt: skip
    saved = torch.load(folder / kind / "checkpoint_last.pt", weights_only=True)
    return [re.sub(TIMES, "", line) for line in re.findall(r'\{"epoch".*\}', logs[0])], saved


@pytest.mark.parametrize(
    "flags",
    [
        ["--ddp-backend", "legacy_ddp", "--clip-norm", "0.5"],
        ["--ddp-backend", "pytorch_ddp", "--clip-norm", "0.5", "--bf16", "--optimizer", "fused_adam"],
        ["--ddp-backend", "pytorch_ddp", "--update-freq", "2", "--optimizer", "fused_adam", "--store-ema"],
        ["--ddp-backend", "legacy_ddp", "--fp16", "--report-accuracy", "--clip-norm", "0.5"],
        ["--ddp-backend", "legacy_ddp", "--use-bmuf", "--global-sync-iter", "2", "--warmup-iterations", "1"],
    ],
    ids=" ".join,
)
def test_two_processes_train_as_with_fairseqs_own_sums(tiny_corpus, tmp_path, flags):
    (our_log, ours), (their_log, theirs) = (
        two_processes(tiny_corpus, tmp_path, kind, flags) for kind in ("mended", "stock")
    )
    assert our_log == their_log
    assert len(our_log) >= 5
    assert any('"valid_loss"' in line for line in our_log)
    assert without_clocks(ours) == without_clocks(theirs)
    assert type(ours["extra_state"]["previous_training_time"]) is float


class Numbers(TorchDispatchMode):
    """Notes when a tensor is asked for its number."""

    def __init__(self, noted):
        super().__init__()
        self.noted = noted

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            self.noted.append("number")
        return function(*args, **(kwargs or {}))


def what_is_read(train_here, monkeypatch):
    """Of each update behind its passes: "number" of a tensor, "copy" on the host, and where the "optimizer" begins."""
    update_as_one_of_several(monkeypatch)
    updates, behind = [], contextlib.ExitStack()
    train_step, aggregate = Trainer.train_step, Trainer._aggregate_logging_outputs

    def _aggregate_logging_outputs(*args, **kwargs):
        updates.append([])
        behind.enter_context(Numbers(updates[-1]))
        return aggregate(*args, **kwargs)

    monkeypatch.setattr(Trainer, "_aggregate_logging_outputs", _aggregate_logging_outputs)
    monkeypatch.setattr(Trainer, "train_step", lambda *args: (train_step(*args), behind.close())[0])

    def noted(what, function):
        return lambda *args, **more: updates[-1].append(what) or function(*args, **more)

    monkeypatch.setattr(HostCopy, "read", noted("copy", HostCopy.read))
    monkeypatch.setattr(FairseqTask, "optimizer_step", noted("optimizer", FairseqTask.optimizer_step))
    train_here("--log-interval", 100, "--clip-norm", 0.5, "--disable-validation", "--no-save", "--report-accuracy")
    return updates


def test_an_update_reads_one_number_before_the_optimizer_and_all_sums_behind_it(train_here, monkeypatch):
    # the number is the norm's answer that it is finite, which is on the host
    assert what_is_read(train_here, monkeypatch) == [["copy", "number", "optimizer", "copy"]] * 2


def test_stock_reads_the_sums_one_by_one(train_here, monkeypatch):
    leave_updates_to_fairseq(monkeypatch.setattr)
    for update in what_is_read(train_here, monkeypatch):
        before = update.index("optimizer")
        assert before >= 4
        assert len(update) - before > 10


def update_on_a_gpu(corpus, folder, train_in_process, monkeypatch, *flags):
    """Three updates, in which an error is raised where the host waits for the device behind the passes.

    For an event of the device it may.
    """
    train_step, aggregate = Trainer.train_step, Trainer._aggregate_logging_outputs

    def _aggregate_logging_outputs(*args, **kwargs):
        torch.cuda.set_sync_debug_mode("error")
        return aggregate(*args, **kwargs)

    def watched(*args):
        try:
            return train_step(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Trainer, "_aggregate_logging_outputs", _aggregate_logging_outputs)
    monkeypatch.setattr(Trainer, "train_step", watched)
    arguments = [flag for flag in train_arguments(corpus, folder) if flag != "--cpu"]
    train_in_process(
        *arguments, "--distributed-world-size", 1, "--max-update", 3, "--optimizer", "fused_adam", "--clip-norm", 0.5,
        "--disable-validation", "--no-save", "--log-interval", 100, *flags,
    )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("flags", [[], ["--bf16"], ["--bf16", "--update-freq", "2"]], ids=" ".join)
def test_on_a_gpu_the_host_waits_for_its_copies_alone(tiny_corpus, tmp_path, train_in_process, monkeypatch, flags):
    update_as_one_of_several(monkeypatch)
    update_on_a_gpu(tiny_corpus, tmp_path, train_in_process, monkeypatch, *flags)


@pytest.mark.gpu
def test_on_a_gpu_stock_waits_for_every_number(tiny_corpus, tmp_path, train_in_process, monkeypatch):
    leave_updates_to_fairseq(monkeypatch.setattr)
    update_as_one_of_several(monkeypatch)
    with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
        update_on_a_gpu(tiny_corpus, tmp_path, train_in_process, monkeypatch)


# --- sums -------------------------------------------------------------------------------------------------


@pytest.fixture
def twice(monkeypatch):
    """An all-reduce of two processes with the same numbers; the sizes of what it was called with."""
    calls = []
    monkeypatch.setattr(
        distributed_utils, "all_reduce", lambda tensor, group: calls.append(tensor.numel()) or tensor.mul_(2)
    )
    return calls


def test_all_numbers_are_summed_at_once_as_by_fairseq(twice):
    data = {
        "a": 3, "b": torch.tensor(0.1), "c": 0.1, "d": torch.arange(6).view(2, 3), "e": torch.tensor([2]), "f": True,
    }  # fmt: skip
    expected = stock(distributed_utils.all_reduce_dict)(data, torch.device("cpu"), None)
    del twice[:]
    found = distributed_utils.all_reduce_dict(data, torch.device("cpu"), None)
    assert twice == [11]
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (torch.double, value.shape)
        assert torch.equal(found[name], value)
    assert data["b"] == torch.tensor(0.1)
    assert distributed_utils.all_reduce_dict({}, torch.device("cpu"), None) == {}


def test_stock_sums_the_hosts_numbers_apart(twice):
    stock(distributed_utils.all_reduce_dict)({"a": 3, "b": torch.tensor(0.1)}, torch.device("meta"), None)
    assert twice == [2]


class Trained:
    """What sums need of a trainer."""

    tpu, device, data_parallel_process_group = False, torch.device("cpu"), None
    cfg = SimpleNamespace(optimization=SimpleNamespace(use_bmuf=False))


def test_sums_are_fairseqs_and_known_later(twice):
    outputs = [{"loss": torch.tensor(0.1), "ntokens": 3}, {"loss": torch.tensor(0.2), "ntokens": 4}]
    logged, extra = Trainer._fast_stat_sync_sum(Trained(), outputs, 7.0, 0, 12.6)
    expected, more = stock(Trainer._fast_stat_sync_sum)(Trained(), outputs, 7.0, 0, 12.6)
    assert [list(map(float, log.values())) for log in logged] == [[value.item() for value in expected[0].values()]]
    assert list(logged[0]) == ["loss", "ntokens"]
    assert list(map(float, extra)) == [value.item() for value in more] == [14, 0, 25.2]
    assert all(isinstance(value, ReadLater) for value in [*logged[0].values(), *extra])
    assert isinstance(extra[0], SampleSize)
    logged, extra = Trainer._fast_stat_sync_sum(Trained(), [], 7.0)
    assert (logged, list(map(float, extra))) == ([], [14])
    logged, _ = Trainer._fast_stat_sync_sum(Trained(), outputs, 7.0, ignore=True)
    assert list(map(float, logged[0].values())) == [0, 0]


def test_what_is_no_single_number_stays(twice):
    vector = torch.tensor([1.0, 2.0])
    (logged,), _ = Trainer._fast_stat_sync_sum(Trained(), [{"vector": vector, "number": 3}], 7.0)
    assert torch.equal(logged["vector"], 2 * vector.double())
    assert float(logged["number"]) == 6


@pytest.mark.parametrize("size", [0.0, 1.0, 3.0, 1234567.0])
@pytest.mark.parametrize("processes", [1, 3])
def test_gradients_are_divided_as_by_fairseq(size, processes):
    sample_size = SampleSize(torch.tensor(size, dtype=torch.double), ReadLater(lambda: pytest.fail("read")))
    found = processes / (sample_size or 1.0)
    expected = torch.as_tensor(processes / (torch.tensor(size, dtype=torch.double) or 1.0), dtype=torch.double)
    assert torch.equal(found, expected)
