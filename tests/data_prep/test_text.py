"""Units of text: lines, sentences, words."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.text import (
    BadText,
    binary_lines,
    first_words,
    join_sentences,
    lines,
    read_lines,
    read_text,
    split_sentences,
    without_marks,
    words,
)

# What str.splitlines takes for the end of a line, and is none.
NO_LINE_ENDS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
texts = st.text(st.sampled_from(["a", "é", "\n", "\r", *NO_LINE_ENDS]), max_size=12)


@pytest.mark.parametrize("character", NO_LINE_ENDS)
def test_separators_of_unicode_end_no_line(character):
    assert lines(f"one{character}two\nthree") == [f"one{character}two", "three"]


@given(texts)
def test_lines_end_as_in_pythons_text_files(text):
    expected = [line.removesuffix("\n") for line in io.StringIO(text, newline=None)]
    assert lines(text) == expected
    assert [line.decode() for line in binary_lines(io.BytesIO(text.encode()))] == expected


@pytest.mark.parametrize("content", ["\ufeffone\r\ntwo", "one\rtwo\r", "one\ntwo\n"])
def test_a_byte_order_mark_is_no_character(content, tmp_path):
    (tmp_path / "file").write_bytes(content.encode())
    assert read_lines(tmp_path / "file") == ["one", "two"]
    with open(tmp_path / "file", "rb") as file:
        assert list(binary_lines(file)) == [b"one", b"two"]


def test_a_mark_that_is_not_at_the_start_is_a_character(tmp_path):
    (tmp_path / "file").write_text("one\n\ufefftwo", encoding="utf-8")
    assert read_lines(tmp_path / "file") == ["one", "\ufefftwo"]


def test_what_cannot_be_read_is_named_with_its_line(tmp_path):
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfone\r\ntwo\xff")
    with pytest.raises(BadText, match=r"file:2 is not UTF-8 text \(byte 11 of the file\)"):
        read_text(tmp_path / "file")
    with pytest.raises(BadText, match="cannot read .*absent: No such file"):
        read_text(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It is. Is it? Yes! So", ["It is.", "Is it?", "Yes!", "So"]),
        ("Mr. A.B. has 3.5", ["Mr.", "A.B.", "has 3.5"]),
        ("Mr. A<q>has. It", ["Mr. A", "has. It"]),
        ("Mr. A\nhas. It", ["Mr. A", "has. It"]),
        ("", [""]),
    ],
)
def test_sentences_end_at_marks_or_else_after_punctuation(text, sentences):
    assert split_sentences(text) == sentences


def test_marks_are_no_words():
    text = join_sentences(["a b", "c", "d"])
    assert text == "a b <q> c <q> d"
    assert words(text) == ["a", "b", "c", "d"]
    assert without_marks(text) == "a b c d"
    assert without_marks("one <q>two\n three<q>") == "one two three"


@pytest.mark.parametrize(
    ("count", "kept"),
    [(0, ""), (1, "a"), (2, "a b"), (3, "a b <q> c"), (4, "a b <q> c <q> d"), (9, "a b <q> c <q> d")],
)
def test_a_text_is_cut_to_words_and_ends_in_one(count, kept):
    assert first_words("a b <q> c <q> d <q>", count) == kept
