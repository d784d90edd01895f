"""The numbers of an update's log, without waits for the device."""

import threading
from collections import OrderedDict

import torch
from fairseq.logging import metrics
from fairseq.logging.meters import MetersDict
from fairseq.trainer import Trainer

from .norms import GradientNorm
from .patching import wrap

_here = threading.local()


def log_without_waiting():
    """Let the device go on while an update's loss and norm are noted down for the log.

    ``trainer.py:1522`` asks once more whether the norm is finite, ``:1529`` copies two numbers to the device, and
    ``:1556`` reads and rounds every statistic of the update, though ``fairseq_cli/train.py`` prints them every
    ``--log-interval`` updates: some six waits, before which the whole update has to end, so that the device has nothing
    to do until the next batch is launched. Here the statistics are read when somebody asks for one. What is printed is
    the same. Not needed when an update with ``--log-interval 100`` reads two numbers from the device: whether the norm
    is finite, and nothing behind the optimizer.
    """

    def log(original):
        def _reduce_and_log_stats(self, logging_outputs, sample_size, grad_norm=None):
            grad_norm = grad_norm.value if isinstance(grad_norm, GradientNorm) else grad_norm
            if torch.is_tensor(grad_norm) and not self.cfg.common.amp:  # finite: the trainer has looked at it
                _log_norm(grad_norm, self.cfg.optimization.clip_norm)
                grad_norm = None
            _here.deferring = True
            try:
                return original(self, logging_outputs, sample_size, grad_norm)
            finally:
                _here.deferring = False

        return _reduce_and_log_stats

    def values(original):
        def get_smoothed_values(self):
            return SmoothedLater(self) if getattr(_here, "deferring", False) else original(self)

        return get_smoothed_values

    wrap(Trainer, "_reduce_and_log_stats", log)
    wrap(MetersDict, "get_smoothed_values", values)


def _log_norm(norm: torch.Tensor, limit: float) -> None:
    """Log an update, its norm, and whether it was clipped (in percent), as fairseq does."""
    metrics.log_speed("ups", 1.0, priority=100, round=2)
    metrics.log_scalar("gnorm", norm, priority=400, round=3)
    if limit > 0:
        metrics.log_scalar("clip", (norm > limit).to(norm) * 100, priority=500, round=1)


class SmoothedLater(OrderedDict):
    """The smoothed values of meters that nobody changes any more, each read when it is asked for.

    An OrderedDict as fairseq's. What asks for all values at once reads all.
    """

    def __init__(self, meters: MetersDict):
        super().__init__((name, None) for name in meters if not name.startswith("_"))
        self._meters, self._unread = meters, set(self)

    def __getitem__(self, name):
        if name in self._unread:
            self[name] = self._meters.get_smoothed_value(name)
        return super().__getitem__(name)

    def __setitem__(self, name, value):
        super().__setitem__(name, value)
        vars(self).get("_unread", set()).discard(name)  # none while it is being made

    def __delitem__(self, name):
        super().__delitem__(name)
        self._unread.discard(name)

    def get(self, name, default=None):
        try:
            return self[name]
        except KeyError:
            return default

    def pop(self, name, *default):
        self.get(name)
        return super().pop(name, *default)

    def popitem(self, last=True):
        return self._read().popitem(last)

    def copy(self):
        return OrderedDict((name, self[name]) for name in self)

    def items(self):
        return self._read().items()

    def values(self):
        return self._read().values()

    def __reduce__(self):  # copy and pickle
        return self.copy().__reduce__()

    def __eq__(self, other):
        return self.copy() == other

    def __ne__(self, other):
        return not self == other

    def __or__(self, other):
        return self.copy() | other

    def __ror__(self, other):
        return other | self.copy()

    def __repr__(self):
        return repr(self.copy())

    def _read(self):
        """All values, as a view of this dictionary."""
        for name in tuple(self._unread):
            self[name]
        return super()
