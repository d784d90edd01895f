"""How long the sources of a checkpoint may be, and what is cut."""

import argparse
import logging
import sys

import torch
from fairseq.data import TruncateDataset
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from .patching import wrap

logger = logging.getLogger(__name__)

POSITIONS = ("max_source_positions", "max_target_positions")


def take_the_checkpoints_positions():
    """Let what a checkpoint was trained with be the default of ``--max-source-positions`` and its brother for targets.

    fairseq-generate and fairseq-interactive make their task from the command line, where both are 1,024 unless given:
    a model trained on 2,048 tokens is decoded on its first 1,024, or refuses longer ones. (fairseq-validate and the
    hub take the checkpoint's task.) Not needed when ``fairseq-generate`` reads 2,048 tokens without a flag.

    And let an architecture's own be the default of a training, where fairseq's parser has put the task's 1,024 before
    the architecture is asked (``options.py:220``): LED's are 16,384.
    """

    def make_wrapper(original):
        def build_model(self, cfg, from_checkpoint=False):
            self.builds_of_checkpoint = from_checkpoint
            if not from_checkpoint:
                _take_the_architectures(self, cfg)
            model = original(self, cfg, from_checkpoint)
            if from_checkpoint:
                for name, possible in zip(POSITIONS, model.max_positions()):
                    _adopt(self, name, getattr(cfg, name, None), possible)
            return model

        return build_model

    wrap(TranslationTask, "build_model", make_wrapper)


def _take_the_architectures(task, cfg) -> None:
    """Set the limits that the command line leaves open to what the architecture fills in."""
    architecture = ARCH_CONFIG_REGISTRY.get(getattr(cfg, "arch", None))
    if architecture is None or not isinstance(cfg, argparse.Namespace):
        return
    architecture(own := argparse.Namespace())
    for name in POSITIONS:
        if hasattr(own, name) and is_left_open(name, getattr(cfg, name, None)):
            setattr(cfg, name, getattr(own, name))
            setattr(task.cfg, name, getattr(own, name))


def _adopt(task, name, trained, possible) -> None:
    """Set a task's limit to a checkpoint's, of an ensemble to the least; one that was asked for can only shrink.

    Args:
        trained: what the model was trained with: the default.
        possible: what the model can take, which may be more.
    """
    if not isinstance(trained, int):
        return
    adopted = vars(task).setdefault("positions_left_open", {})
    current, is_first = getattr(task.cfg, name), name not in adopted
    if not adopted.setdefault(name, is_left_open(name, current)):
        trained = min(current, possible)
    elif not is_first:
        trained = min(current, trained)
    setattr(task.cfg, name, trained)


def is_of_checkpoint(task) -> bool:
    """Whether the model that `task` builds, or has built last, is a checkpoint's: its limits are what was asked for."""
    return getattr(task, "builds_of_checkpoint", False)


def is_left_open(name: str, value: int) -> bool:
    """Whether a limit of positions has fairseq's default and is not on the command line."""
    flag = "--" + name.replace("_", "-")  # whole: fairseq's parsers take no abbreviations
    asked = any(argument == flag or argument.startswith(flag + "=") for argument in sys.argv[1:])
    return not asked and value == TranslationConfig.__dataclass_fields__[name].default


def cut_and_count_sources():
    """Cut sources with ``--truncate-source`` in fairseq-interactive too, and say how many are cut, everywhere.

    ``tasks/translation.py:347`` leaves them as they are typed, and the first that is too long ends the command;
    ``:128`` cuts those of a data set without a word. Not needed when both say so.
    """

    def load(original):
        def load_dataset(self, split, *args, **kwargs):
            original(self, split, *args, **kwargs)
            source = self.datasets[split].src if self.cfg.truncate_source else None
            count, total = _count_cut(source)
            if count:
                logger.info(
                    f"{count:,} of {total:,} sources of {split!r} are longer than {self.cfg.max_source_positions:,} "
                    "tokens (--max-source-positions) and are cut to that"
                )

        return load_dataset

    def infer(original):
        def build_dataset_for_inference(self, src_tokens, src_lengths, **kwargs):
            limit = self.cfg.max_source_positions
            count = sum(len(tokens) > limit for tokens in src_tokens) if self.cfg.truncate_source else 0
            if count:
                logger.info(f"{count:,} of {len(src_tokens):,} sources have more than {limit:,} tokens and are cut")
                src_tokens = [
                    tokens if len(tokens) <= limit else torch.cat((tokens[: limit - 1], tokens[-1:]))
                    for tokens in src_tokens
                ]
                src_lengths = [len(tokens) for tokens in src_tokens]
            return original(self, src_tokens, src_lengths, **kwargs)

        return build_dataset_for_inference

    wrap(TranslationTask, "load_dataset", load)
    wrap(TranslationTask, "build_dataset_for_inference", infer)


def _count_cut(dataset) -> "tuple[int, int]":
    """(how many sentences a data set of fairseq cuts, how many it has); (0, 0) where it cuts none at all."""
    if dataset is None:
        return 0, 0
    if isinstance(dataset, TruncateDataset):  # without </s>, which is there before and after
        sizes = dataset.dataset.sizes
        return int((sizes > dataset.truncation_length + 1).sum()), len(sizes)
    parts = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    counts = [_count_cut(part) for part in parts]
    return sum(count for count, _ in counts), sum(total for _, total in counts)
