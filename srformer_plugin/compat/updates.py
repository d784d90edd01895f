"""What an update costs beside its passes: copies of weights, factors of gradients, walks over modules, seeds."""

from collections.abc import Iterator

import torch
from fairseq.models import BaseFairseqModel, FairseqEncoder
from fairseq.optim.fairseq_optimizer import FairseqOptimizer
from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin
from fairseq.trainer import Trainer
from torch import nn

from .patching import wrap


def copy_all_weights_at_once():
    """Copy gradients to float32, and weights back, and set gradients to zero, in one call for all parameters.

    ``optim/fp16_optimizer.py:111``, ``:152`` and ``:243`` do it one by one: with ``--bf16`` three launches for each of
    some 260 parameters, while the device waits. The values are the same. Not needed when they use
    ``torch._foreach_copy_`` and its like.
    """

    def gradients(original):
        def _sync_fp16_grads_to_fp32(self):
            masters = _masters(self) if self._needs_sync else None  # it is asked for three times an update
            if masters is None:
                return original(self)
            if not self.has_flat_params:
                for master in masters:
                    if master.grad is None:
                        master.grad = torch.empty_like(master)
            pairs = list(zip(_parts(self, masters, "grad"), (p.grad for p in self.fp16_params)))
            for target, source in pairs:
                if source is None:
                    target.zero_()
            _copy([(target, source) for target, source in pairs if source is not None])
            self._needs_sync = False

        return _sync_fp16_grads_to_fp32

    def weights(original):
        def _sync_fp32_params_to_fp16(self):
            masters = _masters(self)
            if masters is None:
                return original(self)
            _copy([(p.data, part) for p, part in zip(self.fp16_params, _parts(self, masters, "data"))])

        return _sync_fp32_params_to_fp16

    def zeros(original):
        def zero_grad(self):
            if self.has_flat_params:
                return original(self)
            kept = [(master, master.grad) for master in self.fp32_params if master.grad is not None]
            for master, _ in kept:
                master.grad = None  # fairseq then has none to set to zero
            original(self)
            for master, gradient in kept:
                master.grad = gradient
            if kept:
                torch._foreach_zero_([gradient for _, gradient in kept])

        return zero_grad

    wrap(_FP16OptimizerMixin, "_sync_fp16_grads_to_fp32", gradients)
    wrap(_FP16OptimizerMixin, "_sync_fp32_params_to_fp16", weights)
    wrap(_FP16OptimizerMixin, "zero_grad", zeros)


def _masters(optimizer) -> "list[nn.Parameter] | None":
    """The float32 parameters, one vector with all where they are flat; None where one is not trained or on a device of
    its own, which is left to fairseq."""
    masters = optimizer.fp32_params
    masters = list(masters.values()) if isinstance(masters, dict) else masters
    alone = len(masters) == 1 if optimizer.has_flat_params else True
    return masters if alone and all(p.requires_grad for p in optimizer.fp16_params) else None


def _parts(optimizer, masters: list[nn.Parameter], name: str) -> list[torch.Tensor]:
    """The float32 "grad" or "data" of every parameter, of its shape, from those of `_masters`."""
    if not optimizer.has_flat_params:
        return [getattr(master, name) for master in masters]
    vector = getattr(masters[0], name).detach()
    parts = vector.split([p.numel() for p in optimizer.fp16_params])
    return [part.view_as(p) for part, p in zip(parts, optimizer.fp16_params)]


def _copy(pairs) -> None:
    """Copy the second tensor of every pair to the first."""
    if pairs:
        with torch.no_grad():
            torch._foreach_copy_(*map(list, zip(*pairs)))


def multiply_all_gradients_at_once():
    """Multiply gradients in one call where the factor is a tensor of another precision.

    ``optim/fairseq_optimizer.py:116``: of several processes the factor is a float64, a sum over them, and PyTorch
    multiplies a list of float32 by that with a launch for each. A float32 of it gives the same products: PyTorch makes
    one for each launch. Not needed when ``multiply_grads`` hands ``torch._foreach_mul_`` a factor of the gradients' own
    precision.
    """

    def make_wrapper(original):
        def multiply_grads(self, c):
            if torch.is_tensor(c) and c.dtype == torch.float64:
                precisions = {p.grad.dtype for p in self.params if p.grad is not None}
                c = c.float() if precisions == {torch.float32} else c
            return original(self, c)

        return multiply_grads

    wrap(FairseqOptimizer, "multiply_grads", make_wrapper)


def walk_over_modules_once():
    """Tell a model's modules the mode and the number of updates without three slow walks an update.

    ``trainer.py:800`` and ``tasks/fairseq_task.py:528`` call ``model.train()`` in every update, which sets an attribute
    of each of some 450 modules, and ``:529`` asks all of them whether they want to know the number of updates
    (``models/fairseq_model.py:157``), by an exception where they do not; the encoder does it again
    (``models/fairseq_encoder.py:85``). Here a model that is in the mode already is left alone, unless a module of it
    has a ``train`` of its own, and classes are asked. Not needed when an update sets no attribute of a module.
    """

    def mode(original):
        def train(self, mode=True):
            if all(m.training is mode and type(m).train in known for m in modules_of(self)):
                return self
            return original(self, mode)

        known = (nn.Module.train, train)
        return train

    def number(original):
        def set_num_updates(self, num_updates):
            for module in modules_of(self):
                asks = hasattr(type(module), "set_num_updates") or "set_num_updates" in vars(module)
                if asks and module is not self:
                    module.set_num_updates(num_updates)

        return set_num_updates

    wrap(BaseFairseqModel, "train", mode)
    wrap(BaseFairseqModel, "set_num_updates", number)
    wrap(FairseqEncoder, "set_num_updates", number)


def modules_of(module: nn.Module) -> Iterator[nn.Module]:
    """A module and all within it, each once: ``module.modules()`` in another order, in a fifth of the time."""
    seen, left = set(), [module]
    while left:
        current = left.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            yield current
            left.extend(current._modules.values())


def seed_the_devices_that_are_used():
    """Seed every update's random numbers without asking devices that are not there.

    ``trainer.py:1371`` calls ``torch.manual_seed``, which lets every kind of device that is not in use note the seed
    for later, with the text of a traceback: two or three in every update, 1.5 ms. The numbers drawn are the same. Not
    needed when ``torch.manual_seed`` formats no traceback.
    """

    def make_wrapper(original):
        def _set_seed(self):
            if self.device.type not in ("cpu", "cuda"):
                return original(self)
            seed = self.cfg.common.seed + self.get_num_updates()
            torch.default_generator.manual_seed(seed)
            if torch.cuda.is_initialized():
                torch.cuda.manual_seed_all(seed)

        return _set_seed

    wrap(Trainer, "_set_seed", make_wrapper)
