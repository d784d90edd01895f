"""Relevant stretches of a source: their lines, cutting, and the way from words to subwords."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import encode, prepare
from data_prep.sentencepiece_model import train
from data_prep.spans import BadSpans, Spans, joined, parse_spans, read_spans

SPANS = Spans("one", 10, ((2, 4), (7, 9)))


def test_a_line_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "test.spans.jsonl"
    written = [SPANS, Spans("n\u00e9", 3, (), True)]
    path.write_text("".join(spans.to_json() + "\n" for spans in written))
    assert read_spans(path) == written


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (11, SPANS),
        (9, Spans("one", 9, ((2, 4), (7, 9)))),
        (8, Spans("one", 8, ((2, 4), (7, 8)), True)),
        (7, Spans("one", 7, ((2, 4),), True)),
        (2, Spans("one", 2, (), True)),
    ],
)
def test_what_is_left_of_a_cut_source(length, expected):
    assert SPANS.first(length) == expected


def test_a_source_without_spans_loses_none():
    assert Spans("one", 10, ()).first(3) == Spans("one", 3, ())
    assert Spans("one", 10, (), True).first(3).cut


def test_stretches_that_touch_are_one():
    assert joined([(5, 7), (1, 3), (3, 4), (6, 9), (10, 10), (11, 12)]) == ((1, 4), (5, 9), (11, 12))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted).map(tuple), max_size=6))
def test_joined_stretches_hold_the_same_numbers(pairs):
    found = joined(pairs)
    assert {n for pair in found for n in range(*pair)} == {n for pair in pairs for n in range(*pair)}
    assert all(one[1] < other[0] for one, other in zip(found, found[1:]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spans": [[2, 4], [3, 9]]}, "not in order"),
        ({"spans": [[4, 4]]}, "empty"),
        ({"spans": [[-1, 4]]}, "not within the 10 words"),
        ({"spans": [[2, 11]]}, "not within the 10 words"),
        ({"spans": [[2, 4, 6]]}, "pairs of numbers"),
        ({"spans": [["2", "4"]]}, "pairs of numbers"),
        ({"length": True}, "a number"),
        ({"cut": 0}, "true or false"),
        ({"more": 1}, "not an object with id, length, spans, cut"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, change, message):
    good = json.loads(SPANS.to_json())
    path = tmp_path / "test.spans.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, **change}) + "\n")
    with pytest.raises(BadSpans, match=f"test.spans.jsonl:2: .*{message}"):
        read_spans(path)


@pytest.mark.parametrize("line", ["", "{", "[" * 100_000, "[]", "7"])
def test_a_line_that_is_no_object_is_a_value_error(line):
    with pytest.raises(ValueError, match="not"):
        parse_spans(line)


# ---- through the commands

SOURCES = ["aa bb <q> Abcde ab: cdcdcd \u00b4 ba abab", "dd <q> Cdcd ab: ab"]


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """The histogram takes most of the time, and is tested elsewhere."""
    for module in (prepare, encode):
        monkeypatch.setattr(module, "draw_histograms", lambda path, *others: path.write_bytes(b""))


@pytest.fixture
def corpus(tmp_path):
    """Line files of one split with spans."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "test.source").write_text("".join(line + "\n" for line in SOURCES))
    (folder / "test.target").write_text("ab\ncd\n")
    lines = [Spans("x", 9, ((3, 4), (6, 8))), Spans("y", 5, ())]
    (folder / "test.spans.jsonl").write_text("".join(spans.to_json() + "\n" for spans in lines))
    return folder


@pytest.fixture
def model(corpus, tmp_path):
    path = tmp_path / "some.model"
    train([corpus / "test.source"], path, 22, ["<q>"])
    return path


def encoded(corpus, model, out, limit=0, workers=1):
    encode.encode(corpus, out, "sentencepiece", model, {"source": limit, "target": 0}, workers)
    return [line.split() for line in (out / "test.source").read_text().splitlines()], read_spans(
        out / "test.spans.jsonl"
    )


def test_subwords_of_relevant_words(corpus, model, tmp_path):
    """Also of words that normalisation takes apart: an accent by itself becomes a space and a combining one."""
    pieces, spans = encoded(corpus, model, tmp_path / "out")
    texts = ["".join(pieces[0][start:end]) for start, end in spans[0].spans]
    assert texts == ["\u2581Abcde", "\u2581\u0301\u2581ba"]
    assert [one.length for one in spans] == [len(line) for line in pieces]
    assert spans[1].spans == () and not spans[0].cut
    assert max(len(line) for line in pieces) > 12  # subwords, not words


