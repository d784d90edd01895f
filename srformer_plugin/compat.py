"""Mends for what stock fairseq gets wrong on today's Python, PyTorch and NumPy.

One function a defect. Its docstring names the file and the fault, and how one knows that the mend is no
longer needed. Every mend may be applied twice. docs/platform.md has them in one table; tests/test_compat.py
shows each fault. Line numbers are those of ve-fairseq 0.12.3.
"""

import argparse
import collections
import functools
import logging
import pickle
import re
import types
import typing
from unittest import mock

import numpy as np
import omegaconf
import torch
from fairseq import checkpoint_utils, utils
from fairseq.data import (
    bucket_pad_length_dataset,
    data_utils,
    language_pair_dataset,
    token_block_dataset,
)
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import meters
from fairseq.modules import MultiheadAttention, dynamic_crf_layer, transformer_layer
from fairseq.ngram_repeat_block import NGramRepeatBlock
from fairseq.trainer import Trainer

from .errors import ConfigurationError, UnsafeCheckpointError

logger = logging.getLogger(__name__)


def apply():
    """Apply every mend."""
    keep_last_batch()
    allow_checkpoint_classes()
    explain_refused_checkpoint()
    train_half_precision_without_accelerator()
    survive_overflow_without_cuda()
    bucket_batches()
    restore_numpy_aliases()
    attend_to_the_own_source()
    block_repeated_ngrams()
    avoid_encoder_fast_path()
    drop_fast_path_parameters()
    show_configuration_errors()


def _wrap(owner, name, make_wrapper):
    """Replace ``owner.name`` by ``make_wrapper(original)``, once."""
    original = getattr(owner, name)
    if not hasattr(original, "srformer_original"):
        wrapper = functools.wraps(original)(make_wrapper(original))
        wrapper.srformer_original = original
        setattr(owner, name, wrapper)


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
            batches = original(indices, num_tokens_fn, *args, **kwargs)
            # Batches of fixed shapes are not cut by that line: fairseq fills them in another order.
            fixed_shapes = kwargs.get("fixed_shapes", args[4] if len(args) > 4 else None)
            kept = sum(len(batch) for batch in batches)
            if fixed_shapes is None and kept < len(indices):
                batches = [*batches, indices[kept:]]
            return batches

        return batch_by_size

    _wrap(data_utils, "batch_by_size", make_wrapper)


def checkpoint_classes():
    """Return what a fairseq checkpoint may hold besides tensors and plain containers.

    Each is a (class or function, the name that the pickle calls it by). None of them runs code that a
    checkpoint brings along.
    """
    named = [(argparse.Namespace, "argparse.Namespace")]  # the options of models without a dataclass
    # The configuration: a DictConfig in older checkpoints, and whenever rank 0 sends one to the others.
    named += [(kind, f"builtins.{kind.__name__}") for kind in (bool, dict, float, int, list, str, tuple)]
    named += [(typing.Any, "typing.Any"), (collections.defaultdict, "collections.defaultdict")]
    named += [(omegaconf.DictConfig, "omegaconf.dictconfig.DictConfig")]
    named += [(omegaconf.ListConfig, "omegaconf.listconfig.ListConfig")]
    # omegaconf 2.0, which the official fairseq 0.12.2 needs, has fewer of these.
    for module, name in (
        *((omegaconf.base, name) for name in ("Metadata", "ContainerMetadata")),
        *((omegaconf.nodes, f"{kind}Node") for kind in ("Any", "Boolean", "Bytes", "Enum", "Float")),
        *((omegaconf.nodes, f"{kind}Node") for kind in ("Integer", "Path", "String", "Union")),
    ):
        if hasattr(module, name):
            named.append((getattr(module, name), f"{module.__name__}.{name}"))
    # Meters of --eval-bleu keep arrays. NumPy 2 renamed the module of the functions that rebuild them.
    rebuild = getattr(np, "_core", np.core if np.__version__ < "2" else None).multiarray
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        named += [(rebuild._reconstruct, f"{module}._reconstruct"), (rebuild.scalar, f"{module}.scalar")]
    named += [(np.ndarray, "numpy.ndarray"), (np.dtype, "numpy.dtype")]
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    named += [(dtype, f"{dtype.__module__}.{dtype.__qualname__}") for dtype in dtypes]
    # Meters as objects, in checkpoints of 2019 such as BART's.
    for name in ("AverageMeter", "StopwatchMeter", "SumMeter", "TimeMeter"):
        named += [(getattr(meters, name), f"fairseq.{package}meters.{name}") for package in ("", "logging.")]
    # What stands for a tensor in an object that rank 0 sends to the others.
    placeholder = distributed_utils._TensorPlaceholder
    named.append((placeholder, f"{placeholder.__module__}.{placeholder.__name__}"))
    return named


