"""`--optimizer fused_adam`: fairseq's Adam with PyTorch's kernel that updates all parameters at once.

Without apex `--optimizer adam` is a loop over the parameters (``optim/adam.py:169``), with some ten launches for each.
Line numbers: ve-fairseq 0.12.3.
"""

import functools
import logging
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.optim import register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from fairseq.optim.fairseq_optimizer import FairseqOptimizer

from ..errors import ConfigurationError
from ..number_pairs import BETAS
from .all_gradients import AllGradients
from .memory_parameters import ParameterGroups, is_of_memory

logger = logging.getLogger(__name__)

INSTEAD = "use --optimizer adam"
LEAVE_OUT = "leave --memory-lr-scale out"
LARGEST_SCALE = 10_000  # beyond it a memory is destroyed within a few updates, whatever --lr is of use


@dataclass
class FusedAdamConfig(FairseqAdamConfig):
    """fairseq's options of Adam, and the rate of a memory's own parameters."""

    memory_lr_scale: float = field(
        default=1.0,
        metadata={
            "help": "learning rate of the memory's own parameters (of --cross-attention srformer: projection, leak, "
            "threshold and gate) in multiples of --lr with its schedule; 0: they stay as they are. For short "
            "trainings: an update of Adam moves a parameter by about its rate at most, and 600 at rates up to 2e-4 a "
            "threshold or a gate by some 0.06; 50 is where to begin"
        },
    )


def check_parameters(params):
    """Refuse parameters that the kernel would train badly or not at all, by a step of one number on their devices."""
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in params):
        raise ConfigurationError(
            "--optimizer fused_adam keeps its averages in the weights' precision, which would be half of float32's"
            f" here: {INSTEAD}, or --fp16 or --bf16 in place of --memory-efficient-fp16 or --memory-efficient-bf16"
        )
    for device in {p.device for p in params}:
        number = torch.zeros(1, device=device)
        number.grad = torch.zeros_like(number)
        try:
            torch.optim.AdamW([number], fused=True).step()
        except RuntimeError as error:  # and NotImplementedError, one of its kind: a device without the kernel
            raise ConfigurationError(
                f"--optimizer fused_adam: PyTorch {torch.__version__} has no kernel for it on {device}: {INSTEAD}"
            ) from error


def check_memory(cfg):
    """Raise a ConfigurationError where `--memory-lr-scale` finds no memory to scale, by a training's configuration.

    A model with one has `has_memory_parameters(args)` (`models.segmented_model.SegmentedModel`).
    """
    given = f"--memory-lr-scale {cfg.optimizer.memory_lr_scale:g}"
    has_parameters = getattr(ARCH_MODEL_REGISTRY.get(cfg.model._name), "has_memory_parameters", None)
    if has_parameters is None:
        raise ConfigurationError(f"{given}: --arch {cfg.model._name} has no memory: {LEAVE_OUT}")
    if not has_parameters(cfg.model):
        named = f"--cross-attention {cfg.model.cross_attention}"
        raise ConfigurationError(f"{given}: {named} has no parameters of a memory: {LEAVE_OUT}")
    flat = "makes one vector of all parameters, in which none is the memory's"
    if cfg.distributed_training.ddp_backend == "fully_sharded":
        raise ConfigurationError(f"{given}: --ddp-backend fully_sharded {flat}: use --ddp-backend pytorch_ddp")
    # without CUDA fairseq cannot flatten, and does not (`compat.half_precision`)
    if cfg.common.fp16 and not cfg.common.fp16_no_flatten_grads and torch.cuda.is_available():
        raise ConfigurationError(f"{given}: --fp16 {flat}: add --fp16-no-flatten-grads, or use --bf16")


@functools.cache
def log_scale(numbers: int, scale: float) -> None:
    """Log which rate a memory's `numbers` parameters have, once: a trainer that goes on builds its optimizer twice."""
    logger.info("the memory's %s parameters learn at %g times --lr", f"{numbers:,}", scale)


