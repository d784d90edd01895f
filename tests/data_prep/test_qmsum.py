"""The reader of QMSum, on made-up meetings."""

import copy
import json

import pytest

from data_prep import prepare
from data_prep.record import RawDataError
from data_prep.spans import Spans, read_spans

MEETING = {
    "topic_list": [{"topic": "Boats", "relevant_text_span": [["0", "1"]]}],
    "general_query_list": [{"query": "What was it about ?", "answer": "Boats .\nAnd bread ."}],
    "specific_query_list": [
        {"query": "Which boat\twas red ?", "answer": "The old one .", "relevant_text_span": [["1", "2"]]},
        {"query": "And bread ?", "answer": "Two loaves .", "relevant_text_span": [[3, 3], ["0", "0"]]},
    ],
    "meeting_transcripts": [
        {"speaker": "Ada", "content": "Hello {vocalsound} all ."},
        {"speaker": "Ben B", "content": "The old boat is red ."},
        {"speaker": "Ada", "content": ""},
        {"speaker": "Ben B", "content": "{disfmarker} Two  loaves ."},
    ],
}
TRANSCRIPT = "Ada: Hello {vocalsound} all . Ben B: The old boat is red . Ada: Ben B: {disfmarker} Two loaves ."


def changed(**fields):
    return {**copy.deepcopy(MEETING), **fields}


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """The histogram takes most of the time, and is tested elsewhere."""
    monkeypatch.setattr(prepare, "draw_histograms", lambda path, *others: path.write_bytes(b""))


@pytest.fixture
def write(tmp_path):
    """`write(meetings)`: a folder of raw files whose test split has these meetings; a text is a line as it is."""

    def make(*meetings):
        folder = tmp_path / "raw"
        folder.mkdir(exist_ok=True)
        lines = [meeting if isinstance(meeting, str) else json.dumps(meeting) for meeting in meetings]
        (folder / "test.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def prepared(write, tmp_path):
    """`prepared(meetings, options)`: manifest, lines of sources and of targets, and spans."""

    def run(*meetings, **changes):
        options = prepare.default_options("qmsum", splits=["test"], **changes)
        out = tmp_path / "out"
        manifest = prepare.prepare("qmsum", write(*meetings), out, options)
        sources, targets = ((out / f"test.{side}").read_text().splitlines() for side in ("source", "target"))
        return manifest, sources, targets, read_spans(out / "test.spans.jsonl")

    return run


def test_every_query_is_a_document_that_begins_with_the_question(prepared):
    manifest, sources, targets, _ = prepared(MEETING)
    questions = ["Which boat was red ?", "And bread ?", "What was it about ?"]
    assert sources == [f"{question} <q> {TRANSCRIPT}" for question in questions]
    assert targets == ["The old one .", "Two loaves .", "Boats . <q> And bread ."]
    assert manifest["malformed"] == 0 and manifest["notes"] == {}
    assert manifest["lines"]["test.jsonl"]["records"] == 3


def test_spans_are_the_words_of_the_relevant_turns(prepared):
    _, sources, _, spans = prepared(MEETING)
    found = [[" ".join(line.split()[slice(*pair)]) for pair in one.spans] for line, one in zip(sources, spans)]
    assert found == [
        ["Ben B: The old boat is red . Ada:"],
        ["Ada: Hello {vocalsound} all .", "Ben B: {disfmarker} Two loaves ."],
        [],
    ]
    assert [one.id for one in spans] == [
        "meeting 1, specific query 1",
        "meeting 1, specific query 2",
        "meeting 1, general query 1",
    ]
    assert [one.length for one in spans] == [len(line.split()) for line in sources]


@pytest.mark.parametrize(("queries", "kept"), [("all", [0, 1, 2]), ("specific", [0, 1]), ("general", [2])])
def test_queries_of_one_kind(prepared, queries, kept):
    every = prepared(MEETING)
    some = prepared(MEETING, queries=queries)
    for one, other in zip(every[1:], some[1:]):
        assert [one[number] for number in kept] == other


def test_another_separator_and_no_marks(prepared):
    _, sources, _, spans = prepared(MEETING, separator="|", leave_out_marks=True)
    expected = "And bread ? | Ada: Hello all . Ben B: The old boat is red . Ada: Ben B: Two loaves ."
    assert sources[1] == expected
    assert [" ".join(expected.split()[slice(*pair)]) for pair in spans[1].spans] == [
        "Ada: Hello all .",
        "Ben B: Two loaves .",
    ]


@pytest.mark.parametrize("separator", ["", "a b", " a"])
def test_a_separator_is_one_word(separator, capsys):
    with pytest.raises(SystemExit):
        prepare.main(["qmsum", "raw", "out", "--separator", separator])
    assert "is not one word" in capsys.readouterr().err


@pytest.mark.parametrize("pair", [["2", "4"], ["2", "1"], [-1, 1]])
def test_spans_that_are_not_in_the_transcript_are_counted(prepared, pair):
    query = {**MEETING["specific_query_list"][0], "relevant_text_span": [["0", "0"], pair]}
    manifest, sources, _, spans = prepared(changed(specific_query_list=[query]))
    assert manifest["notes"] == {"relevant turns that are not in the transcript: left out of the spans": 1}
    assert len(sources) == 2 and spans[0].spans == ((6, 11),)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "a JSON list and not an object"),
        (changed(meeting_transcripts=[]), "no turns"),
        (changed(meeting_transcripts=[MEETING["meeting_transcripts"][0], {"speaker": "A"}]), "turn 1: no field"),
        (changed(meeting_transcripts=["Ada: hello"]), "turn 0: a JSON str and not an object"),
        (changed(general_query_list={}), "field 'general_query_list' is a dict, not a list"),
        ({name: value for name, value in MEETING.items() if name != "specific_query_list"}, "no field 'specific"),
    ],
)
def test_a_meeting_that_cannot_be_read_is_one_malformed_record(prepared, tmp_path, line, reason):
    manifest, sources, *_ = prepared(MEETING, line, MEETING, max_malformed=0.5)
    assert len(sources) == 6 and manifest["malformed"] == 1
    logged = json.loads((tmp_path / "out/malformed.jsonl").read_text())
    assert (logged["file"], logged["line"]) == ("test.jsonl", 2)
    assert reason in logged["reason"]
    lines = manifest["lines"]["test.jsonl"]
    assert (lines["lines"], lines["in_records"], lines["malformed"], lines["records"]) == (3, 2, 1, 6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"query": " "}, "field 'query' is blank"),
        ({"query": "a <q> b"}, "the query holds the separator '<q>': choose another with --separator"),
        ({"query": None}, "field 'query' is a NoneType"),
        ({"answer": 7}, "field 'answer' is a int"),
        ({"query": "\ud800"}, "half of a surrogate pair"),
        ({"relevant_text_span": [["1", "x"]]}, "'relevant_text_span' holds something that is no pair of numbers"),
        ({"relevant_text_span": [[1.5, 2]]}, "'relevant_text_span' holds something that is no pair of numbers"),
        ({"relevant_text_span": [["1", "2", "3"]]}, "'relevant_text_span' holds something that is no pair"),
        ({"relevant_text_span": "1 2"}, "field 'relevant_text_span' is a str, not a list"),
    ],
)
def test_a_query_that_cannot_be_read_takes_no_other_along(prepared, tmp_path, change, reason):
    queries = [{**MEETING["specific_query_list"][0], **change}, MEETING["specific_query_list"][1]]
    manifest, sources, _, spans = prepared(changed(specific_query_list=queries), max_malformed=0.5)
    assert len(sources) == len(spans) == 2 and manifest["malformed"] == 1
    logged = json.loads((tmp_path / "out/malformed.jsonl").read_text())
    assert (logged["file"], logged["line"], logged["id"]) == ("test.jsonl", 1, "meeting 1, specific query 1")
    assert reason in logged["reason"]


