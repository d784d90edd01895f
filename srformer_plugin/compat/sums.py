"""What several processes sum up beside gradients: it stays on the device until the host needs to know it."""

import functools
from collections import OrderedDict
from collections.abc import Callable

import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer

from .patching import wrap
from .transfers import HostCopy, to_device


def sum_over_processes_at_once():
    """Sum the host's numbers and the device's over all processes by one all-reduce, for which no host waits.

    ``distributed/utils.py:695`` copies the host's numbers from pageable memory, which waits for all that the device was
    given (the backward pass), and sums them apart from the device's. Not needed when ``all_reduce_dict`` calls
    ``all_reduce`` once.
    """

    def make_wrapper(original):
        def all_reduce_dict(data, device, group):
            if device.type not in ("cpu", "cuda") or not data:
                return original(data, device, group)
            values = {name: torch.as_tensor(value, dtype=torch.double) for name, value in data.items()}
            theirs = [name for name, value in values.items() if value.device.type != device.type]
            if theirs:
                together = to_device(torch.cat([values[name].reshape(-1) for name in theirs]), device)
                parts = together.split([values[name].numel() for name in theirs])
                values |= {name: part.view(values[name].shape) for name, part in zip(theirs, parts)}
            order = sorted(values)  # in every process, whichever it has noted first
            buffer = torch.cat([values[name].reshape(-1) for name in order])
            distributed_utils.all_reduce(buffer, group=group)
            parts = dict(zip(order, buffer.split([values[name].numel() for name in order])))
            return OrderedDict((name, parts[name].view(value.shape)) for name, value in values.items())

        return all_reduce_dict

    wrap(distributed_utils, "all_reduce_dict", make_wrapper)


def sum_with_those_out_of_memory():
    """Let a process that had no memory for its batches sum what the others log.

    ``trainer.py:1455`` sums what a process's first logging output names. One that has none, having left all its batches
    of an update out ("attempting to recover from OOM"), sums fewer numbers than the others: gloo ends the training, and
    NCCL takes one number for another, or waits. Here it adds zeros to what it named in an earlier update. Not needed
    when ``_fast_stat_sync_sum`` without logging outputs sums as many numbers as with some.
    """

    def make_wrapper(original):
        def _fast_stat_sync_sum(self, logging_outputs, *extra_stats_to_sum, ignore=False):
            if self.model.training:  # what a validation logs is not asked for without memory
                if logging_outputs:
                    log = logging_outputs[0]
                    self.last_logging_output = {k: v.detach() if torch.is_tensor(v) else v for k, v in log.items()}
                elif hasattr(self, "last_logging_output"):
                    logging_outputs, ignore = [self.last_logging_output], True
            return original(self, logging_outputs, *extra_stats_to_sum, ignore=ignore)

        return _fast_stat_sync_sum

    wrap(Trainer, "_fast_stat_sync_sum", make_wrapper)


class ReadLater:
    """A number of the device that the host asks for later, by ``float`` or as a tensor.

    Args:
        read: returns the number as a tensor of the host, [] or [1], float64, and may wait for it
    """

    def __init__(self, read: Callable[[], torch.Tensor]):
        self.read = read

    def __float__(self):
        return self.read().item()

    def __truediv__(self, number):
        return ReadLater(lambda: self.read() / number)


class SampleSize(ReadLater):
    """A sum of sample sizes: what gradients are multiplied by is computed on the device.

    fairseq divides by ``sample_size or 1.0``, and the host would have to know the number to choose. So this one is
    true, and divides as 1 where it is 0.

    Args:
        size: tensor of float64 with one number, on any device
        later: the same number
    """

    def __init__(self, size: torch.Tensor, later: ReadLater):
        super().__init__(later.read)
        self._size = size

    def __bool__(self):
        return True

    def __rtruediv__(self, number):
        return number / self._size.masked_fill(self._size == 0, 1.0)


def read_sums_of_processes_later():
    """Read what several processes have summed up when the log or a checkpoint needs it, all at once.

    ``trainer.py:1469`` leaves the sums on the device, and the trainer and the meters then read them one by one: whether
    the number of tokens is 0, before it clips gradients, so that the device has nothing to do until clipping and
    optimizer are launched; whether a weight is above 0 (``logging/meters.py:80``, for each of three groups of meters);
    how long the training has taken, after every update. Here they are copied to the host right behind the sum, and read
    when the norm has been looked at, which comes later; criterions get tensors, as of fairseq, of the host. Not needed
    when the host reads no sum before ``_reduce_and_log_stats``, and one in there.
    """

    def summed(original):
        def _fast_stat_sync_sum(self, logging_outputs, *extra_stats_to_sum, ignore=False):
            outputs, extra = original(self, logging_outputs, *extra_stats_to_sum, ignore=ignore)
            if self.tpu or self.cfg.optimization.use_bmuf:  # which sums not in every update: its meters hold tensors
                return outputs, extra
            later = iter(_read_later([*extra, *(value for output in outputs for value in output.values())]))
            others = [next(later) for _ in extra]
            if extra:  # both callers begin with the sample size
                others[0] = SampleSize(extra[0], others[0])
            return [{name: next(later) for name in output} for output in outputs], others

        return _fast_stat_sync_sum

    def logged(original):
        def _reduce_and_log_stats(self, logging_outputs, sample_size, grad_norm=None):
            if isinstance(sample_size, ReadLater):  # and so are the outputs, which came with it
                sample_size = _known(sample_size)
                logging_outputs = [{name: _known(value) for name, value in log.items()} for log in logging_outputs]
            return original(self, logging_outputs, sample_size, grad_norm)

        return _reduce_and_log_stats

    def taken(original):
        def cumulative_training_time(self):
            return float(original(self))

        return cumulative_training_time

    wrap(Trainer, "_fast_stat_sync_sum", summed)
    wrap(Trainer, "_reduce_and_log_stats", logged)
    wrap(Trainer, "cumulative_training_time", taken)


def _read_later(tensors: list[torch.Tensor]) -> list:
    """A `ReadLater` for every tensor of one number, by one copy of all; others as they are."""
    single = [i for i, tensor in enumerate(tensors) if tensor.numel() == 1]
    if not single:
        return tensors
    copy = HostCopy(torch.stack([tensors[i].reshape(()) for i in single]))
    numbers = functools.cache(lambda: copy.read().clone())  # out of the pinned memory: meters keep some
    later = {
        i: ReadLater(lambda place=place, shape=tensors[i].shape: numbers()[place].view(shape))
        for place, i in enumerate(single)
    }
    return [later.get(i, tensor) for i, tensor in enumerate(tensors)]


def _known(value):
    return value.read() if isinstance(value, ReadLater) else value