def allow_checkpoint_classes():
    """Let ``torch.load`` read fairseq's checkpoints, and go on refusing code in them.

    Since PyTorch 2.6 ``torch.load`` reads with ``weights_only=True``: ``checkpoint_utils.py:340`` and
    ``:909``, and ``distributed/utils.py:805`` for what rank 0 sends to the others, fail on the argparse and
    omegaconf objects of every fairseq checkpoint. Registering those classes keeps the protection. Not needed
    when fairseq registers them itself, or stores plain containers only.
    """
    torch.serialization.add_safe_globals(checkpoint_classes())


def explain_refused_checkpoint():
    """Say which file was refused and why, in one sentence.

    PyTorch's own message (from ``checkpoint_utils.py:340``) does not name the file and advises, in several
    paragraphs, to switch the protection off. Not needed when that message names the file.
    """

    def make_wrapper(original):
        def load_checkpoint_to_cpu(path, *args, **kwargs):
            try:
                return original(path, *args, **kwargs)
            except pickle.UnpicklingError as error:
                named = re.search(r"GLOBAL (\S+)", str(error))
                reason = (
                    f"it asks to run or build {named.group(1)}, which no fairseq checkpoint needs"
                    if named
                    else "it is not a checkpoint that can be read without running code from it"
                )
                raise UnsafeCheckpointError(
                    f"checkpoint {path} is refused: {reason}. Get it again from a source that you trust."
                ) from error

        return load_checkpoint_to_cpu

    _wrap(checkpoint_utils, "load_checkpoint_to_cpu", make_wrapper)


def train_half_precision_without_accelerator():
    """Make ``--bf16`` train on CPU and GPU, and ``--fp16`` on CPU.

    ``options.py:201`` takes ``--bf16`` to mean a TPU, and without torch_xla the trainer then fails with
    "'NoneType' object has no attribute 'xla_device'". ``optim/fp16_optimizer.py:42`` asks CUDA for its device
    to flatten the gradients of ``--fp16``, which a machine without CUDA cannot answer. ``call_main`` is where
    every tool passes its finished configuration. Not needed when ``fairseq-train --cpu --bf16`` and ``--cpu
    --fp16`` train.
    """

    def make_wrapper(original):
        def call_main(cfg, main, **kwargs):
            if cfg.common.bf16 and cfg.common.tpu and utils.xm is None:
                cfg.common.tpu = False
                # The other groups hold copies, made when the configuration was built.
                for group in (cfg.distributed_training, cfg.optimizer):
                    if getattr(group, "tpu", False):
                        group.tpu = False
            if cfg.common.fp16 and not torch.cuda.is_available() and not cfg.common.fp16_no_flatten_grads:
                logger.info("no CUDA device: --fp16 is taken with --fp16-no-flatten-grads")
                cfg.common.fp16_no_flatten_grads = True
            return original(cfg, main, **kwargs)

        return call_main

    _wrap(distributed_utils, "call_main", make_wrapper)


def survive_overflow_without_cuda():
    """Let a training in fp16 on a CPU lower its loss scale after an overflow, and go on.

    ``trainer.py:1023`` puts the gradient norm of the update that is left out on the GPU, whatever the training runs
    on, and without CUDA that ends it. Not needed when ``fairseq-train --cpu --fp16 --fp16-init-scale 1e9`` trains.
    """

    def make_wrapper(original):
        def train_step(self, *args, **kwargs):
            if self.cuda:
                return original(self, *args, **kwargs)
            with mock.patch.object(torch.Tensor, "cuda", lambda tensor, *args, **kwargs: tensor):
                return original(self, *args, **kwargs)

        return train_step

    _wrap(Trainer, "train_step", make_wrapper)


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
        _wrap(module, "get_buckets", make_wrapper)


class _NumpyWithAliases(types.ModuleType):
    """NumPy with aliases of Python types that 1.24 and 2.0 removed."""

    float = float
    compat = types.SimpleNamespace(long=int)

    def __getattr__(self, name):
        return getattr(np, name)


def restore_numpy_aliases():
    """Give three modules the ``np.compat.long`` and ``np.float`` that they use.

    ``data/language_pair_dataset.py:292`` (``--num-batch-buckets``), ``data/token_block_dataset.py:125``
    (language models) and ``modules/dynamic_crf_layer.py:108`` (the CRF of a non-autoregressive model) fail with
    AttributeError since NumPy 2.0 or 1.24. Only those modules see the aliases. Not needed when no file of
    fairseq holds them. (``data/data_utils.py:524`` and ``:1107`` use ``np.int`` for the span masks of speech
    models, which fail for another reason as well.)
    """
    for module in (language_pair_dataset, token_block_dataset, dynamic_crf_layer):
        if not isinstance(module.np, _NumpyWithAliases):
            module.np = _NumpyWithAliases("numpy")


