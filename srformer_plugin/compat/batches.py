"""Batches that hold every sentence, and batches in buckets of a length."""

import inspect
import logging
import traceback

import numpy as np
from fairseq.data import bucket_pad_length_dataset, data_utils
from fairseq.tasks import FairseqTask
from fairseq_cli import generate

from ..errors import ConfigurationError
from .patching import wrap, wrap_of_command


def keep_last_batch():
    """Keep the sentences that ``batch_by_size`` throws away.

    ``data/data_utils.py:357`` drops the last batch when its size is not a multiple of
    ``--required-batch-size-multiple`` (8 unless told): fairseq-generate leaves out up to 7 sentences, and
    training cannot validate on fewer than 8. fairseq's batches are consecutive pieces of
    ``indices``, so what is missing is its tail, and that was one batch within the limits on tokens and
    sentences. Not needed when the batches of 11 sentences hold 11.
    """

    def make_wrapper(original):
        def batch_by_size(indices, num_tokens_fn, *args, **kwargs):
            if not isinstance(indices, np.ndarray):
                indices = np.fromiter(indices, dtype=np.int64, count=-1)
            if len(indices) == 0:  # :357 looks at the last of no batches
                return []
            batches = original(indices, num_tokens_fn, *args, **kwargs)
            # Batches of fixed shapes are not cut by that line: fairseq fills them in another order.
            fixed_shapes = kwargs.get("fixed_shapes", args[4] if len(args) > 4 else None)
            kept = sum(len(batch) for batch in batches)
            if fixed_shapes is None and kept < len(indices):
                batches = [*batches, indices[kept:]]
            return batches

        return batch_by_size

    wrap(data_utils, "batch_by_size", make_wrapper)


def bucket_batches():
    """Make ``--num-batch-buckets`` work.

    ``data/data_utils.py:880`` gives ``np.percentile`` the argument ``interpolation``, which NumPy 1.22
    renamed to ``method`` and 2.4 removed. Not needed when ``get_buckets`` returns. (That option also needs
    ``np.compat``: :func:`restore_numpy_aliases`.)
    """

    def make_wrapper(original):
        def get_buckets(sizes, num_buckets):
            quantiles = np.linspace(0, 100, num_buckets + 1)
            return np.unique(np.percentile(sizes, quantiles, method="lower")[1:])

        return get_buckets

    # raw_audio_dataset.py imports it by name as well; text tasks do not use that file.
    for module in (data_utils, bucket_pad_length_dataset):
        wrap(module, "get_buckets", make_wrapper)


def refuse_sentences_in_one_line():
    """Name the flags where sentences are too long, and where none is left.

    ``tasks/fairseq_task.py:187`` raises a bare ``Exception`` on the first sentence that is too long, and where all are
    left out (``--skip-invalid-size-inputs-valid-test``, training) the command ends in an IndexError
    (``data/data_utils.py:357``) or a division by zero. ``data/data_utils_fast.pyx:30`` asserts that ``--max-tokens``
    holds the longest. Not needed when each ends in a sentence.
    """

    def batch(original):
        def batch_by_size(*args, **kwargs):
            try:
                return original(*args, **kwargs)
            except AssertionError as error:
                if "max_tokens" not in str(error):
                    raise
                raise ConfigurationError(f"{error}: raise --max-tokens, or give --batch-size in its place") from error

        return batch_by_size

    def select(original):
        def filter_indices_by_size(self, indices, dataset, max_positions=None, ignore_invalid_inputs=False):
            try:
                kept = original(self, indices, dataset, max_positions, ignore_invalid_inputs)
            except Exception as error:
                if type(error) is not Exception:
                    raise
                raise ConfigurationError(
                    f"{error}; or raise --max-source-positions or --max-target-positions"
                ) from error
            if len(kept) == 0 and len(indices) > 0:
                raise ConfigurationError(
                    f"all {len(indices):,} sentences are left out: they have more than {max_positions} tokens (source, "
                    "target); raise --max-source-positions and --max-target-positions, or cut with --truncate-source"
                )
            return kept

        return filter_indices_by_size

    wrap(data_utils, "batch_by_size", batch)
    wrap(FairseqTask, "filter_indices_by_size", select)


def decode_nothing():
    """Let a share of fairseq-generate that has no batch end as the others do.

    ``fairseq_cli/generate.py:376`` divides by the seconds of a decoding without sentences: more shares
    (``--distributed-world-size``) than batches, or no sentences at all. Not needed when it prints "Translated 0
    sentences".
    """

    def make_wrapper(original):
        def _main(cfg, output_file):
            try:
                return original(cfg, output_file)
            except ZeroDivisionError as error:
                *_, (frame, _) = traceback.walk_tb(error.__traceback__)
                if frame.f_locals.get("num_sentences") != 0:
                    raise
                share = cfg.distributed_training
                if share.distributed_world_size == 1:
                    raise ConfigurationError(f"--gen-subset {cfg.dataset.gen_subset} has no sentences") from error
                logging.getLogger("fairseq_cli.generate").info(
                    f"Translated 0 sentences: share {share.distributed_rank} of {share.distributed_world_size} "
                    "(from 0) has no batch"
                )

        return _main

    wrap_of_command(generate, "_main", make_wrapper)


def resume_with_the_same_batches():
    """Let a training that is resumed in a later epoch go through the batches of the one that was not stopped.

    Batches are made once and kept for all epochs. ``tasks/fairseq_task.py:290`` draws the order of sentences of equal
    length, which decides who shares a batch, from the epoch in which they are made: after a resumption another one, so
    that an epoch repeats sentences and leaves others out. Not needed when the task's batches are the same for
    ``epoch=1`` and ``epoch=2``.
    """

    def make_wrapper(original):
        signature = inspect.signature(original)

        def get_batch_iterator(self, dataset, *args, **kwargs):
            given = signature.bind(self, dataset, *args, **kwargs)
            given.apply_defaults()
            options = given.arguments
            epoch, makes_anew = options["epoch"], options["disable_iterator_cache"] or options["update_epoch_batch_itr"]
            are_kept = not makes_anew and self.can_reuse_epoch_itr(dataset)
            if epoch <= 1 or not are_kept or dataset in self.dataset_to_epoch_iter:
                return original(self, dataset, *args, **kwargs)
            options["epoch"] = 1
            batches = original(*given.args, **given.kwargs)
            dataset.set_epoch(epoch)
            batches.epoch = epoch
            return batches

        return get_batch_iterator

    wrap(FairseqTask, "get_batch_iterator", make_wrapper)
