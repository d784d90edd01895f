"""A training that is started again, after its end or after a kill."""

import argparse
import contextlib
import contextvars
import logging
import os
import pickle
import types
import zipfile
from pathlib import Path

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from fairseq.optim.lr_scheduler import LR_SCHEDULER_REGISTRY
from fairseq.optim.lr_scheduler.fairseq_lr_scheduler import FairseqLRScheduler
from fairseq.trainer import Trainer

from ..errors import ConfigurationError, DamagedCheckpointError
from .checkpoints import check_whole
from .patching import wrap

logger = logging.getLogger(__name__)


def _reason_to_stop(trainer, extra_state) -> "str | None":
    """What fairseq's ``validate_and_save`` would stop for, of a loaded checkpoint; None: nothing."""
    settings = trainer.cfg.optimization
    updates, hours = trainer.get_num_updates(), extra_state.get("previous_training_time", 0) / 3600
    if settings.max_update and updates >= settings.max_update:
        return f"num_updates: {updates} >= max_update: {settings.max_update}"
    if settings.stop_time_hours > 0 and hours > settings.stop_time_hours:
        return f"cumulative_training_time: {hours} > stop_time_hours: {settings.stop_time_hours} hour(s)"
    return None


def stop_where_a_training_ended():
    """Make no update in a training that had reached ``--max-update`` or ``--stop-time-hours`` when it was saved.

    ``fairseq_cli/train.py:321`` asks whether to stop only after a step: every new start makes one update more, and
    saves it. What follows the loaded checkpoint is a loop over epochs (``:199``), so an iterator that has no next one
    ends it. Not needed when ``fairseq-train --max-update 2``, started twice, ends at 2 updates.
    """

    def make_wrapper(original):
        def load_checkpoint(cfg, trainer, **passthrough_args):
            extra_state, epoch_itr = original(cfg, trainer, **passthrough_args)
            # from another file, a training has not begun in this folder, and must leave a checkpoint there
            continued = cfg.restore_file == "checkpoint_last.pt" and extra_state is not None
            reason = _reason_to_stop(trainer, extra_state) if continued else None
            if reason is not None:
                logger.info(f"Stopping training due to {reason}")
                # not a number: no --max-epoch, given or infinite, is as much
                epoch_itr = types.SimpleNamespace(next_epoch_idx=float("nan"))
            return extra_state, epoch_itr

        return load_checkpoint

    wrap(checkpoint_utils, "load_checkpoint", make_wrapper)


def refuse_a_missing_checkpoint():
    """Name the file of ``--restore-file`` or ``--continue-once`` that is not there, or is a folder.

    ``trainer.py:552`` logs "No existing checkpoint found" and the training begins from random weights, with a folder in
    ``--finetune-from-model`` too. The default, checkpoint_last.pt of --save-dir, may be missing. Not needed when
    fairseq ends where a file that was asked for is missing, or none.
    """

    def make_wrapper(original):
        def load_checkpoint(cfg, trainer, **passthrough_args):
            suffix = trainer.checkpoint_suffix
            last = os.path.join(cfg.save_dir, f"checkpoint_last{suffix}.pt")
            if cfg.restore_file != "checkpoint_last.pt":
                flag, file = "--restore-file", cfg.restore_file
            elif not PathManager.exists(last):  # --continue-once is for the first start alone
                flag, file = "--continue-once", getattr(cfg, "continue_once", None)
                if file is None:
                    flag, file = "--finetune-from-model", cfg.finetune_from_model
            else:
                flag, file = None, None
            if file and os.path.isdir(file):
                raise ConfigurationError(f"{flag} {file} is a folder: name a checkpoint, such as one of its .pt files")
            if file and not PathManager.exists(file) and not PathManager.exists(file.replace(".pt", f"{suffix}.pt")):
                raise ConfigurationError(
                    f"{flag} {file}: there is no such file; leave the flag out to begin with random weights, or go on "
                    "from checkpoint_last.pt of --save-dir"
                )
            return original(cfg, trainer, **passthrough_args)

        return load_checkpoint

    wrap(checkpoint_utils, "load_checkpoint", make_wrapper)


