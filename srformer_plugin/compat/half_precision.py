"""`--bf16` and `--fp16` without an accelerator, and the loss scale of `--amp`."""

import logging
import types

import torch
from fairseq import trainer, utils
from fairseq.distributed import utils as distributed_utils
from fairseq.optim import AMPOptimizer

from .patching import wrap

logger = logging.getLogger(__name__)


def train_half_precision_without_accelerator():
    """Make ``--bf16`` train on CPU and GPU, and ``--fp16`` on CPU.

    ``options.py:201`` takes ``--bf16`` to mean a TPU, and without torch_xla the trainer then fails with
    "'NoneType' object has no attribute 'xla_device'". ``optim/fp16_optimizer.py:42`` asks CUDA for its device
    to flatten the gradients of ``--fp16``, which a machine without CUDA cannot answer. ``call_main`` is where
    every tool passes its finished configuration. Not needed when ``fairseq-train --cpu --bf16`` and ``--cpu
    --fp16`` train.
    """

    def make_wrapper(original):
        def call_main(cfg, main, **kwargs):
            if cfg.common.bf16 and cfg.common.tpu and utils.xm is None:
                cfg.common.tpu = False
                # The other groups hold copies, made when the configuration was built.
                for group in (cfg.distributed_training, cfg.optimizer):
                    if getattr(group, "tpu", False):
                        group.tpu = False
            if cfg.common.fp16 and not torch.cuda.is_available() and not cfg.common.fp16_no_flatten_grads:
                logger.info("no CUDA device: --fp16 is taken with --fp16-no-flatten-grads")
                cfg.common.fp16_no_flatten_grads = True
            return original(cfg, main, **kwargs)

        return call_main

    wrap(distributed_utils, "call_main", make_wrapper)


def unscale_gradients_of_amp_once():
    """Let ``--amp`` train with the gradients, and clip them.

    ``optim/amp_optimizer.py:54`` divides them by the loss scale on behalf of PyTorch's optimizer, and ``:49`` steps on
    behalf of fairseq's around it, which PyTorch's scaler takes for another one: it divides once more. Gradients are 128
    times too small in the first update, more whenever the scale grows, and Adam's ``--adam-eps`` is no longer small
    beside them. Not needed when an optimizer steps with the gradients that ``clip_grad_norm`` has left.
    """

    def make_wrapper(original):
        def step(self):
            states = self.scaler._per_optimizer_states
            states[id(self.fp32_optimizer)] = states[id(self.optimizer)]
            return original(self)

        return step

    wrap(AMPOptimizer, "step", make_wrapper)


class _ZeroNorm:
    """The gradient norm of an update that is left out; `cuda` gives it on the GPU where there is one."""

    def __init__(self, value):
        self.value = torch.tensor(value)

    def cuda(self):
        return self.value.cuda() if torch.cuda.is_available() else self.value


class _TorchOfTrainer(types.ModuleType):
    """PyTorch as ``fairseq.trainer`` sees it, whose one call of ``torch.tensor`` makes that norm."""

    tensor = _ZeroNorm

    def __getattr__(self, name):
        return getattr(torch, name)


def survive_overflow_without_cuda():
    """Let a training in fp16 on a CPU lower its loss scale after an overflow, and go on.

    ``trainer.py:1023`` puts the gradient norm of the update that is left out on the GPU, whatever the training runs
    on, and without CUDA that ends it. Not needed when ``fairseq-train --cpu --fp16 --fp16-init-scale 1e9`` trains.
    """
    if not isinstance(trainer.torch, _TorchOfTrainer):
        trainer.torch = _TorchOfTrainer("torch")
