"""Whether the norm of an update's gradients is a number, and the same in all processes."""

import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.optim.fp16_optimizer import FP16Optimizer
from fairseq.tasks import FairseqTask
from fairseq.trainer import Trainer

from .patching import wrap
from .transfers import HostCopy


class GradientNorm:
    """The norm of an update's gradients, as the trainer hands it from clipping to its checks and to the log.

    ``torch.isfinite`` of it, the trainer's last check, reads nothing once it is left to `look_at_norms_once`.

    Args:
        value: the norm, a tensor of any precision with one number
    """

    def __init__(self, value: torch.Tensor):
        self.value, self.is_left_to_us = value, False

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is not torch.isfinite:
            return NotImplemented
        norm = args[0]
        return torch.tensor(True) if norm.is_left_to_us else torch.isfinite(norm.value)


def are_usable(norms: torch.Tensor) -> torch.Tensor:
    """Whether the norms of all processes, [processes], are finite and within 1e-6 of the first's, a bool, [].

    As ``trainer.py:1491``.
    """
    return torch.isfinite(norms).all() & ((norms - norms[0]).abs().max() / (norms[0] + 1e-6) < 1e-6)


def look_at_norms_once():
    """Read from the device once whether the norms of all processes are numbers and the same, and launch the optimizer
    before.

    ``trainer.py:1491`` reads whether all are finite, then whether they are the same, and ``:963`` whether this
    process's is finite: three waits, of one process one, behind which the device has nothing to do until the optimizer
    is launched. Here the answer goes to the host by one copy. An optimizer with ``skip_next_step_if`` (`fused_adam`,
    also with ``--bf16``) gets it on the device, is launched, and the host looks behind that: what it raises is what it
    would have raised before, in the same call of the trainer, and the step has changed nothing. Any other optimizer,
    and a task that launches it in a way of its own, are waited for as before. ``--amp``, which goes on with any norm,
    is left as it is. Not needed when the trainer launches an optimizer before it asks for the norm.
    """

    def clipped(original):
        def clip_grad_norm(self, clip_norm):
            norm = original(self, clip_norm)
            return norm if self.tpu or self.cfg.common.amp else GradientNorm(norm)

        return clip_grad_norm

    def checked(original):
        def _check_grad_norms(self, grad_norm):
            if not isinstance(grad_norm, GradientNorm):
                return original(self, grad_norm)
            norms = grad_norm.value.reshape(1)
            if self._grad_norm_buf is not None:
                norms = self._grad_norm_buf.zero_()
                norms[self.data_parallel_rank] = grad_norm.value
                distributed_utils.all_reduce(norms, group=self.data_parallel_process_group)
            usable = are_usable(norms)
            on_host = HostCopy(usable)

            def look():
                if not on_host.read().tolist():
                    # of several processes, in all of them: it sums the norms once more, and says which they are
                    original(self, grad_norm.value)
                    raise FloatingPointError("gradients are Nan/Inf")

            grad_norm.is_left_to_us = True
            if _skips_next_step(self, ~usable):
                self.optimizer.look_at_norm = look
            else:
                look()
            return None

        return _check_grad_norms

    def launched(original):
        def optimizer_step(self, optimizer, model, update_num):
            original(self, optimizer, model, update_num)
            look = vars(optimizer).pop("look_at_norm", None)
            if look is not None:
                look()

        return optimizer_step

    wrap(Trainer, "clip_grad_norm", clipped)
    wrap(Trainer, "_check_grad_norms", checked)
    wrap(FairseqTask, "optimizer_step", launched)


def _skips_next_step(trainer: Trainer, flag: torch.Tensor) -> bool:
    """Whether the trainer's optimizer was told to change nothing in its next step where `flag`, a bool, [], is true."""
    if getattr(trainer.task.optimizer_step, "__func__", None) is not FairseqTask.optimizer_step:
        return False  # nobody would look behind it
    optimizer = trainer.optimizer
    if isinstance(optimizer, FP16Optimizer) and optimizer.scaler is None:  # --bf16
        optimizer = optimizer.fp32_optimizer
    skip = getattr(optimizer, "skip_next_step_if", None)
    return skip is not None and skip(flag)
