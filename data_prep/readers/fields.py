"""Your own data with two named fields: {train,valid,test}*.{jsonl,csv,tsv,parquet}, any number of files a split.

jsonl: an object a line. csv, tsv: a first line with the names, quotes as RFC 4180 has them, UTF-8. parquet: read in
batches (needs pyarrow). A field is a text, whose lines count as the sentences of a target, or a list of sentences.
A csv row with more or fewer columns than the first line is malformed, and so is a quote that is never closed.
"""

import csv
import io

from data_prep.readers.raw_files import files_by_split
from data_prep.readers.scientific_papers import json_lines
from data_prep.record import Malformed, MalformedRecord, RawDataError, Unit, make_record, parse_json

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
# The module's limit of 131,072 characters a field would refuse long documents.
LARGEST_CSV_FIELD = 2**30


def add_arguments(parser):
    parser.add_argument("--source-field", required=True, help="name of the field with the document")
    parser.add_argument("--target-field", required=True, help="name of the field with the summary")
    parser.add_argument("--id-field", help="name of the field with an identifier (default: file and line)")


def units(raw, options):
    wanted = (options.source_field, options.target_field, options.id_field)
    rows_of = {".jsonl": jsonl_rows, ".csv": csv_rows, ".tsv": csv_rows, ".parquet": parquet_rows}
    for split, paths in files_by_split(raw, SUFFIXES, options.splits).items():
        for path in paths:
            for number, row in rows_of[path.suffix](path, [name for name in wanted if name]):
                if isinstance(row, Malformed):
                    yield row
                else:
                    yield Unit(str(path), number, "", split, (row, wanted))


def jsonl_rows(path, names):
    return json_lines(path)


def csv_rows(path, names):
    """Yield `(line number, {name: text})`, or a Malformed in place of a row that is none."""
    csv.field_size_limit(LARGEST_CSV_FIELD)
    # a byte that is not UTF-8 costs its row and no other: `fold` refuses what surrogateescape makes of it
    with open(path, encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        rows = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        header = None
        while True:
            first = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                break
            except csv.Error as error:
                reason = f"lines {first} to {rows.line_num} are no csv row: {error}"
                yield first, Malformed(str(path), first, "", reason)
                continue
            if header is None:
                header = row
                check_names(path, header, names)
            elif row and len(row) != len(header):
                reason = f"{len(row)} columns where the first line has {len(header)}"
                yield first, Malformed(str(path), first, "", reason)
            elif row:
                yield first, dict(zip(header, row))
        if header is None:
            raise RawDataError(f"{path}: no first line with the names of the columns")


def parquet_rows(path, names):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RawDataError("reading parquet needs pyarrow: pip install 'srformer-plugin[data]'") from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            check_names(path, file.schema_arrow.names, names)
            for batch in file.iter_batches(batch_size=64, columns=names):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RawDataError(f"{path}: cut off or damaged after {number} rows: {reason}") from error


def check_names(path, header, names):
    missing = [name for name in names if name not in header]
    if missing:
        raise RawDataError(f"{path}: no field {', '.join(missing)}; it has {', '.join(map(str, header))[:500]}")
    if len(set(header)) != len(header):
        raise RawDataError(f"{path}: two fields of the same name")


def parse(unit):
    row, (source, target, identifier) = unit.payload
    if isinstance(row, bytes):
        row = parse_json(row)
    name = str(row.get(identifier)) if identifier and isinstance(row, dict) else f"{unit.file}:{unit.line}"
    unit = unit._replace(id=name)
    return make_record(unit, " ".join(texts_of(row, source)), texts_of(row, target))


def texts_of(row, name):
    """The lines of a text, or the items of a list."""
    if not isinstance(row, dict):
        raise MalformedRecord(f"a JSON {type(row).__name__} and not an object")
    if name not in row:
        raise MalformedRecord(f"no field {name!r}")
    value = row[name]
    if isinstance(value, str):
        return io.StringIO(value).readlines()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise MalformedRecord(f"field {name!r} is neither a text nor a list of texts")
