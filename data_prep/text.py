"""Units of text, the same from the raw files to the score.

- `SPLITS`, `SIDES`: the files of a corpus are `{train,valid,test}.{source,target}`.
- Lines: `lines` of a text, `read_lines` of a file, `binary_lines` of an open file. Only line feed, carriage return and
  both together end a line; U+2028, U+0085 and the like, at which `str.splitlines` splits too, are characters of a text.
- `decode`, `read_text`: UTF-8 without its byte order mark. `has_lone_surrogate`: what no UTF-8 can be.
- Sentences: `SENTENCE_MARK` between those of a target; `join_sentences`, `split_sentences`, `without_marks`.
- Words: `words`, what white space separates; the mark is none. `first_words` cuts to a number of them.
"""

import codecs
import re
from pathlib import Path

from data_prep.errors import UserError

SPLITS = ("train", "valid", "test")
SIDES = ("source", "target")

# Stands between the sentences of a target, with a space on either side, until scoring: ROUGE-Lsum needs the sentences.
SENTENCE_MARK = "<q>"

# What is wrong where `has_lone_surrogate` holds
LONE_SURROGATE = "no text: half of a surrogate pair, or a byte that is not UTF-8"

_LINE_END = re.compile(r"\r\n|\r|\n")
_MARK = re.compile(rf"{SENTENCE_MARK}|\n")
_SPACED_MARK = re.compile(rf"\s*(?:{SENTENCE_MARK}|\n)\s*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class BadText(UserError):
    """A text file that cannot be read, or that is not UTF-8; the message names it and the line."""


def lines(text: str) -> list[str]:
    """The lines of a text without their ends, as many as there are line ends, and one more if text follows the last."""
    parts = _LINE_END.split(text)
    return parts if parts[-1] else parts[:-1]


def binary_lines(file):
    """Yield the lines of a file that is open for reading bytes, as `lines` splits text, without a byte order mark."""
    start = codecs.BOM_UTF8
    for chunk in file:
        chunk, start = chunk.removeprefix(start), b""
        # what ends in a line feed may hold lines that a carriage return ends
        yield from chunk.removesuffix(b"\n").removesuffix(b"\r").split(b"\r")


def decode(data: bytes) -> str:
    """UTF-8 without its byte order mark. Raises UnicodeDecodeError."""
    return data.removeprefix(codecs.BOM_UTF8).decode()


def has_lone_surrogate(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which JSON can express and UTF-8 cannot.

    A byte that is not UTF-8 is one, too, where a file or a name was read with `errors="surrogateescape"`.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def read_text(path) -> str:
    """The text of a UTF-8 file without its byte order mark.

    Raises:
        BadText: the file cannot be read, or is not UTF-8.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadText(f"cannot read {path}: {error.strerror}") from error
    try:
        return decode(data)
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode() + "."
        at = len(data) - len(error.object) + error.start
        raise BadText(f"{path}:{len(lines(before))} is not UTF-8 text (byte {at} of the file)") from error


def read_lines(path) -> list[str]:
    """The lines of a UTF-8 file without their ends, as `lines` has them; blank lines count.

    Raises:
        BadText: as `read_text`.
    """
    return lines(read_text(path))


def join_sentences(sentences) -> str:
    """Sentences on one line, with the mark between them."""
    return f" {SENTENCE_MARK} ".join(sentences)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text: between the marks `<q>` and newline where it has one, else after . ? ! and a space."""
    return (_MARK if _MARK.search(text) else _SENTENCE_END).split(text)


def without_marks(text: str) -> str:
    """The text with a space in place of each sentence mark."""
    return _SPACED_MARK.sub(" ", text).strip()


def words(text: str) -> list[str]:
    """What white space separates, but for the marks between sentences."""
    return [word for word in text.split() if word != SENTENCE_MARK]


def first_words(text: str, count: int) -> str:
    """A text on one line cut to its first `count` `words`; marks between them stay, none is last."""
    kept: list[str] = []
    last = 0
    for word in text.split():
        if word != SENTENCE_MARK:
            if count == 0:
                break
            count -= 1
            last = len(kept) + 1
        kept.append(word)
    return " ".join(kept[:last])
