"""The documents of a command line: text files, lines of jsonl files, standard input. A bad one stops no other."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data_prep.errors import one_line
from data_prep.text import LONE_SURROGATE, binary_lines, decode, has_lone_surrogate, lines

STDIN = "-"
JSONL = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Document:
    """A text and where it is from, or why there is none.

    Attributes:
        file: as it was named; "-" is standard input.
        line: of a jsonl file, from 1; None: the whole file is one document.
        text: None where `error` says what is wrong.
    """

    file: str
    line: int | None = None
    text: str | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """FILE, or FILE:LINE."""
        shown = "standard input" if self.file == STDIN else self.file
        return shown if self.line is None else f"{shown}:{self.line}"


def read_documents(files: Iterable[str], field: str | None, stdin: BinaryIO) -> list[Document]:
    """The documents of files in their order.

    A file whose name ends in .jsonl or .ndjson has a document on every line that is not blank, in the object's `field`;
    so has standard input where a field is named. Any other file is one document.
    """
    documents: list[Document] = []
    for file in files:
        is_jsonl = field is not None if file == STDIN else file.lower().endswith(JSONL)
        if not is_jsonl:
            documents.append(_checked(_whole(file, stdin)))
        elif field is None:
            documents.append(Document(file, error="--field must name the field of its objects that holds the text"))
        else:
            documents += map(_checked, _objects(file, field, stdin))
    return documents


def _checked(document):
    error = document.error or what_is_wrong(document.text)
    return document if error is None else Document(document.file, document.line, error=error)


NO_SUBWORDS = "it is empty: the model's subwords leave nothing of its characters"  # zero-width spaces, for instance


def what_is_wrong(text: str) -> str | None:
    """Why a text cannot be summarised; None: nothing speaks against it."""
    if not text.strip():
        return "it is empty"
    return LONE_SURROGATE if has_lone_surrogate(text) else None


def _whole(file, stdin):
    try:
        return Document(file, text=decode(stdin.read() if file == STDIN else Path(file).read_bytes()))
    except UnicodeDecodeError as error:
        line = len(lines(error.object[: error.start].decode() + "."))
        return Document(file, error=f"it is not UTF-8 text (line {line})")
    except OSError as error:
        return Document(file, error=error.strerror or one_line(error))


def _objects(file, field, stdin):
    try:
        if file == STDIN:
            yield from _lines(stdin, file, field)
        else:
            with open(file, "rb") as opened:
                yield from _lines(opened, file, field)
    except OSError as error:
        yield Document(file, error=error.strerror or one_line(error))


def _lines(opened, file, field):
    empty = True
    for number, line in enumerate(binary_lines(opened), 1):
        if line.strip():
            empty = False
            yield _of_object(line, file, number, field)
    if empty:
        yield Document(file, error="it is empty")


def _of_object(line, file, number, field):
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError:
        return Document(file, number, error="it is not UTF-8 text")
    except (ValueError, RecursionError) as error:  # the latter: nested too deeply
        return Document(file, number, error=f"it is no JSON: {error}")
    if not isinstance(value, dict):
        return Document(file, number, error="it is no JSON object")
    if field not in value:
        known = ", ".join(map(repr, value)) or "none"
        return Document(file, number, error=f"it has no field {field!r}; it has {known}")
    if not isinstance(value[field], str):
        return Document(file, number, error=f"its field {field!r} is no text")
    return Document(file, number, text=value[field])
