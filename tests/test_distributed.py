"""Processes over gloo train what one process trains on the joined batches."""

import re

import pytest
import torch
import warm
from conftest import run_side_by_side
from fairseq_cli import train
from fairseq_here import here
from helpers import free_port, train_arguments

import srformer_plugin  # noqa: F401 (lets torch.load read fairseq checkpoints)

# Wide heads and a low threshold: at the tiny sizes the neuron would never fire, and have no gradient to compare.
FIRING = ["--raf-threshold", "0.01"]
for side in ("encoder", "decoder"):
    FIRING += [f"--{side}-embed-dim", "128", f"--{side}-attention-heads", "1"]


def training(corpus, save_dir, *more):
    """Two plain gradient steps on batches of 4; no dropout, so that nothing depends on the rank."""
    own = [*FIRING, "--dropout", "0", "--optimizer", "sgd", "--lr", "0.5", "--batch-size", "4", "--max-update", "2"]
    return train_arguments(corpus, save_dir, *own, "--disable-validation", *more)


def parameters(folder):
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"]


@pytest.fixture(scope="session")
def one_process(tiny_corpus, tmp_path_factory):
    """The parameters after two updates, each on two batches one after the other."""
    folder = tmp_path_factory.mktemp("one")
    here(train, *training(tiny_corpus, folder, "--update-freq", "2"))
    return parameters(folder)


@pytest.mark.parametrize("backend", ["legacy_ddp", "pytorch_ddp"])
def test_two_ranks_step_as_one_process_on_the_joined_batch(tiny_corpus, one_process, tmp_path, backend):
    port = free_port()
    run_side_by_side(*(
        [
            warm.programs() / "python", "-m", "fairseq_cli.train",
            *training(
                tiny_corpus, tmp_path, "--distributed-world-size", "2", "--distributed-rank", str(rank),
                "--distributed-no-spawn", "--distributed-init-method", f"tcp://127.0.0.1:{port}",
                "--distributed-backend", "gloo", "--ddp-backend", backend,
            ),
        ]
        for rank in range(2)
    ))  # fmt: skip
    two = parameters(tmp_path)
    assert two.keys() == one_process.keys()
    for name, value in one_process.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.slow
def test_eight_processes_of_torchrun_train_as_one_in_eight_passes(tiny_corpus, tmp_path):
    alone, eight = tmp_path / "alone", tmp_path / "eight"
    settings = ["--batch-size", "2", "--required-batch-size-multiple", "1", "--max-update", "3"]
    expected = here(train, *training(tiny_corpus, alone, *settings, "--update-freq", "8"))
    torchruns = ["MASTER_ADDR=127.0.0.1", f"MASTER_PORT={free_port()}", "WORLD_SIZE=8"]
    module = [warm.programs() / "python", "-m", "srformer_plugin.tools.distributed_train"]
    logs = run_side_by_side(*(
        ["env", *torchruns, f"RANK={rank}", f"LOCAL_RANK={rank}", *module, *training(tiny_corpus, eight, *settings)]
        for rank in range(8)
    ))  # fmt: skip
    losses, found = (re.findall(r"train_inner.* loss=([0-9.]+),", log) for log in (expected, logs[0]))
    assert len(found) == 3
    assert list(map(float, found)) == pytest.approx(list(map(float, losses)), abs=2e-3)  # three decimals are printed
    one = parameters(alone)
    for name, value in parameters(eight).items():
        torch.testing.assert_close(value, one[name], rtol=1e-5, atol=1e-6, msg=name)


def test_the_steps_change_every_parameter(tiny_corpus, one_process, tmp_path):
    """The comparison above compares gradients, not initial values."""
    here(train, *training(tiny_corpus, tmp_path, "--update-freq", "2", "--lr", "0"))
    unchanged = [name for name, value in parameters(tmp_path).items() if torch.equal(value, one_process[name])]
    assert unchanged == ["encoder.version", "decoder.version", "decoder.segment_schedule"]