def test_subwords_that_are_cut(corpus, model, tmp_path):
    _, whole = encoded(corpus, model, tmp_path / "whole")
    limit = whole[0].spans[1][0] + 2  # its first piece stays, and the end of sentence
    pieces, spans = encoded(corpus, model, tmp_path / "out", limit)
    assert len(pieces[0]) == limit - 1
    assert spans[0] == Spans("x", limit - 1, (whole[0].spans[0], (limit - 2, limit - 1)), True)


def test_subwords_that_cross_words_belong_to_the_later_word(monkeypatch):
    """No vocabulary of ours has any; one of others' may."""
    monkeypatch.setattr(encode, "_pieces", lambda text: [text[n : n + 3] for n in range(0, len(text), 3)])
    _, _, found = encode.encode_line(("ab cd ef", 0, Spans("x", 3, ((1, 2),))))
    assert found == Spans("x", 3, ((0, 1),))  # "ab ", "cd ", "ef": the first words are "ab" and "ab cd"


def test_the_files_do_not_depend_on_workers(corpus, model, tmp_path):
    encoded(corpus, model, tmp_path / "one")
    encoded(corpus, model, tmp_path / "two", workers=2)
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert "test.spans.jsonl" in names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([Spans("x", 9, ())], "test.spans.jsonl has 1 lines, but test.source 2"),
        ([Spans("x", 9, ()), Spans("y", 4, ())], "test.spans.jsonl:2: of a source of 4 words, but .* has 5"),
    ],
)
def test_spans_of_other_lines_are_refused(corpus, model, tmp_path, lines, message):
    (corpus / "test.spans.jsonl").write_text("".join(spans.to_json() + "\n" for spans in lines))
    with pytest.raises(BadSpans, match=message):
        encoded(corpus, model, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def prepared(raw, out, **changes):
    options = prepare.default_options("lines", splits=["test"], **changes)
    return prepare.prepare("lines", raw, out, options)


def test_line_files_carry_their_spans_on(corpus, tmp_path):
    prepared(corpus, tmp_path / "out")
    assert (tmp_path / "out/test.spans.jsonl").read_bytes() == (corpus / "test.spans.jsonl").read_bytes()
    prepared(corpus, tmp_path / "cut", max_source_words=6)  # the mark is no word of these
    assert read_spans(tmp_path / "cut/test.spans.jsonl")[0] == Spans("x", 7, ((3, 4), (6, 7)), True)


def test_spans_stay_where_they_are_when_characters_are_mended(corpus, tmp_path):
    """U+00C2 U+2026 is U+0085, which separates words."""
    (corpus / "test.source").write_text(f"aa b\u00c2\u2026b {SOURCES[0][6:]}\n{SOURCES[1]}\n")
    prepared(corpus, tmp_path / "out", mend_mojibake=True)
    line = (tmp_path / "out/test.source").read_bytes().decode().split("\n")[0].split()
    found = read_spans(tmp_path / "out/test.spans.jsonl")[0]
    assert found.length == len(line) == 10
    assert [line[start:end] for start, end in found.spans] == [["Abcde"], ["\u00b4", "ba"]]


def test_lines_that_are_left_out_leave_no_spans(corpus, tmp_path):
    for side in ("source", "target", "spans.jsonl"):
        lines = (corpus / f"test.{side}").read_text().splitlines(keepends=True)
        (corpus / f"train.{side}").write_text("".join([lines[1], lines[1], lines[0]]))
    (corpus / "train.source").write_text(f"{SOURCES[1]}\n{SOURCES[1]}\naa bb <q> Abcde ab: cdcdcd x ba abab\n")
    options = prepare.default_options("lines", splits=["train", "test"], remove_overlap=True)
    prepare.prepare("lines", corpus, tmp_path / "out", options)
    assert [spans.id for spans in read_spans(tmp_path / "out/train.spans.jsonl")] == ["x"]


@pytest.mark.parametrize(("count", "number"), [(1, 2), (3, 2)])
def test_another_number_of_spans_than_of_lines_is_an_error(corpus, tmp_path, count, number):
    (corpus / "test.spans.jsonl").write_text((Spans("x", 9, ()).to_json() + "\n") * count)
    with pytest.raises(prepare.RawDataError, match=rf"test.spans.jsonl: {count} lines, and test.source has others"):
        prepared(corpus, tmp_path / "out")


def test_a_line_of_spans_of_another_source_makes_a_record_malformed(corpus, tmp_path):
    lines = [Spans("x", 8, ()).to_json(), "{"]
    (corpus / "test.spans.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(prepare.TooManyMalformed) as error:
        prepared(corpus, tmp_path / "out")
    assert "test.source:1: its line of spans is of a source of 8 words, and this one has 9" in str(error.value)
    assert "test.source:2: its line of spans: not JSON" in str(error.value)
