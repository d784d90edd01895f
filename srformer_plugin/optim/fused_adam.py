"""`--optimizer fused_adam`: fairseq's Adam with PyTorch's kernel that updates all parameters at once.

Without apex `--optimizer adam` is a loop over the parameters (``optim/adam.py:169``), with some ten launches for each;
`--clip-norm` takes a norm of each in another loop (``utils.py:383``), and `--bf16` and `--fp16` set every gradient of
the float32 copy to zero in a third (``optim/fp16_optimizer.py:212``). Line numbers: ve-fairseq 0.12.3.
"""

import ast
from collections.abc import Collection

import torch
from fairseq.optim import register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from fairseq.optim.fairseq_optimizer import FairseqOptimizer
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..errors import ConfigurationError

INSTEAD = "use --optimizer adam"


def parse_betas(value):
    """The two decay rates of `--adam-betas` as a tuple of floats, from text or from a configuration's list.

    Raises:
        ConfigurationError: they are not two numbers in [0, 1).
    """
    try:
        betas = tuple(map(float, ast.literal_eval(value) if isinstance(value, str) else value))
        if len(betas) == 2 and all(0 <= beta < 1 for beta in betas):
            return betas
    except (SyntaxError, TypeError, ValueError, OverflowError, MemoryError, RecursionError):
        pass
    raise ConfigurationError(f"--adam-betas {value!r} is not two numbers of at least 0 and below 1; try '(0.9, 0.999)'")


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


@register_optimizer("fused_adam", dataclass=FairseqAdamConfig)
class FusedAdam(FairseqAdam):
    """Adam with decoupled weight decay (AdamW), options and checkpoints as fairseq's `adam`.

    One formula differs: `--adam-eps` is added to ``sqrt(v / (1 - beta2^t))``, as in the paper of Adam, and not to
    ``sqrt(v)`` before that correction, as fairseq does, where it acts like ``eps / sqrt(1 - beta2^t)``: 32 times eps
    in the first update with beta2 = 0.999, 3 times in the 100th, 1.3 times in the 1,000th. With eps = 1e-8 a weight
    whose gradients are about 1e-5 moves 3% further in the first update and 0.2% in the 100th, one with gradients of
    1e-3 by 3e-4 and 2e-5 of its step.

    Gradients are freed by :meth:`step`, so that forward and backward pass have their memory: with `--bf16` and `--fp16`
    4 bytes a parameter.

    A checkpoint can be continued by `adam` and its by this with `--bf16` and `--fp16`. In float32 fairseq compares the
    optimizers' names and asks for `--reset-optimizer`, which begins the schedule anew.

    Args:
        cfg: the options, of type ``FairseqAdamConfig``
        params: iterable of float32 parameters on any devices

    Raises:
        ConfigurationError: an option that cannot work, parameters in half precision, or a device without the kernel.
    """

    def __init__(self, cfg, params):
        FairseqOptimizer.__init__(self, cfg)  # FairseqAdam's own would build another optimizer
        self.check_options(cfg)
        params = list(params)
        check_parameters(params)
        self._optimizer = torch.optim.AdamW(params, fused=True, **self.optimizer_config)
        # FP16Optimizer writes into the gradients of flat parameters (a vector for each device) and sets them to zero
        # without asking whether they are there. Nothing but vectors means those: a model has matrices.
        self._frees_gradients = any(p.dim() != 1 for p in params)

    @staticmethod
    def check_options(cfg):
        """Raise a ConfigurationError for what this one cannot take; fairseq-train begins with it."""
        parse_betas(cfg.adam_betas)
        for flag, value in (("--adam-eps", cfg.adam_eps), ("--weight-decay", cfg.weight_decay)):
            if not value >= 0:
                raise ConfigurationError(f"{flag} {value} is below 0")
        for flag, value in (("--fp16-adam-stats", cfg.fp16_adam_stats), ("--use-old-adam", cfg.use_old_adam)):
            if value:
                raise ConfigurationError(f"{flag} does not go with --optimizer fused_adam: leave it out, or {INSTEAD}")

    @property
    def optimizer_config(self):
        """lr, betas, eps and weight_decay of the options."""
        return {
            "lr": self.cfg.lr[0] if isinstance(self.cfg.lr, Collection) else self.cfg.lr,
            "betas": parse_betas(self.cfg.adam_betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }

    @property
    def supports_flat_params(self):
        """Every number is updated for itself."""
        return True

    def clip_grad_norm(self, max_norm, aggregate_norm_fn=None):
        """Clip the gradients to a norm of `max_norm` in all (0: do not) and return the norm they had, a scalar."""
        with_gradient = [p for p in self.params if p.grad is not None]
        is_special = aggregate_norm_fn is not None or any(hasattr(p, "expert") for p in with_gradient)
        if is_special or not with_gradient:
            return super().clip_grad_norm(max_norm, aggregate_norm_fn)
        norm = get_total_norm([p.grad for p in with_gradient])
        if max_norm > 0:
            clip_grads_with_norm_(with_gradient, max_norm, norm)
        return norm

    def step(self, closure=None, scale=1.0, groups=None):
        """Update the parameters and free their gradients."""
        super().step(closure, scale, groups)
        if self._frees_gradients:
            for p in self.params:
                p.grad = None

    def state_dict(self):
        """The optimizer's state as fairseq's Adam has it: the number of updates is no tensor."""
        state_dict = super().state_dict()
        state = {key: {**value, "step": int(value["step"])} for key, value in state_dict["state"].items()}
        return {**state_dict, "state": state}

    def load_state_dict(self, state_dict, optimizer_overrides=None):
        """Load a state of this optimizer or of fairseq's Adam, which lacks PyTorch's own options such as `fused`.

        The number of updates becomes what PyTorch's kernel takes, a tensor: `--zero-sharding os` hands every process
        its share of the state as it is here.
        """
        groups = [{**self.optimizer.defaults, **group} for group in state_dict["param_groups"]]
        state = {key: {**value, "step": torch.tensor(float(value["step"]))} if value else value
                 for key, value in state_dict["state"].items()}  # fmt: skip
        super().load_state_dict({**state_dict, "param_groups": groups, "state": state}, optimizer_overrides)