@register_optimizer("fused_adam", dataclass=FusedAdamConfig)
class FusedAdam(AllGradients, FairseqAdam):
    """Adam with decoupled weight decay (AdamW), options and checkpoints as fairseq's `adam`.

    One formula differs: `--adam-eps` is added to ``sqrt(v / (1 - beta2^t))``, as in the paper of Adam, and not to
    ``sqrt(v)`` before that correction, as fairseq does, where it acts like ``eps / sqrt(1 - beta2^t)``: 32 times eps
    in the first update with beta2 = 0.999, 3 times in the 100th, 1.3 times in the 1,000th. With eps = 1e-8 a weight
    whose gradients are about 1e-5 moves 3% further in the first update and 0.2% in the 100th, one with gradients of
    1e-3 by 3e-4 and 2e-5 of its step.

    Gradients are freed by :meth:`step` (`AllGradients`).

    A checkpoint can be continued by `adam` and its by this with `--bf16` and `--fp16`. In float32 fairseq compares the
    optimizers' names and asks for `--reset-optimizer`, which begins the schedule anew.

    With `--memory-lr-scale X` the parameters that `memory_parameters.mark_memory` has marked have X times the others'
    rate, and with it X times their weight decay. `get_lr`, the log and checkpoints have the others' rate; a norm is
    that of all parameters.

    Args:
        cfg: the options, of type ``FusedAdamConfig``
        params: iterable of float32 parameters on any devices, in the model's order

    Raises:
        ConfigurationError: an option that cannot work, parameters in half precision, a device without the kernel, or
            `--memory-lr-scale` where no parameter is a memory's.
    """

    def __init__(self, cfg, params):
        FairseqOptimizer.__init__(self, cfg)  # FairseqAdam's own would build another optimizer
        self.check_options(cfg)
        params = list(params)
        check_parameters(params)
        is_scaled = cfg.memory_lr_scale != 1
        if is_scaled and not any(map(is_of_memory, params)):
            raise ConfigurationError(
                f"--memory-lr-scale {cfg.memory_lr_scale:g}: none of the parameters is a memory's: {LEAVE_OUT}; flat "
                "ones know nothing of it: add --fp16-no-flatten-grads, or use --bf16"
            )
        if is_scaled:
            log_scale(sum(p.numel() for p in params if is_of_memory(p)), cfg.memory_lr_scale)
        self._groups = ParameterGroups(params, split=is_scaled)
        self._optimizer = torch.optim.AdamW(self._groups.groups, fused=True, **self.optimizer_config)
        self.set_lr(self.get_lr())

    @staticmethod
    def check_training(cfg):
        """Raise a ConfigurationError for a training's configuration that cannot work; fairseq-train begins with it."""
        FusedAdam.check_options(cfg.optimizer)
        if cfg.optimizer.memory_lr_scale != 1:
            check_memory(cfg)

    @staticmethod
    def check_options(cfg):
        """Raise a ConfigurationError for what this one cannot take among its own options."""
        BETAS.read("--adam-betas", cfg.adam_betas)
        for flag, value in (("--adam-eps", cfg.adam_eps), ("--weight-decay", cfg.weight_decay)):
            if not value >= 0:
                raise ConfigurationError(f"{flag} {value} is below 0")
        if not 0 <= cfg.memory_lr_scale <= LARGEST_SCALE:
            raise ConfigurationError(
                f"--memory-lr-scale {cfg.memory_lr_scale} must be from 0 to {LARGEST_SCALE:,}; 1 is the others' rate"
            )
        for flag, value in (("--fp16-adam-stats", cfg.fp16_adam_stats), ("--use-old-adam", cfg.use_old_adam)):
            if value:
                raise ConfigurationError(f"{flag} does not go with --optimizer fused_adam: leave it out, or {INSTEAD}")

    @property
    def optimizer_config(self):
        """lr, betas, eps and weight_decay of the options."""
        return {
            "lr": self.cfg.lr[0] if isinstance(self.cfg.lr, Collection) else self.cfg.lr,
            "betas": BETAS.read("--adam-betas", self.cfg.adam_betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }

    @property
    def supports_flat_params(self):
        """Every number is updated for itself."""
        return True

    @property
    def params(self):
        """The parameters in the model's order, by which fairseq names them and a norm is summed."""
        return iter(self._groups.params)

    def set_lr(self, lr):
        """Set the learning rate, and the memory's to its multiple."""
        super().set_lr(lr)
        for group in self.param_groups[1:]:
            group["lr"] = lr * self.cfg.memory_lr_scale

    def skip_next_step_if(self, flag):
        """Let the next :meth:`step` change nothing, averages and number of updates included, where `flag` is true.

        The host need not know it: PyTorch's kernel asks.

        Args:
            flag: tensor of bool, [], on any device

        Returns:
            Whether this can be: `--zero-sharding os` has another optimizer do the step.
        """
        if type(self.optimizer) is not torch.optim.AdamW:
            return False
        self.optimizer.found_inf = flag.float()  # so PyTorch names it, after what it is for
        return True

    def step(self, closure=None, scale=1.0, groups=None):
        """Update the parameters and free their gradients."""
        super().step(closure, scale, groups)
        vars(self.optimizer).pop("found_inf", None)

    def state_dict(self):
        """The optimizer's state as fairseq's Adam has it: the number of updates is no tensor."""
        state_dict = self._groups.as_one(super().state_dict())
        state = {key: {**value, "step": int(value["step"])} for key, value in state_dict["state"].items()}
        return {**state_dict, "state": state}

    def load_state_dict(self, state_dict, optimizer_overrides=None):
        """Load a state of this optimizer, whatever its `--memory-lr-scale` was, or of fairseq's Adam.

        The latter lacks PyTorch's own options such as `fused`.

        The number of updates becomes what PyTorch's kernel takes, a tensor: `--zero-sharding os` hands every process
        its share of the state as it is here.
        """
        state_dict = self._groups.as_these(state_dict)
        groups = [{**self.optimizer.defaults, **group} for group in state_dict["param_groups"]]
        state = {key: {**value, "step": torch.tensor(float(value["step"]))} if value else value
                 for key, value in state_dict["state"].items()}  # fmt: skip
        super().load_state_dict({**state_dict, "param_groups": groups, "state": state}, optimizer_overrides)
        self.set_lr(self.get_lr())  # a state has one rate
