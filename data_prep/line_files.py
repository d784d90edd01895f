"""Folders of line files, {train,valid,test}.{source,target}: which splits there are, and their lines."""

from itertools import zip_longest

from data_prep.errors import UserError
from data_prep.text import SIDES, SPLITS, binary_lines


class BadCorpus(UserError):
    """The line files are not there, not aligned, or no text."""


def lines_of(path):
    """Yield the lines of a file without their ends (`data_prep.text.lines`); raises BadCorpus for what is not UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(binary_lines(file), 1):
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise BadCorpus(f"{path}:{number}: not UTF-8 at byte {error.start} of the line") from error


def splits_of(corpus):
    """`{split: lines}` of the splits that folder `corpus` has.

    Raises:
        BadCorpus: there is no split, a split has no line or one side only, or its two sides differ in length.
    """
    if not corpus.is_dir():
        raise BadCorpus(f"{corpus} is no folder")
    splits = [split for split in SPLITS if any((corpus / f"{split}.{side}").exists() for side in SIDES)]
    if not splits:
        raise BadCorpus(f"{corpus} has no {{train,valid,test}}.{{source,target}}")
    counted = {}
    for split in splits:
        paths = [corpus / f"{split}.{side}" for side in SIDES]
        for path, other in zip(paths, reversed(paths)):
            if not path.is_file():
                raise BadCorpus(f"{path} is missing, but {other.name} is there: a split needs both")
        counted[split] = 0
        with open(paths[0], "rb") as sources, open(paths[1], "rb") as targets:
            for source, target in zip_longest(binary_lines(sources), binary_lines(targets)):
                if source is None or target is None:
                    raise BadCorpus(
                        f"{corpus}: {split}.source and {split}.target differ in length after line {counted[split]}"
                    )
                counted[split] += 1
        if not counted[split]:
            raise BadCorpus(f"{paths[0]} is empty: remove {split}.source and {split}.target, or fill them")
    return counted
