"""What a kill leaves of a checkpoint goes when the next training begins; what a process writes at that time stays."""

import multiprocessing
import os
import signal

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from srformer_plugin.compat.partial_checkpoints import remove_what_was_left, writing

NAME = "checkpoint_1_500.pt"


class Slow:
    """Content that is written until another process lets it end."""

    def __init__(self, begun, end):
        self.begun, self.end = begun, end

    def __reduce__(self):
        self.begun.set()
        assert self.end.wait(60)
        return list, ()


def store(path, begun, end):
    checkpoint_utils.torch_persistent_save({"weights": torch.zeros(1000), "slow": Slow(begun, end)}, str(path))


def copy(path, begun, end):
    with writing(str(path)):  # as `PathManager.copy` does
        begun.set()
        assert end.wait(60)
        os.replace(f"{path}.tmp", path)


@pytest.fixture(params=[store, copy])
def writer(request, tmp_path):
    """A process that is in the middle of writing a checkpoint, and the event that lets it end."""
    context = multiprocessing.get_context("fork")
    begun, end = context.Event(), context.Event()
    process = context.Process(target=request.param, args=(tmp_path / NAME, begun, end))
    process.start()
    assert begun.wait(60)
    yield process, end
    process.kill()
    process.join()


def test_what_a_process_writes_is_left_alone(writer, tmp_path):
    process, end = writer
    remove_what_was_left(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}.tmp"]
    end.set()
    process.join()
    assert process.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_what_a_killed_process_has_left_is_removed(writer, tmp_path):
    process, _ = writer
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (tmp_path / "notes.tmp").write_text("mine")
    (tmp_path / "checkpoint_last.pt").write_text("whole")
    remove_what_was_left(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_last.pt", "notes.tmp"]


def test_a_file_that_was_renamed_meanwhile_is_locked_anew(tmp_path):
    """A second writer of the same name waits for the first, and then has a file of its own."""
    context = multiprocessing.get_context("fork")
    begun, end, second = context.Event(), context.Event(), context.Event()
    end_of_second = context.Event()
    end_of_second.set()
    first = context.Process(target=copy, args=(tmp_path / NAME, begun, end))
    first.start()
    assert begun.wait(60)
    other = context.Process(target=copy, args=(tmp_path / NAME, second, end_of_second))
    other.start()
    assert not second.wait(0.3)
    end.set()
    first.join()
    other.join()
    assert (first.exitcode, other.exitcode) == (0, 0)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_copies_are_locked(tmp_path, monkeypatch):
    """fairseq copies checkpoint_best.pt and checkpoint_last.pt from the one that it has written."""
    (tmp_path / "a.pt").write_text("whole")
    replace = os.replace

    def looked_at(partial, path):
        remove_what_was_left(tmp_path)
        return replace(partial, path)

    monkeypatch.setattr(os, "replace", looked_at)
    assert PathManager.copy(str(tmp_path / "a.pt"), str(tmp_path / NAME), overwrite=True)
    assert (tmp_path / NAME).read_text() == "whole"


@pytest.mark.parametrize(("more", "left"), [([], False), (["--no-save"], True)])
def test_a_training_clears_its_folder(more, left, train_here, tmp_path):
    partial = tmp_path / "checkpoint_7_900.pt.tmp"
    partial.write_bytes(b"PK")
    log = train_here("--max-update", "1", *more)
    assert partial.exists() is left
    assert (f"removed {partial}" in log) is not left
