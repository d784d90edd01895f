"""Your own data with two named fields: {train,valid,test}*.{jsonl,csv,tsv,parquet}, any number of files a split.

jsonl: an object a line. csv, tsv: a first line with the names; a .csv with quotes as RFC 4180 has them, a .tsv without,
or as --quoting says. parquet: read in batches (needs pyarrow). UTF-8. A field is a text, whose lines count as the
sentences of a target, or a list of sentences. A row with more or fewer columns than the first line is malformed.
"""

from functools import partial

from data_prep.readers.raw_files import files_by_split
from data_prep.readers.scientific_papers import json_lines
from data_prep.readers.tables import QUOTING, check_names, table_rows
from data_prep.record import FileLines, Malformed, MalformedRecord, RawDataError, Unit, make_record, parse_json
from data_prep.text import lines

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")


def add_arguments(parser):
    parser.add_argument("--source-field", required=True, help="name of the field with the document")
    parser.add_argument("--target-field", required=True, help="name of the field with the summary")
    parser.add_argument("--id-field", help="name of the field with an identifier (default: file and line)")
    parser.add_argument(
        "--quoting",
        choices=QUOTING,
        default="auto",
        help="rfc4180: quotes enclose fields, which may then hold tabs, commas and line ends; none: quotes are "
        "characters like any other; auto: rfc4180 for .csv, none for .tsv, and an error that names the line where the "
        "file speaks against it (default: auto)",
    )


def units(raw, options):
    wanted = (options.source_field, options.target_field, options.id_field)
    tables = partial(table_rows, quoting=options.quoting)
    rows_of = {".jsonl": lambda path, names: json_lines(path), ".csv": tables, ".tsv": tables, ".parquet": parquet_rows}
    for split, paths in files_by_split(raw, SUFFIXES, options.splits).items():
        for path in paths:
            for item in rows_of[path.suffix](path, [name for name in wanted if name]):
                if isinstance(item, (Malformed, FileLines)):
                    yield item
                else:
                    number, row = item
                    yield Unit(str(path), number, "", split, (row, wanted))


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
        return lines(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise MalformedRecord(f"field {name!r} is neither a text nor a list of texts")
