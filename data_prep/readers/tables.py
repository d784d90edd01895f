"""Rows of .csv and .tsv files, every line of which is accounted for.

How quotes are read is `quoting`:

- "rfc4180": a field in quotes may hold delimiters, line ends and doubled quotes, as spreadsheets write them;
- "none": a quote is a character like any other, as in most .tsv files of texts;
- "auto": a .csv as "rfc4180", a .tsv as "none"; what speaks against it is an error that names the line. Without that a
  stray quote takes all lines up to the next one into a single field.
"""

import csv

from data_prep.record import FileLines, Malformed, RawDataError

QUOTING = ("auto", "rfc4180", "none")
# The module's limit of 131,072 characters a field would refuse long documents.
LARGEST_FIELD = 2**30
# A file of which so many lines are a row by themselves is taken for one without quotes.
SHARE_OF_ROWS = 0.99


def table_rows(path, names, quoting="auto"):
    """Yield `(line number, {name: text})` or a `Malformed` for each row of a file, and its `FileLines` at the end.

    Args:
        names: columns that the first line must have.

    Raises:
        RawDataError: no such columns; or, with "auto", quotes that are not used as the file's name lets expect.
    """
    csv.field_size_limit(LARGEST_FIELD)
    delimiter = "\t" if path.suffix == ".tsv" else ","
    quoted = quoting == "rfc4180" or (quoting == "auto" and path.suffix == ".csv")
    how = {"strict": True} if quoted else {"quoting": csv.QUOTE_NONE, "quotechar": None}
    header, blank, records, in_records, malformed = None, 0, 0, 0, 0
    # a byte that is not UTF-8 costs its row and no other: `fold` refuses what surrogateescape makes of it
    with open(path, encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        source = Remembered(file)
        rows = csv.reader(source, delimiter=delimiter, **how)
        while True:
            first = rows.line_num + 1
            source.lines.clear()
            try:
                row = next(rows)
            except StopIteration:
                break
            except csv.Error as error:
                count = rows.line_num - first + 1
                reason = f"lines {first} to {rows.line_num} are no csv row: {error}"
                if quoting == "auto" and count > 1:
                    raise RawDataError(f"{path}: {reason}; {REMEDY}") from error
                malformed += count
                yield Malformed(str(path), first, "", reason, count)
                continue
            count = rows.line_num - first + 1
            if quoting == "auto" and not quoted and any(map(_is_quoted, row)):
                raise RawDataError(f"{path}:{first} has a field in quotes; {REMEDY}")
            if not row:
                blank += count
            elif header is None:
                header, header_lines = row, count
                check_names(path, header, names)
            elif len(row) != len(header):
                malformed += count
                reason = f"{len(row)} columns where the first line has {len(header)}"
                yield Malformed(str(path), first, "", reason, count)
            else:
                if quoting == "auto" and count > 1 and _are_rows(path, source.lines, delimiter, len(header)):
                    raise RawDataError(
                        f"{path}: a quote joins lines {first} to {rows.line_num}, each of which is a row by itself; "
                        f"{REMEDY}"
                    )
                records += 1
                in_records += count
                yield first, dict(zip(header, row))
        total = rows.line_num
    if header is None:
        raise RawDataError(f"{path}: no first line with the names of the columns")
    yield FileLines(str(path), total, header_lines, blank, records, in_records, malformed)


REMEDY = "say --quoting none if quotes are plain characters here, --quoting rfc4180 if they enclose fields"


class Remembered:
    """The lines of a file, of which those since the last `lines.clear()` are kept."""

    def __init__(self, file):
        self.file = file
        self.lines = []

    def __iter__(self):
        for line in self.file:
            self.lines.append(line)
            yield line


def _is_quoted(field):
    """Whether a field is as RFC 4180 encloses one that holds a quote; as plain text nobody writes it so."""
    inner = field[1:-1]
    return len(field) > 2 and field[0] == field[-1] == '"' and '""' in inner and '"' not in inner.replace('""', "")


def _are_rows(path, lines, delimiter, columns):
    """Whether each of `lines`, and nearly each of the whole file, is a row if quotes are plain characters."""

    def is_row(line):
        return line.count(delimiter) == columns - 1

    if not all(map(is_row, lines)):
        return False
    with open(path, encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        found = [is_row(line) for line in file if line.strip()]
    return sum(found) >= SHARE_OF_ROWS * len(found)


def check_names(path, header, names):
    """Raise RawDataError unless `header` has all of `names`, and none twice."""
    missing = [name for name in names if name not in header]
    if missing:
        hint = f"; {REMEDY}" if any(name[:1] == name[-1:] == '"' for name in header) else ""
        raise RawDataError(f"{path}: no field {', '.join(missing)}; it has {', '.join(map(str, header))[:500]}{hint}")
    if len(set(header)) != len(header):
        raise RawDataError(f"{path}: two fields of the same name")
