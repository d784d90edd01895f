"""Output folders that are complete or say that they are not."""

import json
import os
import shutil
from contextlib import contextmanager

MANIFEST = "manifest.json"
PARTIAL = ".partial"


@contextmanager
def whole_folder(out):
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
        remove_earlier(out)
        for path in sorted(partial.iterdir(), key=lambda path: (path.name == MANIFEST, path.name)):
            os.replace(path, out / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_earlier(out):
    """Remove what the manifest in `out` names, if it has one: a split of an earlier run must not stay behind."""
    try:
        names = list(json.loads((out / MANIFEST).read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        names = []
    (out / MANIFEST).unlink(missing_ok=True)
    for name in names:
        if name == os.path.basename(name):
            (out / name).unlink(missing_ok=True)
