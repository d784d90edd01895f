"""Checkpoints: what may be read, what is refused, and the reason said."""

import argparse
import collections
import contextlib
import errno
import os
import pickle
import re
import typing
import zipfile

import numpy as np
import omegaconf
import torch
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.logging import meters
from fairseq.trainer import Trainer

from data_prep.errors import one_line

from ..errors import ConfigurationError, DamagedCheckpointError, UnsafeCheckpointError
from .partial_checkpoints import PARTIAL, writing
from .patching import wrap


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
    # Meters of --eval-bleu keep arrays. NumPy 2 renamed the module of the functions that rebuild them; 1.26 has an
    # empty one of the new name.
    rebuild = (np.core if np.__version__ < "2" else np._core).multiarray
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


# What content that is no checkpoint ends in within fairseq's upgrade of old ones.
NOT_READ = (LookupError, TypeError, AttributeError, ValueError)
DOES_NOT_FIT = "Cannot load model parameters"  # how fairseq's sentence begins, whatever the reason
CUT_OFF = "it is damaged or cut off, or a zip file of another kind"
NO_MODEL = "it holds no model with its options"
LEGACY = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)  # how files begin that are no zip


def explain_refused_checkpoint():
    """Say which file was refused, or is no checkpoint, and why, in one sentence.

    PyTorch's own message (from ``checkpoint_utils.py:340``) does not name the file and advises, in several
    paragraphs, to switch the protection off; any other file ends in whatever its bytes lead to, and wrong bytes within
    weights, as a crash of the machine or a bad copy leaves them, are read without a word. Not needed when that message
    names the file, and PyTorch reads its checksums.
    """

    def make_wrapper(original):
        def load_checkpoint_to_cpu(path, *args, **kwargs):
            if os.path.isfile(path):
                check_whole(path)
            try:
                state = original(path, *args, **kwargs)
            except pickle.UnpicklingError as error:
                named = re.search(r"GLOBAL (\S+)", str(error))
                if named is None and not _is_of_torch(path):
                    raise _no_checkpoint(path, "it is a file of another kind") from error
                reason = (
                    f"it asks to run or build {named.group(1)}, which no fairseq checkpoint needs"
                    if named
                    else "it is not a checkpoint that can be read without running code from it"
                )
                raise UnsafeCheckpointError(
                    f"checkpoint {path} is refused: {reason}. Get it again from a source that you trust."
                ) from error
            except (ConfigurationError, omegaconf.errors.OmegaConfBaseException):  # of options that take others' place
                raise
            except EOFError as error:
                raise _no_checkpoint(path, "it is empty, or its end is missing") from error
            except OSError as error:
                if error.filename is not None or error.errno is None:
                    raise
                if error.errno == errno.EINVAL:  # PyTorch looks for a zip file's end before the file's beginning
                    raise _no_checkpoint(path, CUT_OFF) from error
                raise OSError(error.errno, error.strerror, str(path)) from error
            except RuntimeError as error:
                raise _no_checkpoint(path, CUT_OFF) from error
            except NOT_READ as error:
                raise _no_checkpoint(path, NO_MODEL) from error
            if "model" not in state:
                raise _no_checkpoint(path, NO_MODEL)
            return state

        return load_checkpoint_to_cpu

    wrap(checkpoint_utils, "load_checkpoint_to_cpu", make_wrapper)


def _no_checkpoint(path, reason):
    return DamagedCheckpointError(f"{path} is no fairseq checkpoint: {reason}")


def check_whole(path) -> None:
    """Look at the checksums of a checkpoint.

    Raises:
        DamagedCheckpointError: it is a folder, or some of its bytes are not those that were written.
    """
    if os.path.isdir(path):
        raise DamagedCheckpointError(f"{path} is a folder, and no checkpoint")
    damage = damage_of(path)
    if damage is not None:
        raise _no_checkpoint(path, f"it is {damage}")


def damage_of(path) -> "str | None":
    """What the checksums of a file of `torch.save` tell of its bytes; None where they are those that were written.

    PyTorch writes checksums and does not read them. 5 GB a second, beside the disk.
    """
    if not zipfile.is_zipfile(path):  # an older file, or none, which reading it tells
        return None
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError):
        return "damaged or cut off"
    return None if damaged is None else f"damaged ({damaged} is not what was written)"


def _is_of_torch(path) -> bool:
    """Whether a file begins as `torch.save` begins one."""
    with open(path, "rb") as file:
        start = file.read(len(LEGACY))
    return start == LEGACY or start.startswith(b"PK")


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
                if reason is not None:
                    raise reason from None
                if str(error).startswith(DOES_NOT_FIT):
                    cause = error.__cause__ or error.__context__
                    raise ConfigurationError(f"{error} {type(cause).__name__}: {one_line(cause)}") from error
                raise

        return load_checkpoint

    wrap(Trainer, "load_checkpoint", make_wrapper)


def say_why_a_checkpoint_cannot_be_written():
    """Name the checkpoint and the reason where one cannot be written, and leave no half of it.

    ``checkpoint_utils.py:594`` tries three times, 2.5 seconds apart, each behind what the attempt before has written to
    the same file, which nothing could read. The reason, a full disk, is not in PyTorch's last error ("unexpected pos
    128 vs 0"), and half the checkpoint keeps the disk full. Not needed when an error of writing passes through.
    """

    def once(original):
        def _torch_persistent_save(obj, f):
            return original(obj, f) if isinstance(f, str) else save(obj, f)

        return _torch_persistent_save

    def whole(original):
        def torch_persistent_save(obj, filename, *args, **kwargs):
            renamed = PathManager.supports_rename(filename)
            try:
                with writing(filename) if renamed else contextlib.nullcontext():
                    return original(obj, filename, *args, **kwargs)
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.remove(f"{filename}{PARTIAL}")
                if error.errno is None:  # a library's own, with another reason
                    raise OSError(f"{filename}: {error}") from error
                raise OSError(error.errno, error.strerror, filename) from error

        return torch_persistent_save

    wrap(checkpoint_utils, "_torch_persistent_save", once)
    wrap(checkpoint_utils, "torch_persistent_save", whole)


def save(content, file) -> None:
    """`torch.save` to an open file.

    Raises:
        OSError: it cannot be written, which PyTorch's RuntimeError does not say.
    """
    try:
        torch.save(content, file)
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        raise OSError(*cause.args[:2]) from error
