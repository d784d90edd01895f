"""Types of command line arguments, for the `type` of argparse: positive, non_negative, share, token_limit, ..."""

import argparse
from pathlib import Path

MOST_RESAMPLINGS = 1_000_000  # whose means are in memory together; their intervals differ by less than is printed


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _at_least(1, text)


def non_negative(text: str) -> int:
    """A whole number of at least 0."""
    return _at_least(0, text)


def resamplings(text: str) -> int:
    """A number of resamplings of a bootstrap: from 1 to `MOST_RESAMPLINGS`."""
    value = _at_least(1, text)
    if value > MOST_RESAMPLINGS:
        raise argparse.ArgumentTypeError(f"{value} is more than {MOST_RESAMPLINGS:,}")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = _number(float, text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: it must be from 0 to 1")
    return value


def token_limit(text: str) -> int:
    """A number of tokens, the end of sentence counted; 0 stands for no limit."""
    value = _at_least(0, text)
    if value == 1:
        raise argparse.ArgumentTypeError("1 leaves no text: give 0, or at least 2, one piece and the end of sentence")
    return value


def vocabulary(text: str) -> int:
    """A number of subwords: the unknown one, the mark of sentences, the space and one character at least."""
    return _at_least(4, text)


def word(text: str) -> str:
    """A text without white space, and not empty."""
    if text.split() != [text]:
        raise argparse.ArgumentTypeError(f"{text!r} is not one word")
    return text


def file(text: str) -> Path:
    """The path of a file that is there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{path} is not a file")
    return path


def _at_least(least, text):
    value = _number(int, text)
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} is not at least {least}")
    return value


def _number(kind, text):
    try:
        return kind(text)
    except ValueError:
        what = "whole number" if kind is int else "number"
        raise argparse.ArgumentTypeError(f"{text!r} is not a {what}") from None