def test_too_many_malformed_records_leave_nothing(prepared, tmp_path):
    with pytest.raises(prepare.TooManyMalformed, match=r"1 of 4 records .*\n  test.jsonl:2: not JSON"):
        prepared(MEETING, "{")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_files_do_not_depend_on_workers(write, tmp_path):
    raw = write(*[changed(general_query_list=[{"query": f"q{n}", "answer": "a"}]) for n in range(40)])
    for workers in ("1", "2"):
        assert prepare.main(["qmsum", str(raw), str(tmp_path / workers), "--splits", "test", "--workers", workers]) == 0
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert "test.spans.jsonl" in names and names == sorted(path.name for path in (tmp_path / "2").iterdir())
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_the_manifest_knows_the_spans_and_an_earlier_file_goes(prepared, tmp_path, write):
    manifest, *_ = prepared(MEETING)
    assert "test.spans.jsonl" in manifest["sha256"]
    lines = tmp_path / "lines"
    lines.mkdir()
    for side in ("source", "target"):
        (lines / f"test.{side}").write_text("a\n")
    prepare.prepare("lines", lines, tmp_path / "out", prepare.default_options("lines", splits=["test"]))
    assert not (tmp_path / "out/test.spans.jsonl").exists()


def test_a_missing_split_is_an_error(write, tmp_path):
    with pytest.raises(RawDataError, match="no file for split train"):
        prepare.prepare("qmsum", write(MEETING), tmp_path / "out", prepare.default_options("qmsum"))


def test_cut_sources_know_what_is_gone(prepared):
    _, _, _, spans = prepared(MEETING, max_source_words=12)  # the mark is no word of these
    assert spans[0] == Spans("meeting 1, specific query 1", 13, ((11, 13),), True)
    assert spans[2] == Spans("meeting 1, general query 1", 13, ())