def attend_to_the_own_source():
    """Let every sentence of a training batch attend to its own source after a generator was built.

    Building a generator tells BART's cross-attention the beam size, once and for all. From then on
    ``modules/multihead_attention.py:585`` takes any batch for ``beam_size`` copies of each sentence, in training
    and validation too: with ``--eval-bleu`` every group of ``beam`` sentences is trained on the source of its
    first one, silently, or the batch fails with "shape ... is invalid" where the beam does not divide it. Copies
    exist only while decoding step by step, that is, with an incremental state. Not needed when
    a model's output stays the same after ``model.set_beam_size(2)``.
    """

    def make_wrapper(original):
        def forward(self, query, key, value, key_padding_mask=None, incremental_state=None, *args, **kwargs):
            beam_size = self.beam_size
            if incremental_state is None:
                self.beam_size = 1
            try:
                return original(self, query, key, value, key_padding_mask, incremental_state, *args, **kwargs)
            finally:
                self.beam_size = beam_size

        return forward

    _wrap(MultiheadAttention, "forward", make_wrapper)


def block_repeated_ngrams():
    """Make ``--no-repeat-ngram-size`` block repeated n-grams without fairseq's CUDA extension.

    ``ngram_repeat_block.py:110`` takes a hypothesis' last n - 1 tokens from the end of a buffer that is as long as
    the longest hypothesis: until it is full these are padding, and nothing is blocked. The wheels have no
    extension, so that is the only path. Not needed when a hypothesis decoded with the option repeats no n-gram.
    """

    def make_wrapper(original):
        def forward(self, tokens, lprobs, bsz, beam_size, step):
            # the extension counts from `step` itself, in rows as long as the buffer
            written = tokens if self.use_extension else tokens[:, : step + 1]
            return original(self, written, lprobs, bsz, beam_size, step)

        return forward

    _wrap(NGramRepeatBlock, "forward", make_wrapper)


def avoid_encoder_fast_path():
    """Keep the encoder of the official fairseq 0.12.2 off PyTorch's fused layer.

    Its ``modules/transformer_layer.py:319`` calls ``torch._transformer_encoder_layer_fwd`` without the mask's
    type, which PyTorch has asked for since 1.13: an evaluated encoder with post-normalisation fails with
    "Mask Type should be defined". ve-fairseq and fairseq's main have no such path.
    """

    def make_wrapper(original):
        def __init__(self, *args, **kwargs):
            original(self, *args, **kwargs)
            if hasattr(self, "can_use_fastpath"):
                self.can_use_fastpath = False

        return __init__

    _wrap(transformer_layer.TransformerEncoderLayerBase, "__init__", make_wrapper)


FAST_PATH_PARAMETERS = ("in_proj", "out_proj", "fc1", "fc2")


def drop_fast_path_parameters():
    """Load checkpoints of the official fairseq 0.12.2.

    They hold eight copies of parameters in every encoder layer (``in_proj_weight`` ... ``fc2_bias``), made for
    the path of :func:`avoid_encoder_fast_path` and never trained; later versions refuse them as "Unexpected
    key(s) in state_dict". Not needed when ``modules/transformer_layer.py`` drops them itself.
    """

    def make_wrapper(original):
        def upgrade_state_dict_named(self, state_dict, name):
            original(self, state_dict, name)
            if not hasattr(self, "in_proj_weight"):
                for parameter in FAST_PATH_PARAMETERS:
                    for kind in ("weight", "bias"):
                        state_dict.pop(f"{name}.{parameter}_{kind}", None)

        return upgrade_state_dict_named

    _wrap(transformer_layer.TransformerEncoderLayerBase, "upgrade_state_dict_named", make_wrapper)


def show_configuration_errors():
    """Let the reason through when a checkpoint does not fit the model.

    ``trainer.py:597`` replaces every exception by "Cannot load model parameters from checkpoint ...; please
    ensure that the architectures match". A :class:`ConfigurationError` says which flag, so it is raised in
    place of that sentence. Not needed when fairseq raises ``from`` the error and prints it last.
    """

    def make_wrapper(original):
        def load_checkpoint(self, *args, **kwargs):
            try:
                return original(self, *args, **kwargs)
            except Exception as error:
                reason = error
                while reason is not None and not isinstance(reason, ConfigurationError):
                    reason = reason.__cause__ or reason.__context__
                if reason is None:
                    raise
                raise reason from None

        return load_checkpoint

    _wrap(Trainer, "load_checkpoint", make_wrapper)
