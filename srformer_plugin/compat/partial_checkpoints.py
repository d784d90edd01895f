"""Checkpoints while they are written, under a name that ends with ``.tmp``, and what a kill leaves of them."""

import contextlib
import fcntl
import logging
import os
from pathlib import Path

from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from .patching import wrap

logger = logging.getLogger(__name__)

PARTIAL = ".tmp"  # fairseq's own (``checkpoint_utils.py:580``)


@contextlib.contextmanager
def writing(path: str):
    """Hold a lock on ``path + PARTIAL``, which is about to be written by its name, so that nobody removes it meanwhile.

    The lock goes with the process, however it ends. A file system without locks has none, and nothing is removed there.

    Raises:
        OSError: the file cannot be made.
    """
    partial = f"{path}{PARTIAL}"
    while True:
        with open(partial, "ab") as file:
            if _lock(file, fcntl.LOCK_EX) and not _is_named(file, partial):
                continue  # whoever had the lock has renamed or removed it
            yield partial
            return


def _lock(file, how: int) -> bool:
    """Whether an open file could be locked."""
    try:
        fcntl.flock(file, how)
    except OSError:  # another process has it, or the file system knows no locks
        return False
    return True


def _is_named(file, path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def remove_what_was_left(folder) -> None:
    """Remove the checkpoints of a folder that a killed process began to write; not those that a process writes now."""
    for path in sorted(Path(folder).glob(f"checkpoint*.pt{PARTIAL}")):
        with contextlib.suppress(OSError), open(path, "r+b") as file:  # gone, or not ours to write
            if _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB) and _is_named(file, path):
                path.unlink()
                logger.info(f"removed {path}, which a training that was killed had begun to write")


def clear_the_folder_of_checkpoints():
    """Let a training begin with removing what one that was killed while it saved has left in ``--save-dir``.

    ``checkpoint_utils.py:580`` writes to ``checkpoint_1_500.pt.tmp``: as large as a checkpoint, and there for ever
    unless one of that very name is saved again. Not needed when a training that begins removes them.
    """

    def make_wrapper(original):
        def load_checkpoint(cfg, trainer, **passthrough_args):
            if trainer.should_save_checkpoint_on_current_rank and not cfg.no_save:
                remove_what_was_left(cfg.save_dir)
            return original(cfg, trainer, **passthrough_args)

        return load_checkpoint

    wrap(checkpoint_utils, "load_checkpoint", make_wrapper)


def copy_whole_checkpoints():
    """Let checkpoint_best.pt and checkpoint_last.pt be whole at any moment.

    ``checkpoint_utils.py:141`` copies the file that it has written under another name with ``shutil.copyfile``: a
    training that is killed meanwhile leaves half a checkpoint, with which it cannot be started again. Not needed when
    ``PathManager.copy`` writes to another name first.
    """

    def make_wrapper(original):
        def copy(src_path, dst_path, overwrite=False):
            if not overwrite or not PathManager.supports_rename(dst_path):
                return original(src_path, dst_path, overwrite)
            with writing(dst_path) as partial:
                try:
                    copied = original(src_path, partial, True)
                    if copied:
                        os.replace(partial, dst_path)
                except OSError:  # a full disk, which half a checkpoint would keep full
                    with contextlib.suppress(OSError):
                        os.remove(partial)
                    raise
            return copied

        return copy

    wrap(PathManager, "copy", make_wrapper)
