"""`--optimizer foreach_adafactor`: fairseq's Adafactor for all parameters of one shape at once.

Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", ICML 2018, algorithms 4 and 5: what
T5 was trained with. fairseq's is a loop over the parameters (``optim/adafactor.py:207``, ve-fairseq 0.12.3) with some
25 launches for each, and with `--scale-parameter` a wait for the device. PyTorch's own (`torch.optim.Adafactor`) knows
no rate that is not scaled, and none above 1 / sqrt(updates).
"""

import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from torch import Tensor, nn

from ..errors import ConfigurationError
from ..number_pairs import EPSILONS
from .all_gradients import AllGradients

INSTEAD = "use --optimizer adafactor"
# How many numbers are stacked at a time. It bounds the memory of a step (128 MiB in float32 for each of what it keeps);
# a processor, for which a launch is cheap, has them in its cache.
LARGEST_STACK = {"cuda": 2**25, "cpu": 2**20}


@dataclass
class ForeachAdafactorConfig(FairseqDataclass):
    """The options of fairseq's Adafactor."""

    adafactor_eps: Any = field(
        default="(1e-30, 1e-3)",
        metadata={"help": "added to the squared gradients, and the smallest size of a parameter that scales its rate"},
    )
    clip_threshold: float = field(
        default=1.0, metadata={"help": "largest root mean square of a parameter's update, before its rate"}
    )
    decay_rate: float = field(
        default=-0.8, metadata={"help": "averages of squared gradients decay by 1 - updates ** decay-rate"}
    )
    beta1: Optional[float] = field(  # noqa: UP045 (fairseq's parser knows this form)
        default=None,
        metadata={"help": "decay of an average of the updates; left out: there is none, and no memory for it"},
    )
    weight_decay: float = field(default=0.0, metadata={"help": "weight decay", "argparse_alias": "--wd"})
    scale_parameter: bool = field(
        default=False, metadata={"help": "multiply the rate by the root mean square of each parameter"}
    )
    relative_step: bool = field(
        default=False,
        metadata={"help": "the rate is 1 / sqrt(updates), at most 0.01, in the place of --lr and its schedule"},
    )
    warmup_init: bool = field(
        default=False, metadata={"help": "with --relative-step: at most 1e-6 times the updates in the place of 0.01"}
    )
    lr: list[float] = II("optimization.lr")


@register_optimizer("foreach_adafactor", dataclass=ForeachAdafactorConfig)
class FairseqForeachAdafactor(AllGradients, FairseqOptimizer):
    """Adafactor, options and checkpoints as fairseq's `adafactor`; gradients are freed by :meth:`step`.

    A checkpoint can be continued by `adafactor` and its by this with `--bf16` and `--fp16`. In float32 fairseq compares
    the optimizers' names and asks for `--reset-optimizer`, which begins the schedule anew.

    Args:
        cfg: the options, of type ``ForeachAdafactorConfig``
        params: iterable of parameters on any devices

    Raises:
        ConfigurationError: an option that cannot work.
    """

    def __init__(self, cfg, params):
        super().__init__(cfg)
        self.check_options(cfg)
        self._optimizer = ForeachAdafactor(params, **self.optimizer_config)

    @staticmethod
    def check_training(cfg):
        """Raise a ConfigurationError for a training's configuration that cannot work; fairseq-train begins with it."""
        FairseqForeachAdafactor.check_options(cfg.optimizer)

    @staticmethod
    def check_options(cfg):
        """Raise a ConfigurationError for what this one cannot take among its own options."""
        EPSILONS.read("--adafactor-eps", cfg.adafactor_eps)
        if not cfg.clip_threshold > 0:
            raise ConfigurationError(f"--clip-threshold {cfg.clip_threshold} must be above 0")
        if not cfg.decay_rate < 0:
            raise ConfigurationError(f"--decay-rate {cfg.decay_rate} must be below 0: try -0.8")
        if cfg.beta1 is not None and not 0 <= cfg.beta1 < 1:
            raise ConfigurationError(f"--beta1 {cfg.beta1} must be at least 0 and below 1, or left out")
        if not cfg.weight_decay >= 0:
            raise ConfigurationError(f"--weight-decay {cfg.weight_decay} is below 0")
        if cfg.warmup_init and not cfg.relative_step:
            raise ConfigurationError("--warmup-init does nothing without --relative-step")

    @property
    def optimizer_config(self):
        """The options of `ForeachAdafactor`, which a checkpoint's give way to."""
        cfg = self.cfg
        return {
            "lr": cfg.lr[0] if isinstance(cfg.lr, Collection) else cfg.lr,
            "eps": EPSILONS.read("--adafactor-eps", cfg.adafactor_eps),
            **{
                name: getattr(cfg, name)
                for name in (
                    "clip_threshold", "decay_rate", "beta1", "weight_decay", "scale_parameter", "relative_step",
                    "warmup_init",
                )
            },
        }  # fmt: skip


