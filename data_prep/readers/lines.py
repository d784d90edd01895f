"""Line files: {train,valid,test}.{source,target}, a document and its summary on the same line of the two, UTF-8.

The sentences of a target stand between separators (see data_prep/record.py). Files of different length are an error:
nothing would say which lines belong together. {train,valid,test}.spans.jsonl beside them, of what is relevant in the
sources (data_prep/spans.py), is carried on.
"""

from itertools import zip_longest

from data_prep.readers.raw_files import SPLIT_NAMES, one_file
from data_prep.record import FileLines, MalformedRecord, RawDataError, Unit, make_record
from data_prep.spans import SPANS, parse_spans
from data_prep.text import SIDES, binary_lines, read_lines


def units(raw, options):
    for split in options.splits:
        source, target = (
            one_file(raw, [f"{name}.{side}" for name in SPLIT_NAMES[split]], f"{split}.{side}") for side in SIDES
        )
        spans = source.with_suffix(f".{SPANS}")
        relevant = read_lines(spans) if spans.exists() else None
        number = 0
        with open(source, "rb") as sources, open(target, "rb") as targets:
            pairs = zip_longest(binary_lines(sources), binary_lines(targets))
            for number, (text, summary) in enumerate(pairs, 1):
                if text is None or summary is None:
                    longer = source if summary is None else target
                    raise RawDataError(f"{longer}: more lines than the {number - 1} of its other side")
                if relevant is not None and number > len(relevant):
                    break
                line = None if relevant is None else relevant[number - 1]
                yield Unit(str(source), number, f"{split}-{number}", split, (text, summary, line))
        if relevant is not None and number != len(relevant):
            raise RawDataError(
                f"{spans}: {len(relevant)} lines, and {source.name} has others: make both anew, or remove it"
            )
        yield FileLines(str(source), number, 0, 0, number, number, 0)


def parse(unit):
    try:
        text, summary = (side.decode() for side in unit.payload[:2])
    except UnicodeDecodeError as error:
        raise MalformedRecord(f"not UTF-8 at byte {error.start}") from error
    record = make_record(unit, text, [summary])
    if unit.payload[2] is None:
        return record
    try:
        spans = parse_spans(unit.payload[2])
    except ValueError as error:
        raise MalformedRecord(f"its line of spans: {error}") from error
    length = len(record.source.split())
    if spans.length != length:
        raise MalformedRecord(f"its line of spans is of a source of {spans.length} words, and this one has {length}")
    return record._replace(spans=spans)
