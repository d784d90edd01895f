"""Hugging Face folders converted once: a cache of fairseq checkpoints.

An entry's name holds a hash of what it was made from, so a model that changes gets another entry. Entries appear whole
or not at all; a second process that wants the same one waits for the first. They may be removed at any time.
"""

import contextlib
import fcntl
import glob
import hashlib
import os
import shutil
from pathlib import Path

from data_prep.errors import one_line
from data_prep.whole import PARTIAL

from ..convert.cli import TOKENIZER_FILES, hf_to_fairseq
from ..errors import ConfigurationError
from ..models.checkpoint_file import CHECKPOINT
from ..version import __version__

# What a conversion reads whole; of weights, which are large, it is the size and the time of the last change.
SMALL_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES)
WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")


def default_folder() -> Path:
    """`srformer` in the user's cache folder: $XDG_CACHE_HOME, or ~/.cache.

    Raises:
        ConfigurationError: nothing says where the user's home is, as in a container whose user has no name.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "srformer"
    except RuntimeError as error:
        raise ConfigurationError(
            "there is no home folder to keep converted models in: set HOME, or name a folder with --cache-dir"
        ) from error


def converted(source: Path, cache: Path, say=lambda line: None) -> Path:
    """The folder in `cache` with the fairseq checkpoint of a Hugging Face folder, made now if it is not there.

    Args:
        say: called with a line before a conversion, which may take a while.
    Raises:
        ConfigurationError: the folder cannot be converted, or the cache cannot be written.
    """
    entry = cache / f"{source.resolve().name}-{key_of(source)}"
    if not (entry / CHECKPOINT).is_file():
        try:
            _convert(source, entry, say)
        except OSError as error:
            raise ConfigurationError(
                f"{source} cannot be converted, {one_line(error)}: --cache-dir names another folder for the result"
            ) from error
    return entry


def _convert(source, entry, say):
    """Convert `source` to the folder `entry`, unless another process does so first."""
    cache = entry.parent
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / f".{entry.name}.lock"):
        if not (entry / CHECKPOINT).is_file():
            for left in cache.glob(f".{glob.escape(entry.name)}.*{PARTIAL}"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            say(f"converting {source} once; the result is kept in {entry}")
            hf_to_fairseq(source, entry, force=True)


def key_of(source: Path) -> str:
    """16 hexadecimal digits that stand for a folder's content, and for the version that converts it."""
    seen = hashlib.sha256(f"{__version__}\n{source.resolve()}\n".encode())
    for name in SMALL_FILES:
        if (source / name).is_file():
            content = (source / name).read_bytes()
            seen.update(f"{name} {len(content)}\n".encode() + content)
    for path in sorted({path for pattern in WEIGHTS for path in source.glob(pattern)}):
        state = path.stat()
        seen.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return seen.hexdigest()[:16]


@contextlib.contextmanager
def _alone(path: Path):
    """Hold a lock, which ends with the process whatever happens to it."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
