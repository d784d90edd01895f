"""Tables: no quote takes a row away, and every line is accounted for."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.prepare import TooManyMalformed, default_options, main, prepare
from data_prep.readers.tables import table_rows
from data_prep.record import FileLines, Malformed, RawDataError


def read(path, quoting="auto", names=("text", "summary")):
    """`(rows, Malformeds, FileLines)` of a table."""
    *items, lines = table_rows(path, names, quoting)
    malformed = [item for item in items if isinstance(item, Malformed)]
    assert isinstance(lines, FileLines)
    assert lines.lines == lines.header + lines.blank + lines.in_records + lines.malformed
    assert lines.malformed == sum(item.lines for item in malformed)
    return [row for _, row in (item for item in items if not isinstance(item, Malformed))], malformed, lines


def rows_with_stray_quotes(count=400):
    """Rows of text and summary; one text begins with a quote, and another, 80 rows on, ends with one."""
    rows = [[f"text {number}", f"summary {number}"] for number in range(count)]
    rows[100][0] = '" We will do it'
    rows[180][0] = 'it was 180 "'
    return rows


def write(path, rows, delimiter="\t", head=("text", "summary")):
    path.write_text("".join(delimiter.join(row) + "\n" for row in [head, *rows]), encoding="utf-8")
    return path


def test_stray_quotes_take_no_row_of_a_tsv(tmp_path):
    written = rows_with_stray_quotes()
    rows, malformed, lines = read(write(tmp_path / "train.tsv", written))
    assert [[row["text"], row["summary"]] for row in rows] == written
    assert malformed == []
    assert lines == FileLines(str(tmp_path / "train.tsv"), 401, 1, 0, 400, 400, 0)


def test_stray_quotes_of_a_csv_are_an_error_that_names_the_lines_and_the_remedy(tmp_path):
    path = write(tmp_path / "train.csv", rows_with_stray_quotes(), ",")
    with pytest.raises(RawDataError, match="train.csv: a quote joins lines 102 to 182, .* --quoting none"):
        read(path)
    assert len(read(path, "none")[0]) == 400
    rows, _, lines = read(path, "rfc4180")  # as its user says it is meant
    assert (len(rows), lines.records, lines.in_records) == (320, 320, 400)


def test_a_few_broken_rows_do_not_hide_that_a_quote_joins_others(tmp_path):
    written = [*rows_with_stray_quotes(), ["only"]]
    with pytest.raises(RawDataError, match="a quote joins lines 102 to 182"):
        read(write(tmp_path / "train.csv", written, ","))


def test_paragraphs_in_quotes_are_one_record_of_several_lines(tmp_path):
    text = io.StringIO()
    csv.writer(text).writerows([["text", "summary"], ["one, two\nthree\n\nfour, five", "s"], ['"so" it is', "t"]])
    (tmp_path / "train.csv").write_text(text.getvalue(), newline="")
    rows, _, lines = read(tmp_path / "train.csv")
    assert [row["text"] for row in rows] == ["one, two\nthree\n\nfour, five", '"so" it is']
    assert (lines.records, lines.in_records) == (2, 5)


@pytest.mark.parametrize("rows", [[["a", "b"], ['"He said ""no"""', "c"]], [['"a ""b"""', "c"]]])
def test_a_tsv_with_quotes_that_enclose_fields_is_an_error_that_names_the_line(rows, tmp_path):
    path = write(tmp_path / "train.tsv", rows)
    with pytest.raises(RawDataError, match=f"train.tsv:{len(rows) + 1} has a field in quotes.* --quoting rfc4180"):
        read(path)
    assert '"' not in read(path, "rfc4180")[0][0]["text"].replace('"b"', "")
    assert read(path, "none")[0][-1]["text"] == rows[-1][0]


def test_names_in_quotes_are_an_error_with_the_remedy(tmp_path):
    with pytest.raises(RawDataError, match="no field text, summary; it has .* --quoting rfc4180"):
        read(write(tmp_path / "train.tsv", [], head=('"text"', '"summary"')))


fields = st.text(st.sampled_from(['"', "a", " ", ",", "\u2028", "\x85", "'"]), min_size=1, max_size=5)


@given(rows=st.lists(st.tuples(fields, fields), max_size=8))
def test_no_row_of_an_unquoted_table_is_lost_or_changed(rows, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("table") / "train.tsv", rows)
    assert [(row["text"], row["summary"]) for row in read(path, "none")[0]] == rows


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "end"])
def test_line_ends_byte_order_mark_and_last_line(end, start, last, tmp_path):
    text = start + end.join(["text,summary", "", "a\u2028b,c\x85d", "only", "e,f"]) + (end if last else "")
    (tmp_path / "é x.csv").write_bytes(text.encode())
    rows, malformed, lines = read(tmp_path / "é x.csv")
    assert rows == [{"text": "a\u2028b", "summary": "c\x85d"}, {"text": "e", "summary": "f"}]
    assert [item.line for item in malformed] == [4]
    assert lines[1:] == (5, 1, 1, 2, 2, 1)


def test_an_empty_table_is_an_error(tmp_path):
    (tmp_path / "train.csv").write_text("\n\n")
    with pytest.raises(RawDataError, match="no first line with the names"):
        read(tmp_path / "train.csv")


def prepared(tmp_path, content, **changes):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.csv").write_text(content)
    options = default_options(
        "fields", source_field="text", target_field="summary", splits=["train"], **{"quoting": "rfc4180", **changes}
    )
    return prepare("fields", tmp_path / "raw", tmp_path / "out", options)


def test_the_share_of_malformed_records_counts_lines(tmp_path):
    content = "text,summary\n" + "".join(f"a{n},b\n" for n in range(7)) + '"c,d\n\n\n'  # three lines, one csv error
    with pytest.raises(TooManyMalformed, match="3 of 10 records"):
        prepared(tmp_path, content, max_malformed=0.2)


def test_manifest_and_report_account_for_every_line(tmp_path):
    manifest = prepared(tmp_path, 'text,summary\n"a\nb",c\n\nonly\nd,e\n', max_malformed=0.5)
    expected = {"lines": 6, "header": 1, "blank": 1, "records": 2, "in_records": 3, "malformed": 1}
    assert manifest["lines"] == {"train.csv": expected}
    assert "| train.csv | 6 | 1 | 1 | 2 | 3 | 1 |" in (tmp_path / "out" / "report.md").read_text()


def test_quoting_is_an_option_of_the_command(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw" / "train.tsv", [["a", "b"], ['"c ""d"""', "e"]])
    arguments = ["fields", str(tmp_path / "raw"), str(tmp_path / "out"), "--splits", "train", "--workers", "1"]
    arguments += ["--source-field", "text", "--target-field", "summary"]
    assert main(arguments) == 2
    assert "train.tsv:3 has a field in quotes" in capsys.readouterr().err
    assert main([*arguments, "--quoting", "rfc4180"]) == 0
    assert (tmp_path / "out" / "train.source").read_text() == 'a\nc "d"\n'
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["options"]["quoting"] == "rfc4180"
