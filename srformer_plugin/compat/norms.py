"""Whether the norm of an update's gradients is a number, and the same in all processes."""

import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer

from .patching import wrap
from .transfers import HostCopy


class GradientNorm:
    """The norm of an update's gradients, as the trainer hands it from clipping to its checks and to the log.

    Args:
        value: the norm, a tensor of any precision, [] or [1]

    ``torch.isfinite`` of it, the trainer's last check, reads nothing where the norms of all processes were finite.
    """

    def __init__(self, value: torch.Tensor):
        self.value, self.is_usable = value, False

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is not torch.isfinite:
            return NotImplemented
        norm = args[0]
        return torch.tensor(True) if norm.is_usable else torch.isfinite(norm.value)


def are_usable(norms: torch.Tensor) -> torch.Tensor:
    """Whether the norms of all processes, [processes], are finite and within 1e-6 of the first's, a bool, [].

    As ``trainer.py:1491``.
    """
    return torch.isfinite(norms).all() & ((norms - norms[0]).abs().max() / (norms[0] + 1e-6) < 1e-6)


def look_at_norms_once():
    """Read from the device once whether the norms of all processes are finite and the same.

    ``trainer.py:1491`` reads whether all are finite, then whether they are the same, and ``:963`` whether this
    process's is finite: three waits before the optimizer is launched. ``--amp``, which goes on with any norm, is left
    as it is. Not needed when an update on two GPUs reads one number before the optimizer.
    """

    def clipped(original):
        def clip_grad_norm(self, clip_norm):
            norm = original(self, clip_norm)
            return norm if self.tpu or self.cfg.common.amp else GradientNorm(norm)

        return clip_grad_norm

    def compared(original):
        def _check_grad_norms(self, grad_norm):
            if not isinstance(grad_norm, GradientNorm):
                return original(self, grad_norm)
            if self._grad_norm_buf is None:
                return None
            self._grad_norm_buf.zero_()
            self._grad_norm_buf[self.data_parallel_rank] = grad_norm.value
            distributed_utils.all_reduce(self._grad_norm_buf, group=self.data_parallel_process_group)
            grad_norm.is_usable = HostCopy(are_usable(self._grad_norm_buf)).read().tolist()
            if not grad_norm.is_usable:
                original(self, grad_norm.value)  # in every process: it sums them once more, and says what is wrong
            return None

        return _check_grad_norms

    wrap(Trainer, "clip_grad_norm", clipped)
    wrap(Trainer, "_check_grad_norms", compared)