class ForeachAdafactor(torch.optim.Optimizer):
    """Adafactor of stacked parameters: one launch computes what is asked of all that have a shape.

    Averages of squared gradients are kept as their means over rows and over columns of what has two dimensions or more
    (the last two). Everything is computed in float32, or float64 where gradients are; parameters in half precision are
    rounded once, behind the update.

    Args:
        params: parameters, or groups of them.
        lr: the rate, to be set before every step; not used with `relative_step`.
        eps: `(added to squared gradients, smallest root mean square of a parameter that scales its rate)`.
        clip_threshold, decay_rate, beta1, weight_decay, scale_parameter, relative_step, warmup_init: as the options
            of `ForeachAdafactorConfig`.
    """

    def __init__(
        self,
        params,
        lr,
        eps,
        clip_threshold,
        decay_rate,
        beta1,
        weight_decay,
        scale_parameter,
        relative_step,
        warmup_init,
    ):
        super().__init__(
            params,
            {
                "lr": lr, "eps": eps, "clip_threshold": clip_threshold, "decay_rate": decay_rate, "beta1": beta1,
                "weight_decay": weight_decay, "scale_parameter": scale_parameter, "relative_step": relative_step,
                "warmup_init": warmup_init,
            },
        )  # fmt: skip

    @property
    def supports_memory_efficient_fp16(self):
        """Averages are in float32 whatever the parameters are (fairseq asks)."""
        return True

    @property
    def supports_flat_params(self):
        """The rows and columns of each matrix are looked at (fairseq asks)."""
        return False

    @torch.no_grad()
    def step(self, closure=None):
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for params in self._stacks(group["params"]):
                self._update(group, params)
        return loss

    def _stacks(self, params):
        """Lists of parameters with a gradient that can be updated together."""
        alike = defaultdict(list)
        for p in params:
            if p.grad is not None:
                kind = p.shape, p.device, p.dtype, p.grad.dtype, self.state[p].get("step", 0)
                alike[kind].append(p)
        for (shape, device, *_), found in alike.items():
            count = max(1, LARGEST_STACK.get(device.type, LARGEST_STACK["cuda"]) // max(1, shape.numel()))
            yield from (found[begin : begin + count] for begin in range(0, len(found), count))

    def _update(self, group, params: list[nn.Parameter]):
        """Update parameters that have one shape, one device, one dtype and one number of updates."""
        states = [self.state[p] for p in params]
        updates = states[0].get("step", 0) + 1
        for state in states:
            state["step"] = updates
        gradient = torch.stack([p.grad for p in params])
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        update = self._normalised(group, states, gradient, beta2=1 - updates ** group["decay_rate"])
        update.div_((_rms(update) / group["clip_threshold"]).clamp_(min=1))

        is_wide = params[0].dtype == update.dtype
        values = (
            None if is_wide and not (group["scale_parameter"] or group["weight_decay"]) else torch.stack(list(params))
        )
        values = values if values is None else values.to(update.dtype)
        rate = _rate(group, updates)
        if group["scale_parameter"]:
            rate = _rms(values).clamp_(min=group["eps"][1]).mul_(rate)
        update.mul_(rate)
        if (beta1 := group["beta1"]) is not None:
            update = _average(states, "exp_avg", update, beta1).clone()
        if group["weight_decay"]:
            update.add_(values * rate, alpha=group["weight_decay"])
        if is_wide:
            torch._foreach_sub_(params, update.unbind())
        else:
            torch._foreach_copy_(params, (values - update).unbind())

    @staticmethod
    def _normalised(group, states, gradient, beta2):
        """The gradients (n, ...) by the root of their averaged squares."""
        square = gradient.square().add_(group["eps"][0])
        if gradient.dim() < 3:  # numbers and vectors
            return _average(states, "exp_avg_sq", square, beta2).rsqrt().mul_(gradient)
        row = _average(states, "exp_avg_sq_row", square.mean(dim=-1), beta2)
        column = _average(states, "exp_avg_sq_col", square.mean(dim=-2), beta2)
        row = (row / row.mean(dim=-1, keepdim=True)).rsqrt_()
        return (row.unsqueeze(-1) * column.rsqrt().unsqueeze(-2)).mul_(gradient)


def _rms(x: Tensor) -> Tensor:
    """The root mean squares of n tensors (n, ...), in as many dimensions: (n, 1, ...)."""
    norms = torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1)
    return norms.div_(math.sqrt(max(1, x[0].numel()))).view(-1, *[1] * (x.dim() - 1))


def _rate(group, updates: int) -> float:
    """The rate before it is scaled by a parameter's size."""
    if not group["relative_step"]:
        return group["lr"]
    return min(1e-6 * updates if group["warmup_init"] else 1e-2, updates**-0.5)


def _average(states: list[dict], name: str, new: Tensor, beta: float) -> Tensor:
    """Go on with the averages that are kept as `name`, which begin at 0; `new` (n, ...) is what comes in."""
    if name in states[0]:
        kept = torch.stack([state[name] for state in states]).to(new.dtype)
        average = kept.mul_(beta).add_(new, alpha=1 - beta)
    else:
        average = new * (1 - beta)
    for state, its in zip(states, average.unbind()):
        state[name] = its
    return average
