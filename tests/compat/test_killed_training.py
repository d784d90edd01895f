"""A training that is killed anywhere ends as an undisturbed one does."""

import os
import random
import shutil
import signal
import time
from functools import partial

import pytest
import torch
from fairseq.file_io import PathManager
from fairseq_cli import train as fairseq_train
from fairseq_here import here
from stock_bart import stock, train_arguments

UPDATES = 12


def end(corpus, folder):
    """Arguments of a training with validations, checkpoints on the way and dropout."""
    return train_arguments(
        corpus, folder, "--max-update", UPDATES, "--batch-size", 8, "--dropout", 0.1, "--save-interval-updates", 2,
        "--validate-interval-updates", 2, "--keep-interval-updates", 1, "--no-epoch-checkpoints",
    )  # fmt: skip


def state(folder, name="checkpoint_last.pt"):
    """What a checkpoint holds of the training: weights, optimizer, number of updates."""
    found = torch.load(folder / name, weights_only=False)
    return found["model"], found["last_optimizer_state"], found["optimizer_history"][-1]["num_updates"]


def assert_same(one, other):
    """Equal bit for bit, nested containers of tensors and numbers."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for pair in zip(one, other):
            assert_same(*pair)
    else:
        assert one == other


@pytest.fixture(scope="module")
def undisturbed(tiny_corpus, tmp_path_factory):
    """The folder of a training that ran through, and its seconds."""
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    here(fairseq_train, *end(tiny_corpus, folder))
    return folder, time.monotonic() - began


def killed(work, seconds):
    """Do ``work`` in a process of its own and kill it after ``seconds``; returns whether it ended before."""
    child = os.fork()
    if child == 0:
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            work()
        finally:
            os._exit(0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@pytest.mark.slow
def test_a_training_killed_at_random_moments_ends_bit_for_bit_like_an_undisturbed_one(
    undisturbed, tiny_corpus, tmp_path
):
    folder, seconds = undisturbed
    moments, kills, out = random.Random(5), 0, tmp_path / "0"
    while kills < 8:
        train = partial(here, fairseq_train, *end(tiny_corpus, out))
        ended = killed(train, moments.uniform(0.2, 0.9) * seconds)
        kills += not ended
        if ended and kills >= 3:
            break
        if ended:  # too fast for these moments
            out, kills, seconds = out.with_name(f"{out.name}0"), 0, seconds / 2
    here(fairseq_train, *end(tiny_corpus, out))
    here(fairseq_train, *end(tiny_corpus, out))  # its end may not have been noted
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        assert_same(state(out, name), state(folder, name))


def test_a_copy_that_is_killed_leaves_the_checkpoint_that_was_there(tmp_path, monkeypatch):
    (tmp_path / "new.pt").write_text("new")
    (tmp_path / "last.pt").write_text("old")

    def half(source, target, *_, **__):
        with open(target, "w") as file:
            file.write("n")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", half)
        with pytest.raises(KeyboardInterrupt):
            PathManager.copy(str(tmp_path / "new.pt"), str(tmp_path / "last.pt"), overwrite=True)
        assert (tmp_path / "last.pt").read_text() == "old"
        with pytest.raises(KeyboardInterrupt):
            stock(PathManager.copy)(str(tmp_path / "new.pt"), str(tmp_path / "last.pt"), overwrite=True)
        assert (tmp_path / "last.pt").read_text() == "n"
    assert PathManager.copy(str(tmp_path / "new.pt"), str(tmp_path / "last.pt"), overwrite=True)
    assert (tmp_path / "last.pt").read_text() == "new"