def name_what_to_go_on_from():
    """Say what to do about a checkpoint_last.pt that is damaged, before a training goes on from it.

    ``trainer.py:552`` takes a folder of that name for no checkpoint: a training begins from random weights, whatever
    ``--finetune-from-model`` says, and ends where it is to save the first one. Not needed when that is an error, and
    the others say what may be done.
    """

    def make_wrapper(original):
        def load_checkpoint(cfg, trainer, **passthrough_args):
            last = os.path.join(cfg.save_dir, f"checkpoint_last{trainer.checkpoint_suffix}.pt")
            if cfg.restore_file != "checkpoint_last.pt" or not PathManager.exists(last):
                return original(cfg, trainer, **passthrough_args)
            try:
                if os.path.isdir(last):
                    check_whole(last)  # an error; of a file `load_checkpoint_to_cpu` asks
                return original(cfg, trainer, **passthrough_args)
            except DamagedCheckpointError as error:
                raise ConfigurationError(f"{error}; {_how_to_go_on(last)}") from error

        return load_checkpoint

    wrap(checkpoint_utils, "load_checkpoint", make_wrapper)


def _how_to_go_on(damaged: str) -> str:
    """What to do where a training cannot go on from a file: the newest whole checkpoint beside it is named."""
    folder = Path(damaged).parent
    others = [path for path in folder.glob("checkpoint*.pt") if path.name != Path(damaged).name and path.is_file()]
    for other in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(DamagedCheckpointError, OSError):
            check_whole(other)
            if zipfile.is_zipfile(other):
                return f"put {other.name}, which is whole, in its place to go on from there, or remove it to begin anew"
    return "there is no whole checkpoint beside it: remove it to begin anew"


def show_models_what_is_resumed():
    """Let a model refuse to resume a training that had other settings.

    ``trainer.py:585`` takes every checkpoint whose weights have the right names and shapes; settings that change what
    they compute change without a word. A model with ``check_resumed(stored)`` is asked, ``stored`` being its options in
    the checkpoint; not where the optimizer begins anew (--finetune-from-model, --reset-optimizer). Not needed when
    fairseq compares them.
    """

    def make_wrapper(original):
        def load_checkpoint(self, filename, reset_optimizer=False, *args, **kwargs):
            check = getattr(self._model, "check_resumed", None)
            if check is not None and not reset_optimizer and os.path.isfile(filename):
                stored = _stored_options(filename)
                if stored is not None:
                    check(stored)
            return original(self, filename, reset_optimizer, *args, **kwargs)

        return load_checkpoint

    wrap(Trainer, "load_checkpoint", make_wrapper)


def begin_averages_where_a_checkpoint_has_none():
    """Let ``--store-ema`` begin with the weights of a checkpoint that was trained without it.

    ``trainer.py:666`` says so and asks for the weights that ``:590`` has thrown away: "KeyError: 'model'", with
    ``--finetune-from-model`` too. Not needed when a training that began without averages goes on with them.
    """

    def wanted(original):
        def load_checkpoint(self, *args, **kwargs):
            token = _WANTS_AVERAGES.set(self.cfg.ema.store_ema)
            try:
                return original(self, *args, **kwargs)
            finally:
                _WANTS_AVERAGES.reset(token)

        return load_checkpoint

    def read(original):
        def load_checkpoint_to_cpu(*args, **kwargs):
            state = original(*args, **kwargs)
            if _WANTS_AVERAGES.get() and "ema" not in (state.get("extra_state") or {"ema": None}):
                state["extra_state"] = {**state["extra_state"], "ema": state["model"]}
            return state

        return load_checkpoint_to_cpu

    wrap(Trainer, "load_checkpoint", wanted)
    wrap(checkpoint_utils, "load_checkpoint_to_cpu", read)


_WANTS_AVERAGES = contextvars.ContextVar("averages of weights are wanted of the checkpoint that is read", default=False)


def name_another_schedule_of_the_rate():
    """Say that a training is resumed with another ``--lr-scheduler`` where its state does not fit.

    ``optim/lr_scheduler/fairseq_lr_scheduler.py:34``: "KeyError: 'best'". Not needed when fairseq names the flag, as it
    does for another optimizer.
    """

    def make_wrapper(original):
        def load_state_dict(self, state_dict):
            try:
                return original(self, state_dict)
            except KeyError as error:
                raise ConfigurationError(
                    "the checkpoint was trained with another --lr-scheduler: go on with that one, or begin this run's "
                    "anew with --reset-lr-scheduler"
                ) from error

        return load_state_dict

    for kind in (FairseqLRScheduler, *LR_SCHEDULER_REGISTRY.values()):
        if "load_state_dict" in vars(kind):
            wrap(kind, "load_state_dict", make_wrapper)


def _stored_options(filename) -> "argparse.Namespace | None":
    """The model's options in a checkpoint, without its weights; None where they cannot be had so."""
    try:
        content = torch.load(filename, map_location="cpu", mmap=True)
        stored = content["cfg"]["model"]
    except (OSError, RuntimeError, LookupError, TypeError, EOFError, pickle.UnpicklingError):
        return None  # whoever reads the whole file will say so
    return stored if isinstance(stored, argparse.Namespace) else None
