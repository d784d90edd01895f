"""What fairseq-interactive reads."""

import io
import sys

import pytest
from fairseq_cli import interactive
from stock_bart import stock

from srformer_plugin.errors import ConfigurationError


@pytest.fixture(params=["file", "stdin"])
def given(request, tmp_path, monkeypatch):
    """Function (bytes) -> the value of --input for them, and what errors call it."""

    def give(data):
        if request.param == "file":
            (tmp_path / "text").write_bytes(data)
            return str(tmp_path / "text"), str(tmp_path / "text")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))
        return "-", "standard input"

    return give


def test_lines_are_utf8_in_any_locale_without_a_byte_order_mark(given):
    name, _ = given("\ufeffthé bridge \r\n\n the\u2028storm\nlast".encode())
    expected = [["thé bridge", ""], ["the\u2028storm", "last"]]
    assert list(interactive.buffered_read(name, 2)) == expected
    assert list(interactive.buffered_read(given(b"")[0], 2)) == []


def test_a_line_that_is_not_utf8_is_named(given):
    name, shown = given(b"the\ncaf\xe9\n")
    with pytest.raises(ConfigurationError, match=f"{shown}:2 is not UTF-8 text"):
        list(interactive.buffered_read(name, 5))


def test_stock_takes_the_mark_for_a_letter_and_has_no_line(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffthe\n".encode())
    assert list(stock(interactive.buffered_read)(str(path), 1)) == [["\ufeffthe"]]
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(UnicodeDecodeError):
        list(stock(interactive.buffered_read)(str(path), 1))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(interactive.buffered_read(str(tmp_path / "nowhere"), 1))
