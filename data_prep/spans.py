"""Which stretches of a source are known to be relevant: SPLIT.spans.jsonl, beside line files.

    {"id": "meeting 3, specific query 2", "length": 9120, "spans": [[210, 480], [1002, 1100]], "cut": false}

Line n speaks of line n of SPLIT.source: it has `length` words, and words 210 to 479 and 1,002 to 1,099 are relevant.
Words are what white space separates, the mark between sentences included; of what `data_prep.encode` writes, whose
lines are subwords with spaces between, they are the subwords. No spans: nothing is known. `cut`: relevant words,
perhaps all of them, are gone, since the source was cut.
"""

import json
from collections.abc import Callable, Iterable
from typing import NamedTuple

from data_prep.errors import UserError
from data_prep.text import read_lines

SPANS = "spans.jsonl"  # behind the name of a split and a dot


class BadSpans(UserError):
    """Spans that are damaged or belong to another text. The message names the file and the line."""


class Spans(NamedTuple):
    """What is relevant in one source. `spans`: half-open, in order, apart from each other, within `length`."""

    id: str
    length: int
    spans: tuple[tuple[int, int], ...]
    cut: bool = False

    def to_json(self) -> str:
        """As one line."""
        return json.dumps(self._asdict())

    def first(self, length: int) -> "Spans":
        """Of the source's first `length` words."""
        if length >= self.length:
            return self
        kept = tuple((start, min(end, length)) for start, end in self.spans if start < length)
        return self._replace(length=length, spans=kept, cut=self.cut or kept != self.spans)

    def moved(self, length: int, border: Callable[[int], int]) -> "Spans":
        """Of the same source as `length` other words: the first n words are the first `border(n)` there."""
        pairs = [(border(start), border(end)) for start, end in self.spans]
        return self._replace(length=length, spans=joined(pairs))


def joined(pairs: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Half-open stretches in order, those that touch or overlap as one, empty ones left out."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(pairs):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        elif start < end:
            found.append((start, end))
    return tuple(found)


def parse_spans(line: str | bytes) -> Spans:
    """The `Spans` of a line. Raises ValueError, whose message says what is wrong."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(content, dict) or content.keys() != set(Spans._fields):
        raise ValueError(f"not an object with {', '.join(Spans._fields)}")
    name, length, spans, cut = (content[field] for field in Spans._fields)
    if not isinstance(name, str) or type(length) is not int or type(cut) is not bool or not _are_pairs(spans):
        raise ValueError("not a text, a number, a list of pairs of numbers, and true or false")
    found = tuple((start, end) for start, end in spans)
    if joined(found) != found or (found and not 0 <= found[0][0] < found[-1][1] <= length):
        raise ValueError(f"spans that are empty, not in order, or not within the {length:,} words")
    return Spans(name, length, found, cut)


def _are_pairs(value) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair) for pair in value
    )


def read_spans(path) -> list[Spans]:
    """The spans in a file, a line each.

    Raises:
        BadSpans: a line is none.
        BadText: the file cannot be read, or is not UTF-8.
    """
    found = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            found.append(parse_spans(line))
        except ValueError as error:
            raise BadSpans(f"{path}:{number}: no line of spans: {error}") from error
    return found
