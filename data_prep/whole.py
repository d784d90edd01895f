"""Files and folders that are written whole or not at all.

- `whole_file`: an open file that appears at its place when the block ends; `write_text`, `write_json` for short ones.
- `whole_folder`: files that move into a folder, its manifest last: a folder with a manifest is complete.
- `new_folder`: a folder that appears at its place as one, by a rename.
- `refuse_to_replace`: an output that is an input, too.

What is written beside its place until then has a name that begins with "." and ends with ".partial". After an
exception it is gone; after a killed process it may stay, and no reader takes it for a result.
"""

import errno
import json
import os
import shutil
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

from data_prep.errors import UserError

MANIFEST = "manifest.json"
PARTIAL = ".partial"


def _beside(path):
    """A new name in the same folder: a rename is atomic only within one file system."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")


def refuse_to_replace(what: str, out, inputs) -> None:
    """Raise a UserError where `out`, which errors call `what`, is one of `inputs`, files or folders, by any name."""
    real = os.path.realpath(out)
    if real in map(os.path.realpath, inputs) and (os.path.isfile(real) or os.path.isdir(real)):  # no pipe
        raise UserError(f"{what} {out} is read as well, and would be replaced: give it another name")


@contextmanager
def whole_file(path, mode="w"):
    """An open file ("w": UTF-8 text with line feeds, "wb": bytes) that replaces `path` when the block ends.

    After an exception, or a kill, `path` is what it was before. A link stays one: the file it points at is replaced.
    What is no regular file (/dev/stdout, a pipe) is written to as it is.
    """
    named, path = Path(path), Path(os.path.realpath(path))
    encoding = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if named.exists() and not named.is_file():  # by its name: where /dev/stdout leads to, a pipe has none
        with open(named, mode, **encoding) as file:
            yield file
        return
    partial = _beside(path)
    try:
        with open(partial, mode, **encoding) as file:
            yield file
        os.replace(partial, path)
    except OSError as error:
        if error.filename not in (None, str(partial)):  # without a name: of writing, such as to a full disk
            raise
        # the name that the user gave, and not that of the partial file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # of a folder that cannot be written, which has been said
            partial.unlink()


def write_text(path, text: str):
    """Write a UTF-8 file whole or not at all."""
    with whole_file(path) as file:
        file.write(text)


def write_json(path, value, indent=2, **options):
    """Write a JSON file whole or not at all; `options` of `json.dumps`."""
    write_text(path, json.dumps(value, indent=indent, **options) + "\n")


@contextmanager
def whole_folder(out: Path):
    """Yield a folder to write to; its files move to `out` when the block ends without an exception.

    The files of an earlier run are removed first, its manifest before all others, and the new manifest comes last: a
    folder with a manifest is complete. Whatever an interrupted run left is removed, so that a run begins anew.
    """
    out.mkdir(parents=True, exist_ok=True)
    partial = out / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        _remove_earlier(out)
        for path in sorted(partial.iterdir(), key=lambda path: (path.name == MANIFEST, path.name)):
            os.replace(path, out / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_earlier(out):
    """Remove what the manifest in `out` names, if it has one: a split of an earlier run must not stay behind."""
    try:
        names = list(json.loads((out / MANIFEST).read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        names = []
    (out / MANIFEST).unlink(missing_ok=True)
    for name in names:
        if name == os.path.basename(name):
            (out / name).unlink(missing_ok=True)


@contextmanager
def new_folder(out: Path, replaceable: set[str] | None = None):
    """A folder that appears at `out` when the block ends, complete, or not at all.

    Args:
        replaceable: replace an existing folder if it holds nothing but files of these names; None: do not replace.

    Raises:
        UserError: `out` exists and may not be replaced.
    """
    if out.is_symlink() or out.exists():
        if replaceable is None:
            raise UserError(f"{out} exists; --force replaces it")
        strange = None if out.is_symlink() or not out.is_dir() else {path.name for path in out.iterdir()} - replaceable
        if strange is None or strange:
            what = f"it also holds {min(strange)}" if strange else "it is no folder"
            raise UserError(f"{out} is not replaced: {what}")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _beside(out), _beside(out)
    try:
        temporary.mkdir()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error
    try:
        yield temporary
        if out.exists():
            out.rename(old)
        try:
            temporary.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
