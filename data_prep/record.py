"""What every reader yields: records, and an account of what could not be read.

A reader cuts the raw files into units (one a document) and parses a unit into a `Record`. What cannot be parsed
becomes a `Malformed` with its file, line and reason: it is counted and never fatal by itself. `RawDataError` means
that reading cannot go on, or that going on would lose documents without a trace.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.errors import UserError
from data_prep.spans import Spans
from data_prep.text import LONE_SURROGATE, SENTENCE_MARK, decode, has_lone_surrogate, join_sentences


class Record(NamedTuple):
    """One document and its summary; all texts are folded (see `fold`) and may be empty.

    `notes` name what a user should know about the document though it is kept; they are counted. `spans` is what is
    known to be relevant in the source: of all records of a split, or of none.
    """

    id: str
    split: str
    source: str
    target: tuple[str, ...]
    notes: tuple[str, ...] = ()
    spans: Spans | None = None

    @property
    def target_line(self):
        """The sentences of the target with the mark between them."""
        return join_sentences(self.target)


class Unit(NamedTuple):
    """One raw document, not yet parsed; `line` is None where the file is the document."""

    file: str
    line: int | None
    id: str
    split: str
    payload: Any


class Malformed(NamedTuple):
    """A document that could not be read, and why."""

    file: str
    line: int | None
    id: str
    reason: str
    lines: int = 1  # of the file that it stands for

    def __str__(self):
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.reason}" + (f" ({self.id})" if self.id else "")


class FileLines(NamedTuple):
    """What became of the lines of a file that holds a record a line; they add up to `lines`."""

    file: str
    lines: int
    header: int
    blank: int
    records: int
    in_records: int  # lines of the records, of which one may have several
    malformed: int


class MalformedRecord(ValueError):
    """Raised by a parser: this one document is not in the format."""


class RawDataError(UserError):
    """The raw files are not what the format says, so that reading cannot go on."""


def fold(text):
    """`text` on one line, with single spaces between its words.

    Whatever `str.splitlines` takes for the end of a line becomes a space as well, or a later tool would see more lines.
    Raises MalformedRecord where `has_lone_surrogate` says so.
    """
    if has_lone_surrogate(text):
        raise MalformedRecord(LONE_SURROGATE)
    return " ".join(text.split())


def make_record(unit, source, sentences, notes=()):
    """The Record of `unit`: texts folded, empty sentences left out, separators that the text already holds honoured."""
    parts = [fold(part) for sentence in sentences for part in sentence.split(SENTENCE_MARK)]
    return Record(fold(unit.id), unit.split, fold(source), tuple(part for part in parts if part), tuple(notes))


def parse_unit(parse, unit):
    """`parse(unit)`, or the Malformed that says why not; what is no unit passes through."""
    if not isinstance(unit, Unit):
        return unit
    try:
        return parse(unit)
    except MalformedRecord as error:
        return Malformed(unit.file, unit.line, unit.id, str(error))


def parse_json(data):
    """The JSON value in `data` (bytes or str). Raises MalformedRecord, also if nested too deeply."""
    try:
        return json.loads(data)
    except UnicodeDecodeError as error:
        raise MalformedRecord(f"not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise MalformedRecord(f"not JSON: {error}") from error


def member(mapping, name, kind):
    """`mapping[name]`, checked to be a `kind`; a list is checked to hold text only. Raises MalformedRecord."""
    if not isinstance(mapping, dict):
        raise MalformedRecord(f"a JSON {type(mapping).__name__} and not an object")
    if name not in mapping:
        raise MalformedRecord(f"no field {name!r}")
    value = mapping[name]
    if not isinstance(value, kind):
        raise MalformedRecord(f"field {name!r} is a {type(value).__name__}, not a {kind.__name__}")
    if kind is list and not all(isinstance(item, str) for item in value):
        raise MalformedRecord(f"field {name!r} holds something that is no text")
    return value


def read_text(path):
    """The text of a file, UTF-8. Raises MalformedRecord."""
    try:
        return decode(Path(path).read_bytes())
    except UnicodeDecodeError as error:
        raise MalformedRecord(f"not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise MalformedRecord(error.strerror or str(error)) from error
