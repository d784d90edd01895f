"""Schedules of the learning rate that cannot work, refused before the data are read."""

import ast
import math

from ..errors import ConfigurationError

EXAMPLE = "{'1,2': 1e-3, '3-10': 1e-4}"


def check_schedule(cfg) -> None:
    """Check the settings of ``--lr-scheduler`` in the configuration of a training.

    Raises:
        ConfigurationError: fairseq would divide by 0 or stumble over them behind the data and the model.
    """
    schedule, optimizer = (getattr(part, "_name", None) for part in (cfg.lr_scheduler, cfg.optimizer))
    if schedule == "pass_through" and optimizer != "composite":
        raise ConfigurationError(
            f"--lr-scheduler pass_through leaves the rate to --optimizer composite, and there is {optimizer}: choose "
            "another, such as polynomial_decay"
        )
    check = CHECKS.get(schedule)
    if check is not None:
        check(cfg.lr_scheduler, cfg.optimization)


def _at_least(settings, name: str, least: int, instead: str = "") -> None:
    value = getattr(settings, name)
    if not least <= value < math.inf:
        flag = f"--{name.replace('_', '-')}"
        scheduler = f"--lr-scheduler {settings._name}"
        raise ConfigurationError(f"{flag} {value:g} with {scheduler}: it must be at least {least}{instead}")


def _check_inverse_sqrt(settings, training) -> None:
    _at_least(settings, "warmup_updates", 1, "; 1 is none")


def _check_step(settings, training) -> None:
    _at_least(settings, "lr_deacy_period", 1)  # so fairseq spells it


def _check_triangular(settings, training) -> None:
    _at_least(settings, "lr_period_updates", 2)
    if not settings.max_lr > training.lr[0]:
        raise ConfigurationError(f"--max-lr {settings.max_lr:g} must be above --lr {training.lr[0]:g}")


def _check_cosine(settings, training) -> None:
    if settings.lr_period_updates <= 0 and 0 < training.max_update <= settings.warmup_updates:
        raise ConfigurationError(
            f"--warmup-updates {settings.warmup_updates} with --max-update {training.max_update} leaves no update for "
            "the cosine: give fewer, or --lr-period-updates"
        )


def _check_tri_stage(settings, training) -> None:
    if not settings.final_lr_scale > 0:
        raise ConfigurationError(f"--final-lr-scale {settings.final_lr_scale:g} must be above 0")
    ratio, decay = settings.phase_ratio, settings.decay_steps
    if ratio is not None:
        if len(ratio) != 3 or sum(ratio) != 1:
            raise ConfigurationError(
                f"--phase-ratio {tuple(ratio)} must be three numbers whose sum is 1 as Python adds them, such as "
                "(0.1, 0.4, 0.5)"
            )
        decay = int(training.max_update * ratio[2])
    if decay < 1:
        raise ConfigurationError(
            "--lr-scheduler tri_stage has no update in which the rate falls: give --decay-steps, or --phase-ratio with "
            "--max-update"
        )


def _check_manual(settings, training) -> None:
    for name in ("epoch2lr", "update2lr"):
        text = getattr(settings, name)
        try:
            rates = ast.literal_eval(text)
            for key, rate in rates.items():
                [int(number) for part in key.split(",") for number in part.split("-")]
                float(rate)
        except (SyntaxError, ValueError, TypeError, AttributeError) as error:
            raise ConfigurationError(f'--{name} {text!r} is no dictionary of rates: try "{EXAMPLE}"') from error


CHECKS = {
    "inverse_sqrt": _check_inverse_sqrt,
    "step": _check_step,
    "triangular": _check_triangular,
    "cosine": _check_cosine,
    "tri_stage": _check_tri_stage,
    "manual": _check_manual,
}
