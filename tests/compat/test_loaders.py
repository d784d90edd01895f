"""The worker processes of an epoch end with it, at once."""

import gc
import multiprocessing
import time

import pytest
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
