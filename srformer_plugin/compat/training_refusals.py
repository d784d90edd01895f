"""What fairseq-train would stumble over later, or not at all (`refusals.check_command`)."""

import importlib.util
import logging
import os

import torch
from fairseq.optim import OPTIMIZER_REGISTRY
from fairseq.optim.adafactor import FairseqAdafactor

from ..errors import ConfigurationError
from ..number_pairs import BETAS, EPSILONS
from .generation_settings import check_generation, json_object
from .schedule_refusals import check_schedule

logger = logging.getLogger(__name__)

# Metrics of which more is better -> the flag that measures them
MEASURED_BY = {
    **dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), "--eval-rouge"),
    "bleu": "--eval-bleu",
    "accuracy": "--report-accuracy",
}
# Variables of what has started the processes already: torchrun, SLURM
STARTED_BY = ("RANK", "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
# Settings of a model with which an update does not reach all of it
LEAVE_OUT_PARAMETERS = ("encoder_layerdrop", "decoder_layerdrop", "no_cross_attention")
LOSSES = ("loss", "nll_loss", "ppl")
# Options of fairseq's optimizers that are two numbers, whose text it runs (`eval`)
PAIRS = {
    **dict.fromkeys(("adam_betas", "adamax_betas", "lamb_betas"), BETAS),
    "adafactor_eps": EPSILONS,
}


def check_training(cfg) -> None:
    """What fairseq-train would stumble over later, or not at all."""
    _need_batch_size(cfg)
    _check_processes(cfg)
    if not cfg.dataset.disable_validation:
        choose_best_by(cfg)
    name = getattr(cfg.optimizer, "_name", None)
    if name is None:
        raise ConfigurationError("fairseq-train needs --optimizer, such as fused_adam")
    optimizer = OPTIMIZER_REGISTRY.get(name)
    if hasattr(optimizer, "check_training"):
        optimizer.check_training(cfg)
    for name, pair in PAIRS.items():
        if (value := getattr(cfg.optimizer, name, None)) is not None:
            pair.read(f"--{name.replace('_', '-')}", value)
    if (
        optimizer is FairseqAdafactor and cfg.optimizer.relative_step
    ):  # ``optim/adafactor.py:122``: it always has a rate
        raise ConfigurationError("--relative-step needs --optimizer foreach_adafactor: adafactor has the rate of --lr")
    check_schedule(cfg)
    task, nothing = cfg.task, "{}"
    for name in ("rouge", "bleu"):
        text = getattr(task, f"eval_{name}_args", None) or nothing
        if text != nothing and not getattr(task, f"eval_{name}", False):
            raise ConfigurationError(f"--eval-{name}-args {text!r} does nothing without --eval-{name}")
        if getattr(task, f"eval_{name}", False):
            check_generation(text, f"--eval-{name}-args")
            for part in ("bpe", "detok"):
                if given := getattr(task, f"eval_{name}_{part}_args", None):
                    json_object(given, f"--eval-{name}-{part}-args")


def _need_batch_size(cfg) -> None:
    if cfg.dataset.max_tokens is None and cfg.dataset.batch_size is None:
        raise ConfigurationError("the batch size is not set: give --max-tokens or --batch-size")


def _check_processes(cfg) -> None:
    """What several processes cannot do together, or one cannot do alone."""
    settings = cfg.distributed_training
    backend = f"--ddp-backend {settings.ddp_backend}"
    several, on_cpu = settings.distributed_world_size > 1, cfg.common.cpu or not torch.cuda.is_available()
    if on_cpu and settings.ddp_backend == "fully_sharded":
        raise ConfigurationError(f"{backend} cannot run on a CPU: use --ddp-backend legacy_ddp")
    if several:
        _check_start(settings)
        _check_gradients(cfg, settings)
    if settings.ddp_backend == "slowmo" and importlib.util.find_spec("fairscale") is None:
        raise ConfigurationError(f"{backend} needs a package that is missing: pip install fairscale")
    sharded = backend if settings.ddp_backend == "fully_sharded" else "--zero-sharding os"
    if settings.ddp_backend != "fully_sharded" and settings.zero_sharding != "os":
        return
    if not several:
        raise ConfigurationError(f"{sharded} shares a training among processes, and there is one: leave it out")
    if importlib.util.find_spec("fairscale") is None:
        raise ConfigurationError(f"{sharded} needs a package that is missing: pip install fairscale")


def _check_start(settings) -> None:
    """fairseq-train itself starts as many processes as there are GPUs, be it none (``distributed/utils.py:378``)."""
    started = settings.distributed_no_spawn or any(name in os.environ for name in STARTED_BY)
    if torch.cuda.device_count() == 0 and not started:
        count = settings.distributed_world_size
        raise ConfigurationError(
            f"--distributed-world-size {count}: fairseq-train starts a process for a GPU, and there is none; leave it "
            f"out, and start with torchrun --nproc-per-node {count} -m srformer_plugin.tools.distributed_train"
        )


def _check_gradients(cfg, settings) -> None:
    """PyTorch's own data parallelism waits for the gradients of all parameters: its second update would end it."""
    if settings.ddp_backend not in ("pytorch_ddp", "c10d") or settings.find_unused_parameters:
        return
    for name in LEAVE_OUT_PARAMETERS:
        if (getattr(cfg.model, name, None) or 0) > 0:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigurationError(
                f"--ddp-backend {settings.ddp_backend} with {flag}, which leaves parameters without a gradient: use "
                "--ddp-backend legacy_ddp, or add --find-unused-parameters"
            )


def choose_best_by(cfg) -> None:
    """Check ``--best-checkpoint-metric``, and turn it the right way round.

    fairseq fails with KeyError at the first validation where nothing measures it (``fairseq_cli/train.py:508``), and
    keeps the worst checkpoint as the best where ``--maximize-best-checkpoint-metric`` does not fit it.
    """
    metric = cfg.checkpoint.best_checkpoint_metric
    flag = f"--best-checkpoint-metric {metric}"
    measured = {
        "--eval-rouge": getattr(cfg.task, "eval_rouge", False),
        "--eval-bleu": getattr(cfg.task, "eval_bleu", False),
        "--report-accuracy": getattr(cfg.criterion, "report_accuracy", False),
    }
    if metric in MEASURED_BY:
        if not measured[MEASURED_BY[metric]]:
            raise ConfigurationError(f"{flag} is not measured: add {MEASURED_BY[metric]}")
        if not cfg.checkpoint.maximize_best_checkpoint_metric:
            logger.warning(f"{flag}: more is better, so it is taken with --maximize-best-checkpoint-metric")
            cfg.checkpoint.maximize_best_checkpoint_metric = True
            if hasattr(cfg.lr_scheduler, "maximize_best_checkpoint_metric"):  # a copy
                cfg.lr_scheduler.maximize_best_checkpoint_metric = True
        return
    if metric in LOSSES and cfg.checkpoint.maximize_best_checkpoint_metric:
        raise ConfigurationError(
            f"{flag} with --maximize-best-checkpoint-metric keeps the worst checkpoint: less is better"
        )
    known = _logged_by(cfg)
    if known is not None and metric not in known:
        names = [*known, *(name for name, by in MEASURED_BY.items() if measured[by])]
        raise ConfigurationError(f"{flag} is not measured: choose one of {', '.join(names)}")


def _logged_by(cfg) -> "list[str] | None":
    """What the criterion logs, where that is known."""
    if getattr(cfg.task, "_name", None) not in ("translation", "summarization"):
        return None
    criterion = getattr(cfg.criterion, "_name", None)
    smoothed = criterion in ("label_smoothed_cross_entropy", "fused_label_smoothed_cross_entropy")
    if smoothed or (criterion == "cross_entropy" and cfg.criterion.sentence_avg):
        return list(LOSSES)
    return ["loss", "ppl"] if criterion == "cross_entropy" else None
