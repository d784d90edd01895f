"""Worker processes and threads that load batches, and their end."""

import atexit
import contextlib
import queue
import threading
import time
import weakref

from fairseq.data.iterators import BackgroundConsumer
from fairseq.trainer import Trainer

from .patching import wrap

LAST_BATCH = 10  # seconds that the end of a command waits for the batch that is being read


def end_loaders_with_their_epoch():
    """End the worker processes of an epoch before those of the next begin, where its data are in another folder.

    ``fairseq_cli/train.py:213`` drops the iterator over the last folder, which is part of cycles
    (``data/iterators.py:520``): it is left to Python's garbage collector, and PyTorch's iterator over worker processes
    with it. The collector first finalises the queues to the workers; then the word that tells a worker to end is never
    sent, and PyTorch waits 5 seconds for each before it kills it. So ``--num-workers 2`` costs 10 seconds an epoch, at
    whatever moment the collector runs, and until then the processes of all epochs stay. Told before, they end in
    milliseconds. Not needed when the third of three folders has no more processes than the first.
    """

    def make_wrapper(original):
        def get_train_iterator(self, *args, **kwargs):
            batches = original(self, *args, **kwargs)
            last = vars(self).get("_srformer_last_batches", lambda: None)()
            if last is not None and last is not batches:
                end_workers(last)
            self._srformer_last_batches = weakref.ref(batches)
            return batches

        return get_train_iterator

    wrap(Trainer, "get_train_iterator", make_wrapper)


def end_workers(batches) -> None:
    """End the worker processes of an ``EpochBatchIterator`` that is not used any more; without any, do nothing."""
    workers = getattr(getattr(batches, "dataloader", None), "_iterator", None)
    if hasattr(workers, "_shutdown_workers"):  # PyTorch's own, whose name has been the same since 1.2
        workers._shutdown_workers()


def read_no_further_at_the_end():
    """End the threads that read batches ahead before Python ends.

    ``data/iterators.py:693`` leaves them to the end of Python, which stops such a thread where it comes back from
    PyTorch: "terminate called without an active exception", and the command's status is 134 whatever it was. That is
    an error in the middle of the data, and a training that has made its ``--max-update``. Not needed when a program
    that reads the first of many batches that take long ends with its own status.
    """
    atexit.unregister(stop_reading)  # once, however often the mends are applied
    atexit.register(stop_reading)


def stop_reading(seconds: float = LAST_BATCH) -> None:
    """End every thread that reads batches ahead, behind the batch that it is at; wait so many seconds at most."""
    readers = [thread for thread in threading.enumerate() if isinstance(thread, BackgroundConsumer)]
    for reader in readers:
        reader._max_len = 0  # it compares the batches that it has read with this
    end = time.monotonic() + seconds
    while any(reader.is_alive() for reader in readers) and time.monotonic() < end:
        for reader in readers:
            with contextlib.suppress(queue.Empty):
                reader._queue.get(timeout=0.01)  # it may wait for a place
