"""Finding raw files, and the split of a document from a name or a list."""

import json
import os
import re
from pathlib import Path

from data_prep.record import Malformed, RawDataError

# How the corpora call their splits.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test",),
}


def split_of_name(name):
    """The split that a file's name begins with (`val_013.bin` -> valid), or None."""
    word = re.match(r"[a-z]*", name).group()
    return next((split for split, names in SPLIT_NAMES.items() if word in names), None)


def files_by_split(raw, suffixes, splits):
    """`{split: sorted paths}` of the files in folder `raw` that are named after a split; every split must have one."""
    found = {split: [] for split in splits}
    if not raw.is_dir():
        raise RawDataError(f"{raw} is not a folder")
    for path in sorted(raw.iterdir()):
        split = split_of_name(path.name)
        if split in found and path.is_file() and path.name.endswith(suffixes):
            found[split].append(path)
    for split, paths in found.items():
        if not paths:
            names = ", ".join(f"{name}*{suffix}" for name in SPLIT_NAMES[split] for suffix in suffixes)
            raise RawDataError(f"{raw} has no file for split {split} (looked for {names}); choose others with --splits")
    return found


def files_below(raw, suffix):
    """`{stem: path}` of the files below folder `raw` that end in `suffix`, links followed; a stem may occur once."""
    found = {}
    for folder, subfolders, names in os.walk(raw, followlinks=True):
        subfolders.sort()
        for name in names:
            if name.endswith(suffix):
                stem = name[: -len(suffix)]
                if stem in found:
                    raise RawDataError(f"{name} is in two folders: {os.path.dirname(found[stem])} and {folder}")
                found[stem] = os.path.join(folder, name)
    if not found:
        raise RawDataError(f"no {suffix} file in or below {raw}")
    return found


def one_file(raw, patterns, what):
    """The only file of folder `raw` that fits a glob pattern; the first pattern with a fit counts."""
    for pattern in patterns:
        found = sorted(raw.glob(pattern))
        if len(found) > 1:
            raise RawDataError(f"{raw} has {len(found)} files {pattern}: {what} must be one")
        if found:
            return found[0]
    raise RawDataError(f"{raw} has no {what} ({' or '.join(patterns)})")


def read_split_json(path, splits):
    """`{split: [id, ...]}` from a JSON file `{"train": [...], "validation" or "val": [...], "test": [...]}`.

    It has every split of the file, so that a document of a split that was not asked for is not taken for a lost one;
    `splits` must be among them.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RawDataError(f"{path}: the split file cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise RawDataError(f"{path}: the split file must hold one object")
    ids = {split: content[name] for split, names in SPLIT_NAMES.items() for name in names if name in content}
    for split in dict.fromkeys([*splits, *ids]):
        if not isinstance(ids.get(split), list) or not all(isinstance(member, str) for member in ids[split]):
            raise RawDataError(f"{path}: the split file has no list of ids for {split}")
    return ids


def not_listed(path, identifier):
    """The Malformed of a document that no split names: a cut-off list would otherwise shorten the corpus unseen."""
    return Malformed(str(path), None, identifier, "no split names this document")


def not_found(path, line, identifier):
    """The Malformed of a document that a split names and that is not there."""
    return Malformed(str(path), line, identifier, "a split names this document, and it is not there")
