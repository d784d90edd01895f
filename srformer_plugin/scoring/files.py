"""Texts from files: one a line, or what `fairseq-generate` wrote."""

import re
from pathlib import Path

_GENERATED = re.compile(r"^([DH])-(\d+)\t(?:-?[\d.]+(?:e[+-]?\d+)?|-?inf|nan)\t(.*)$", flags=re.MULTILINE)


class ScoringError(ValueError):
    """Files that cannot be scored. The message is one sentence that names the file."""


def read_lines(path) -> list[str]:
    """The lines of a UTF-8 text file without their ends; blank lines count, only line feeds end a line.

    Raises:
        ScoringError: the file cannot be read, is not UTF-8, or is empty.
    """
    text = _read(path)
    lines = text.removesuffix("\n").split("\n")
    return [line.removesuffix("\r") for line in lines]


def read_hypotheses(path, count: int) -> list[str]:
    """The hypotheses for `count` references, in the data's order.

    `path` holds one a line, or is the output of `fairseq-generate`, which goes by length: there a hypothesis is
    `D-<index> <tab> <score> <tab> <text>` (or `H-...`, not detokenised, where there are no D-lines), the best one of a
    sentence first.

    Raises:
        ScoringError: as `read_lines`; or a hypothesis is missing, unknown or there twice. A mean over the others would
            look like a score.
    """
    generated = _GENERATED.findall(_read(path))
    if generated:
        return _in_order(path, generated, count)
    lines = read_lines(path)
    if len(lines) != count:
        raise ScoringError(f"{path} has {len(lines):,} lines, but there are {count:,} references")
    return lines


def _read(path):
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ScoringError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ScoringError(f"{path} is not UTF-8 text (byte {error.start})") from error
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
