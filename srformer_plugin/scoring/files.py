"""Texts from files: one a line, or what `fairseq-generate` wrote."""

import re

from data_prep.errors import UserError
from data_prep.text import BadText, lines, read_text

_GENERATED = re.compile(r"^([DH])-(\d+)\t(?:-?[\d.]+(?:e[+-]?\d+)?|-?inf|nan)\t(.*)$", flags=re.DOTALL)


class ScoringError(UserError, ValueError):
    """Files that cannot be scored. The message is one sentence that names the file."""


def read_lines(path) -> list[str]:
    """The lines of a UTF-8 text file without their ends; blank lines count.

    Raises:
        ScoringError: the file cannot be read, is not UTF-8, or is empty.
    """
    return lines(_read(path))


def read_hypotheses(path, count: int) -> list[str]:
    """The hypotheses for `count` references, in the data's order.

    `path` holds one a line, or is the output of `fairseq-generate`, which goes by length: there a hypothesis is
    `D-<index> <tab> <score> <tab> <text>` (or `H-...`, not detokenised, where there are no D-lines), the best one of a
    sentence first.

    Raises:
        ScoringError: as `read_lines`; or a hypothesis is missing, unknown or there twice. A mean over the others would
            look like a score.
    """
    texts = read_lines(path)
    generated = [found.groups() for found in map(_GENERATED.match, texts) if found]
    if generated:
        return _in_order(path, generated, count)
    if len(texts) != count:
        raise ScoringError(f"{path} has {len(texts):,} lines, but there are {count:,} references")
    return texts


def _read(path):
    try:
        text = read_text(path)
    except BadText as error:
        raise ScoringError(str(error)) from error
    if not text.strip():
        raise ScoringError(f"{path} is empty")
    return text


def _in_order(path, generated, count):
    kind = "D" if any(kind == "D" for kind, _, _ in generated) else "H"
    best, last = {}, None
    for index, text in ((int(index), text) for found, index, text in generated if found == kind):
        if index not in best:
            best[index] = text
        elif index != last:  # the worse hypotheses of --nbest follow the best one at once
            raise ScoringError(f"{path} has sentence {index} twice: is it the output of two runs?")
        last = index
    missing, unknown = sorted(set(range(count)) - set(best)), sorted(set(best) - set(range(count)))
    if unknown:
        raise ScoringError(
            f"{path} has a hypothesis for sentence {unknown[0]}{_and_more(unknown)}, but there are {count:,} references"
        )
    if missing:
        raise ScoringError(f"{path} has no hypothesis for sentence {missing[0]}{_and_more(missing)} of {count:,}")
    return [best[index] for index in range(count)]


def _and_more(indices):
    return f" (and {len(indices) - 1:,} more)" if len(indices) > 1 else ""
