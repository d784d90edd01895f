"""The worker processes of an epoch end with it, at once."""

import gc
import multiprocessing
import subprocess
import sys
import threading
import time

import pytest
from fairseq.data.iterators import BufferedIterator
from fairseq.trainer import Trainer
from stock_bart import stock, train_arguments

from srformer_plugin.compat import loaders


@pytest.fixture
def workers_of_folders(train_in_process, tiny_corpus, tmp_path, monkeypatch):
    """Trains on a list of three folders; returns the worker processes at the beginning of each of four epochs."""
    before, counts, begin = set(multiprocessing.active_children()), [], Trainer.begin_epoch

    def begin_epoch(self, epoch):
        counts.append(len(set(multiprocessing.active_children()) - before))
        begin(self, epoch)

    def run(*flags):
        data, *rest = train_arguments(tiny_corpus, tmp_path, "--disable-validation", "--no-save", *flags)
        train_in_process(":".join([data] * 3), *rest, "--max-epoch", 4, "--max-update", 100)
        return counts

    monkeypatch.setattr(Trainer, "begin_epoch", begin_epoch)
    gc.disable()  # it would end some and not others
    yield run
    for process in set(multiprocessing.active_children()) - before:
        process.kill()  # as the collector would, but without its 5 seconds
        process.join()
    gc.enable()


@pytest.mark.parametrize("size, expected", [(10, 0), (0, 1)], ids=["buffered", "at once"])
def test_every_folder_of_training_data_has_the_same_number_of_workers(workers_of_folders, monkeypatch, size, expected):
    """Those of the epoch itself begin with its first batch, or with its iterator."""
    end, seconds = loaders.end_workers, []

    def end_workers(batches):
        start = time.monotonic()
        end(batches)
        seconds.append(time.monotonic() - start)

    monkeypatch.setattr(loaders, "end_workers", end_workers)
    assert workers_of_folders("--num-workers", 1, "--data-buffer-size", size) == [expected] * 4
    assert len(seconds) == 4
    assert max(seconds) < 4  # a worker that is not told to end takes 5


def test_no_worker_is_no_fault(workers_of_folders):
    assert workers_of_folders("--num-workers", 0) == [0, 0, 0, 0]


def test_stock_leaves_the_workers_of_every_folder_to_the_garbage_collector(workers_of_folders, monkeypatch):
    monkeypatch.setattr(Trainer, "get_train_iterator", stock(Trainer.get_train_iterator))
    assert workers_of_folders("--num-workers", 1) == [0, 1, 2, 3]


# Ends with status 3 while a batch that takes PyTorch long is read ahead; "stock": as without the mend.
PROGRAM = """
import atexit, sys, torch
from fairseq.data.iterators import BufferedIterator
import srformer_plugin
from srformer_plugin.compat.loaders import stop_reading

class Batches:
    def __len__(self):
        return 10**6
    def __iter__(self):
        while True:
            yield torch.rand(500_000).sort()

if sys.argv[1] == "stock":
    atexit.unregister(stop_reading)
next(BufferedIterator(int(sys.argv[2]), Batches()))
sys.exit(3)
"""


def status(*arguments):
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], stderr=subprocess.DEVNULL).returncode


@pytest.mark.slow
@pytest.mark.parametrize("size", ["1", "1000"])
def test_a_program_that_ends_while_batches_are_read_ahead_has_its_own_status(size):
    assert [status("mended", size) for _ in range(3)] == [3] * 3


@pytest.mark.slow
def test_stock_threads_abort_the_program():
    assert any(status("stock", "1000") < 0 for _ in range(3))


def test_the_end_does_not_wait_for_a_batch_for_ever():
    class Batches(list):
        def __iter__(self):
            yield 1
            reading.wait()

    reading = threading.Event()
    batches = BufferedIterator(1, Batches([1, 2]))
    next(batches)
    loaders.stop_reading(seconds=0.1)
    assert batches._consumer.is_alive()
    reading.set()
    batches._consumer.join()
