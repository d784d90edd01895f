"""What several processes sum up beside gradients: the numbers are fairseq's, and the host reads them late."""

import re
from types import SimpleNamespace

import pytest
import torch
import warm
from conftest import run_side_by_side
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer
from helpers import free_port
from stock_bart import stock, train_arguments
from update_mends import without_clocks

from srformer_plugin.compat.sums import ReadLater, SampleSize

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
        ["--ddp-backend", "legacy_ddp", "--criterion", "logs_tensors"],
        ["--ddp-backend", "legacy_ddp", "--criterion", "gathered", "--clip-norm", "0.5", "--optimizer", "fused_adam"],
        ["--ddp-backend", "legacy_ddp", "--criterion", "without_a_size", "--optimizer", "fused_adam"],
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


OUT_OF_MEMORY = ["--ddp-backend", "legacy_ddp", "--criterion", "out_of_memory"]


def test_a_process_out_of_memory_adds_nothing_and_the_training_goes_on(tiny_corpus, tmp_path):
    """By the third update, the epoch's last, the second process has no batch left."""
    log, saved = two_processes(tiny_corpus, tmp_path, "mended", OUT_OF_MEMORY)
    assert [re.search(r'"bsz": "(\d+)"', line).group(1) for line in log[:3]] == ["16", "8", "8"]
    assert saved["optimizer_history"][-1]["num_updates"] == 4


def test_in_stock_it_ends(tiny_corpus, tmp_path):
    with pytest.raises(AssertionError, match="exit statuses"):
        two_processes(tiny_corpus, tmp_path, "stock", OUT_OF_MEMORY)


@pytest.fixture
def alone(tmp_path):
    """A group of one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


def test_what_cannot_be_summed_is_gathered_over_gloo(alone):
    data = [{"words": "a", "loss": torch.tensor(0.1)}, 7.0]
    assert distributed_utils.all_gather_list(data, group=alone) == [data]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a PyTorch without CUDA")
def test_stock_gathers_on_a_gpu(alone):
    with pytest.raises((TypeError, RuntimeError), match="(?i)cuda"):
        stock(distributed_utils.all_gather_list)([1], group=alone)


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

    tpu, device, data_parallel_process_group, model = False, torch.device("cpu"), None, torch.nn.Identity()
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


def test_what_is_known_later_is_a_tensor_as_fairseqs(twice, monkeypatch):
    """Criterions and tasks of users ask it as one."""
    outputs = [{"loss": torch.tensor(0.1), "vector": torch.tensor([0.2]), "ntokens": 3}]
    seen = []
    task = SimpleNamespace(reduce_metrics=lambda logs, criterion: seen.extend([*logs[0].values()]))
    for sums, log in (
        (Trainer._fast_stat_sync_sum, Trainer._reduce_and_log_stats),
        (stock(Trainer._fast_stat_sync_sum), stock(Trainer._reduce_and_log_stats)),
    ):
        trainer = Trained()
        trainer.task, trainer.get_criterion, trainer._warn_once = task, lambda: None, {"loss"}
        logged, (size,) = sums(trainer, outputs, 7.0)
        seen.append(log(trainer, logged, size)["sample_size"])
    assert len(seen) == 8
    for ours, theirs in zip(seen[:4], seen[4:]):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert torch.equal(ours, theirs)


def test_the_order_in_which_a_process_notes_its_numbers_does_not_matter(monkeypatch):
    buffers = []
    monkeypatch.setattr(distributed_utils, "all_reduce", lambda tensor, group: buffers.append(tensor.clone()))
    for data in ({"a": torch.tensor(1.0), "b": 2}, {"b": 2, "a": torch.tensor(1.0)}):
        found = distributed_utils.all_reduce_dict(data, torch.device("cpu"), None)
        assert list(found) == list(data)
        assert (found["a"].item(), found["b"].item()) == (1, 2)
    assert torch.equal(*buffers)


def test_what_is_no_single_number_stays(twice):
    vector = torch.tensor([1.0, 2.0])
    (logged,), _ = Trainer._fast_stat_sync_sum(Trained(), [{"vector": vector, "number": 3}], 7.0)
    assert torch.equal(logged["vector"], 2 * vector.double())
    assert float(logged["number"]) == 6
    assert Trainer._fast_stat_sync_sum(Trained(), [{"vector": vector}])[1] == []


@pytest.mark.parametrize("size", [0.0, 1.0, 3.0, 1234567.0])
@pytest.mark.parametrize("processes", [1, 3])
def test_gradients_are_divided_as_by_fairseq(size, processes):
    sample_size = SampleSize(torch.tensor(size, dtype=torch.double), ReadLater(lambda: pytest.fail("read")))
    found = processes / (sample_size or 1.0)
    expected = torch.as_tensor(processes / (torch.tensor(size, dtype=torch.double) or 1.0), dtype=torch.double)
    assert torch.equal(found, expected)
