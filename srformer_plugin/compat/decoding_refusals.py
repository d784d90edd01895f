"""What fairseq-generate and fairseq-interactive would stumble over (`refusals.check_command`)."""

import logging
import os

from fairseq import utils

from ..errors import ConfigurationError
from .generation_settings import check_generation

logger = logging.getLogger(__name__)


def check_decoding(cfg, command) -> None:
    """What fairseq-generate and fairseq-interactive would stumble over."""
    settings = cfg.generation
    _check_shards(cfg)
    half = cfg.common.fp16 and not cfg.common.cpu
    check_generation({name: getattr(settings, name) for name in settings}, None, half=half)
    if settings.sampling and settings.nbest != settings.beam:
        raise ConfigurationError(
            f"--sampling with --nbest {settings.nbest} and --beam {settings.beam}: the two must be equal"
        )
    if settings.nbest > settings.beam:
        logger.warning(f"--nbest {settings.nbest}: there are as many hypotheses as --beam {settings.beam} says")
    if settings.constraints and command == "generate":
        raise ConfigurationError(
            "--constraints in fairseq-generate: it has none to give; fairseq-interactive reads them behind a tab"
        )
    for name in ("print_step", "retain_iter_history"):
        if getattr(settings, name):
            flag = "--" + name.replace("_", "-")
            raise ConfigurationError(
                f"{flag} is for models that refine their output, which this one does not: leave it out"
            )
    if settings.lm_path is not None and (command == "interactive" or settings.score_reference):
        beside = "in fairseq-interactive" if command == "interactive" else "with --score-reference"
        raise ConfigurationError(f"--lm-path {beside}: it is not asked there; leave it out")
    if settings.lm_path is not None:
        _check_language_model(settings.lm_path, cfg.task)
    if settings.replace_unk is not None:
        if not settings.print_alignment:
            raise ConfigurationError("--replace-unk needs to know where a word comes from: add --print-alignment")
        if command == "generate" and cfg.dataset.dataset_impl != "raw":
            raise ConfigurationError("--replace-unk in fairseq-generate reads the texts: it needs --dataset-impl raw")
    if command == "interactive":
        if settings.score_reference:
            raise ConfigurationError(
                "--score-reference in fairseq-interactive: it has no references; use fairseq-generate"
            )
        if settings.print_alignment == "soft":
            raise ConfigurationError("--print-alignment soft in fairseq-interactive: it prints hard ones; use hard")
        # fairseq itself takes a smaller buffer for one of 1, and then one sentence a batch
        batch, buffer = cfg.dataset.batch_size, max(cfg.interactive.buffer_size, 1)
        if batch and batch > buffer:
            raise ConfigurationError(f"--batch-size {batch} is above --buffer-size {buffer}: raise --buffer-size")


def _check_language_model(path, task) -> None:
    """fairseq-generate opens it behind the model and the data, with the words of dict.txt there."""
    if not os.path.isfile(path):
        raise ConfigurationError(f"--lm-path {path}: there is no such file; name a checkpoint, or leave it out")
    data = utils.split_paths(str(task.data))[0]
    if not os.path.isfile(os.path.join(data, "dict.txt")):
        of_targets = f"dict.{getattr(task, 'target_lang', None) or 'target'}.txt"
        raise ConfigurationError(
            f"--lm-path {path}: {os.path.join(data, 'dict.txt')}, the words of the language model, is missing; copy "
            f"{of_targets} there, whose words it must have"
        )


def _check_shards(cfg) -> None:
    """fairseq reads --num-shards in fairseq-eval-lm alone: anywhere else every shard would be the whole."""
    given, used = cfg.dataset, cfg.distributed_training
    shard, whole = (given.shard_id, given.num_shards), (used.distributed_rank, used.distributed_world_size)
    if not 0 <= used.distributed_rank < used.distributed_world_size:
        raise ConfigurationError(
            f"--distributed-rank {used.distributed_rank} is no share of --distributed-world-size "
            f"{used.distributed_world_size}: they are counted from 0"
        )
    if shard not in ((0, 1), whole):
        raise ConfigurationError(
            f"--num-shards {given.num_shards} --shard-id {given.shard_id} does nothing here: for a share of the "
            f"batches give --distributed-world-size {given.num_shards} --distributed-rank {given.shard_id}"
        )
