"""Readers of the raw formats: made-up files, damaged files, and real ones where they are at hand."""

import codecs
import gzip
import json
import re
import shutil
import signal
import struct
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.prepare import default_options
from data_prep.readers import READERS
from data_prep.record import Malformed, RawDataError, Record, parse_unit


def read(reader, raw, options):
    """Records and Malformeds of a corpus."""
    results = [parse_unit(READERS[reader].parse, unit) for unit in READERS[reader].units(raw, options)]
    return [r for r in results if isinstance(r, Record)], [r for r in results if isinstance(r, Malformed)]


def reasons(malformed):
    return [m.reason for m in malformed]


@pytest.fixture
def corpus(tmp_path, write_corpus):
    """`corpus(name)`: the made-up corpus in a format; gives folder, and a function that reads it."""

    def make(name, **changes):
        reader, options = write_corpus(name, tmp_path / name)
        vars(options).update(changes)
        return tmp_path / name, lambda: read(reader, tmp_path / name, options)

    return make


def test_every_format_gives_the_same_records(any_format, corpus, documents):
    _, read_all = corpus(any_format)
    records, malformed = read_all()
    assert malformed == []
    expected = [
        (split, " ".join(source), tuple(target))
        for split, members in documents.items()
        for _, source, target in members
    ]
    found = [(record.split, record.source, record.target) for record in records]
    if any_format == "xsum":  # its target is one sentence
        expected = [(split, source, (" ".join(target),)) for split, source, target in expected]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("name", ["cnn_dailymail", "xsum", "arxiv", "mediasum", "fields_jsonl", "fields_csv"])
def test_records_keep_the_order_of_the_corpus(name, corpus, documents):
    records, _ = corpus(name)[1]()
    assert [r.source for r in records] == [" ".join(s) for members in documents.values() for _, s, _ in members]


def test_separators_already_in_a_target_count_as_such(corpus):
    folder, read_all = corpus("lines")
    (folder / "valid.target").write_text("One .<q>Two . <q> <q>Three .\n")
    records, _ = read_all()
    assert [r.target for r in records if r.split == "valid"] == [("One .", "Two .", "Three .")]


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\x1c", "\r\n", "\t"])
def test_a_document_stays_one_line_whatever_separators_it_holds(separator, corpus):
    folder, read_all = corpus("fields_jsonl")
    row = json.dumps({"key": "x", "text": f"a{separator}b", "summary": f"c{separator} "})
    (folder / "valid.jsonl").write_text(row + "\n")
    (record,) = [r for r in read_all()[0] if r.split == "valid"]
    assert (record.source, record.target) == ("a b", ("c",))


TEXT_FILES = {  # of each format, those that a user may have saved with a byte order mark
    "cnn_dailymail": ["*.txt", "stories/*.story"],
    "xsum": ["*.json", "**/*.summary"],
    "arxiv": ["*.txt"],
    "mediasum": ["*.json"],
    "fields_jsonl": ["*.jsonl"],
    "fields_csv": ["*.csv"],
    "lines": ["*.source", "*.target"],
}


@pytest.mark.parametrize("name", TEXT_FILES)
def test_a_byte_order_mark_and_other_line_ends_change_no_record(name, corpus):
    folder, read_all = corpus(name)
    expected = read_all()
    paths = {path for pattern in TEXT_FILES[name] for path in folder.glob(pattern)}
    assert paths
    for ends in (b"\r\n", b"\r"):
        for path in paths:
            text = path.read_bytes().removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            path.write_bytes(codecs.BOM_UTF8 + text.replace(b"\n", ends))
        assert read_all() == expected, ends


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_a_separator_of_unicode_within_a_sentence_ends_neither_line_nor_sentence(character, corpus):
    folder, read_all = corpus("cnn_dailymail")
    story = next((folder / "stories").iterdir())
    story.write_text(f"It is{character}so .\n\n@highlight\n\nOne{character}two .\n", encoding="utf-8")
    (record,) = [r for r in read_all()[0] if r.id == story.stem]
    assert (record.source, record.target) == ("It is so .", ("One two .",))


# ---- CNN/DailyMail


def test_a_story_line_without_punctuation_gets_a_period(corpus):
    folder, read_all = corpus("cnn_dailymail")
    story = next((folder / "stories").iterdir())
    story.write_text("Headline\n\nIt is \u201cso\u201d\n\n@highlight\n\nShort\n\n@highlight\n\nLong!")
    (record,) = [r for r in read_all()[0] if r.id == story.stem]
    assert (record.source, record.target) == ("Headline . It is \u201cso\u201d", ("Short .", "Long!"))


def test_a_story_cut_off_before_its_highlights_is_malformed(corpus):
    folder, read_all = corpus("cnn_dailymail")
    story = next((folder / "stories").iterdir())
    story.write_text("Only an article .\n")
    records, (malformed,) = read_all()
    assert malformed.file == str(story)
    assert "@highlight" in malformed.reason
    assert len(records) == 5


def test_stories_that_no_list_names_and_urls_without_a_story_are_counted(corpus):
    folder, read_all = corpus("cnn_dailymail")
    lines = (folder / "all_train.txt").read_text().splitlines()
    (folder / "all_train.txt").write_text("\n".join([*lines[:-1], "http://example.org/other"]))
    records, malformed = read_all()
    assert len(records) == 5
    assert [(m.line, "not there" in m.reason) for m in malformed] == [(3, True), (None, False)]


def test_partial_lists_are_read_where_there_are_no_lists_of_all(corpus):
    folder, read_all = corpus("cnn_dailymail")
    urls = (folder / "all_train.txt").read_text().splitlines(keepends=True)
    (folder / "all_train.txt").unlink()
    (folder / "cnn_wayback_training_urls.txt").write_text("".join(urls[:1]))
    (folder / "dailymail_wayback_training_urls.txt").write_text("".join(urls[1:]))
    (folder / "cnn_wayback_test_urls.txt").write_text("http://example.org/ignored-as-all_test-is-there\n")
    records, malformed = read_all()
    assert len(records) == 6
    assert malformed == []


@pytest.mark.parametrize("cut", [1, 3, 30])
def test_a_bin_file_that_is_cut_off_is_an_error(cut, corpus):
    folder, read_all = corpus("cnn_dailymail_bin")
    path = folder / "train_000.bin"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(RawDataError, match="cut off"):
        read_all()


def test_a_bin_file_with_a_damaged_length_is_an_error_and_reads_no_gigabytes(corpus):
    folder, read_all = corpus("cnn_dailymail_bin")
    path = folder / "train_000.bin"
    path.write_bytes(b"\xff" * 6 + b"\x00\x00" + path.read_bytes()[8:])
    with pytest.raises(RawDataError, match="length at byte 0"):
        read_all()


def test_a_bin_record_that_is_damaged_costs_no_other(corpus):
    folder, read_all = corpus("cnn_dailymail_bin")
    path = folder / "train_000.bin"
    path.write_bytes(path.read_bytes().replace(b"abstract", b"abstrict", 1))
    records, malformed = read_all()
    assert reasons(malformed) == ["no feature 'abstract'"]
    assert malformed[0].line == 1
    assert len(records) == 5


def test_a_bin_record_that_ends_too_early_is_malformed_and_not_shorter(corpus):
    folder, read_all = corpus("cnn_dailymail_bin")
    path = folder / "val_000.bin"  # one record
    record = path.read_bytes()[8:-5]
    path.write_bytes(struct.pack("<q", len(record)) + record)
    records, malformed = read_all()
    assert reasons(malformed) == ["the protocol buffer ends within a field"]
    assert len(records) == 5


# ---- XSum


def test_a_document_of_two_xsum_splits_comes_twice(corpus):
    folder, read_all = corpus("xsum")
    path = next(folder.glob("*.json"))
    splits = json.loads(path.read_text())
    splits["test"] += splits["train"][:1]
    path.write_text(json.dumps(splits))
    records, malformed = read_all()
    assert len(records) == 7
    assert malformed == []


def test_an_xsum_file_cut_off_before_its_body_is_malformed(corpus):
    folder, read_all = corpus("xsum")
    path = next(folder.rglob("*.summary"))
    path.write_text(path.read_text().partition("[SN]RESTBODY")[0])
    _, malformed = read_all()
    assert reasons(malformed) == [
        "the sections are URL, TITLE, FIRST-SENTENCE, not URL, TITLE, FIRST-SENTENCE, RESTBODY"
    ]


@pytest.mark.parametrize("content", ["[]", "{", '{"train": ["one"]}', '{"train": 1, "validation": [], "test": []}', ""])
def test_a_damaged_split_file_is_an_error_that_names_it(content, corpus):
    folder, read_all = corpus("xsum")
    path = next(folder.glob("*.json"))
    path.write_text(content)
    with pytest.raises(RawDataError, match=path.name):
        read_all()


# ---- arXiv, PubMed


def test_section_names_stand_before_their_sections_on_request(corpus):
    records, _ = corpus("arxiv", section_names=True)[1]()
    assert records[0].source == "Part 0 The bridge opened on Monday . Part 1 Many people came ."


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"article_id": "x"', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("1" * 5000, "not JSON"),
        ("[]", "a JSON list and not an object"),
        ('{"article_id": "x", "abstract_text": []}', "no field 'article_text'"),
        ('{"article_id": "x", "abstract_text": "a", "article_text": []}', "field 'abstract_text' is a str"),
        ('{"article_id": "x", "abstract_text": [1], "article_text": []}', "field 'abstract_text' holds something"),
        ('{"article_id": "x", "abstract_text": ["\\ud800"], "article_text": []}', "no text: half of a surrogate"),
        (b'{"article_id": "\xff"}', "not UTF-8 at byte 16"),
    ],
)
def test_a_malformed_line_is_skipped_with_its_number(line, reason, corpus):
    folder, read_all = corpus("arxiv")
    content = (folder / "train.txt").read_bytes().split(b"\n")
    content[1] = line if isinstance(line, bytes) else line.encode()
    (folder / "train.txt").write_bytes(b"\n".join(content))
    records, (malformed,) = read_all()
    assert malformed.line == 2
    assert malformed.reason.startswith(reason)
    assert len(records) == 5


# ---- MediaSum


def edit_interviews(folder, edit):
    path = folder / "news_dialogue.json"
    interviews = json.loads(path.read_text())
    edit(interviews)
    path.write_text(json.dumps(interviews))


def test_speakers_stand_before_what_they_say(corpus):
    folder, read_all = corpus("mediasum")
    edit_interviews(
        folder, lambda interviews: interviews[0].update(utt=["Hello.", "Yes."], speaker=["ANN, host", "BO"])
    )
    record = read_all()[0][0]
    assert record.source == "ANN, host: Hello. BO: Yes."
    assert record.notes == ()


@pytest.mark.parametrize("speakers", [[], ["ANN"], ["ANN", "BO", "CY"]])
def test_no_utterance_is_lost_and_none_misattributed_where_speakers_are_missing(speakers, corpus):
    folder, read_all = corpus("mediasum")
    edit_interviews(folder, lambda interviews: interviews[0].update(utt=["Hello.", "Yes."], speaker=speakers))
    record = read_all()[0][0]
    assert record.source == "Hello. Yes."
    assert len(record.notes) == 1


def test_interviews_of_no_split_of_a_wrong_shape_and_missing_ones_are_counted(corpus):
    folder, read_all = corpus("mediasum")

    def edit(interviews):
        interviews[0]["id"] = "other"  # so that `one` is missing, too
        interviews[1]["utt"] = "text"
        interviews[2] = 7  # `three` is missing

    edit_interviews(folder, edit)
    records, malformed = read_all()
    assert len(records) == 3
    assert [m.line for m in malformed] == [1, 2, 3, None, None]
    assert [m.id for m in malformed] == ["other", "two", "", "one", "three"]


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-1], lambda t: t[:300], lambda t: t + "]", lambda t: t.replace(",", ";")]
)
def test_broken_json_of_the_dialogues_is_an_error_that_says_where(damage, corpus):
    folder, read_all = corpus("mediasum")
    path = folder / "news_dialogue.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(RawDataError, match="cut off or damaged after [0-9] interviews"):
        read_all()


def test_dialogues_that_are_no_list_are_an_error(corpus):
    folder, read_all = corpus("mediasum")
    (folder / "news_dialogue.json").write_text('{"item": []}')
    with pytest.raises(RawDataError, match="not a JSON list"):
        read_all()


# ---- own data


def test_a_field_may_be_a_list_of_sentences(corpus):
    folder, read_all = corpus("fields_jsonl")
    (folder / "valid.jsonl").write_text('{"key": 1, "text": ["a", "b"], "summary": ["c .", "d ."]}\n')
    (record,) = [r for r in read_all()[0] if r.split == "valid"]
    assert (record.id, record.source, record.target) == ("1", "a b", ("c .", "d ."))


def test_a_csv_field_may_be_longer_than_pythons_limit(corpus):
    folder, read_all = corpus("fields_csv")
    (folder / "valid.csv").write_text("key,text,summary\n1," + "word " * 100_000 + ",s\n")
    (record,) = [r for r in read_all()[0] if r.split == "valid"]
    assert len(record.source.split()) == 100_000


@pytest.mark.parametrize(
    ("row", "line", "reason"),
    [
        (b"2,only", 3, "2 columns where the first line has 3"),
        (b"2,a,b,c", 3, "4 columns"),
        (b'2,"a"b,c', 3, "lines 3 to 3 are no csv row"),
        (b"2,\xff,c", 3, "no text"),
    ],
)
def test_a_malformed_csv_row_costs_no_other(row, line, reason, corpus):
    folder, read_all = corpus("fields_csv")
    (folder / "valid.csv").write_bytes(b"key,text,summary\n1,a,b\n" + row + b"\n3,c,d\n")
    records, (malformed,) = read_all()
    assert malformed.line == line
    assert malformed.reason.startswith(reason)
    assert [r.source for r in records if r.split == "valid"] == ["a", "c"]


NEVER_CLOSED = 'key,text,summary\n1,a,b\n2,"c,d\n3,e,f\n'


def test_a_csv_quote_that_is_never_closed_is_an_error_that_names_the_lines(corpus):
    folder, read_all = corpus("fields_csv")
    (folder / "valid.csv").write_text(NEVER_CLOSED)
    with pytest.raises(RawDataError, match="valid.csv: lines 3 to 4 are no csv row.* --quoting none .* rfc4180"):
        read_all()


def test_with_quoting_chosen_such_lines_are_malformed_and_each_counts(corpus):
    folder, read_all = corpus("fields_csv", quoting="rfc4180")
    (folder / "valid.csv").write_text(NEVER_CLOSED)
    _, (malformed,) = read_all()
    assert malformed.reason.startswith("lines 3 to 4 are no csv row")
    assert malformed.lines == 2


def test_as_plain_characters_quotes_join_no_lines(corpus):
    folder, read_all = corpus("fields_csv", quoting="none")
    (folder / "valid.csv").write_text(NEVER_CLOSED)
    records, malformed = read_all()
    assert [m for m in malformed if "valid" in m.file] == []
    assert [r.source for r in records if r.split == "valid"] == ["a", '"c', "e"]


@pytest.mark.parametrize("name", ["fields_csv", "fields_parquet"])
def test_a_field_that_is_not_there_is_an_error_that_lists_those_that_are(name, corpus):
    _, read_all = corpus(name, source_field="document")
    with pytest.raises(RawDataError, match="no field document; it has key, text, summary"):
        read_all()


def test_line_files_of_different_length_are_an_error(corpus):
    folder, read_all = corpus("lines")
    path = folder / "train.target"
    path.write_text(path.read_text() + "one more\n")
    with pytest.raises(RawDataError, match="train.target: more lines than the 3"):
        read_all()


def test_a_split_without_files_is_an_error_that_says_what_was_looked_for(any_format, tmp_path, write_corpus):
    reader, options = write_corpus(any_format, tmp_path / "raw")
    shutil.rmtree(tmp_path / "raw")
    (tmp_path / "raw").mkdir()
    with pytest.raises(RawDataError, match=str(tmp_path / "raw")):
        read(reader, tmp_path / "raw", options)


# ---- damage of every kind


@contextmanager
def at_most(seconds):
    """Fail if the block takes longer."""

    def hang(*_):
        raise AssertionError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@st.composite
def damages(draw):
    """`(which file, function of its bytes)`."""
    kind = draw(st.sampled_from(["cut off", "change", "delete", "insert", "repeat", "empty", "compress"]))
    start, length = draw(st.floats(0, 1)), draw(st.integers(1, 40))
    junk = draw(
        st.binary(min_size=1, max_size=8)
        | st.sampled_from([b'"', b"\n", b"\x00", b"}", b"[" * 3000, b"9" * 5000, b"1e999", b"\\ud800", b"\xff\xff"])
    )

    def damage(data):
        at = int(start * len(data))
        return {
            "cut off": data[:at],
            "change": data[:at] + junk + data[at + len(junk) :],
            "delete": data[:at] + data[at + length :],
            "insert": data[:at] + junk + data[at:],
            "repeat": data[: at + length] + data[at:],
            "empty": b"",
            "compress": gzip.compress(data, mtime=0),
        }[kind]

    return draw(st.floats(0, 0.999)), damage


def raw_records(name, folder):
    """How many records the files hold by a count that knows nothing of the reader, or None where nothing tells."""
    suffix = {"arxiv": "*.txt", "fields_jsonl": "*.jsonl", "fields_csv": "*.csv", "lines": "*.source"}.get(name)
    if suffix is None:
        return None
    count = 0
    for path in folder.glob(suffix):
        data = path.read_bytes().replace(b"\r", b"\n")
        if name == "fields_csv":
            data = re.sub(rb'"[^"]*("|$)', b"quoted", data)
            count -= 1  # the names of the columns
        count += sum(bool(line.strip()) for line in data.split(b"\n"))
    return count


@pytest.fixture(scope="session")
def intact(tmp_path_factory, write_corpus):
    """`intact(name)`: an undamaged corpus, written once."""
    made = {}

    def make(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("intact") / name
            made[name] = (folder, *write_corpus(name, folder))
        return made[name]

    return make


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages())
def test_damaged_files_give_counted_skips_or_clear_errors(any_format, damage, intact, tmp_path, documents):
    origin, reader, options = intact(any_format)
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(origin, folder)
    which, change = damage
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[int(which * len(files))]
    path.write_bytes(change(path.read_bytes()))
    total = sum(map(len, documents.values()))
    try:
        with at_most(10):
            records, malformed = read(reader, folder, options)
    except RawDataError as error:
        assert str(folder) in str(error)  # which file
        return
    for record in records:
        assert "\n" not in record.source + record.target_line
        (record.source + record.target_line).encode()
    # A file of lines that lost whole lines says nothing of them; every line that is there has its record or its reason.
    there = raw_records(any_format, folder)
    expected = total if there is None else min(total, there)
    if any_format == "cnn_dailymail_bin" and path.read_bytes() == b"":
        return  # an empty file holds no record; preparing it is an error
    assert malformed or len(records) >= expected


# ---- real files


def test_real_stories(formats):
    options = default_options("cnn_dailymail", splits=["train", "valid"])
    records, malformed = read("cnn_dailymail", formats / "cnn_dailymail", options)
    assert len(records) == 13
    assert len(malformed) == 7  # urls of the lists whose stories are not in the sample
    for record in records:
        assert 1 <= len(record.target) <= 4
        assert "@highlight" not in record.source
        assert len(record.source.split()) > 100


def test_the_last_highlight_of_a_real_story_is_kept(formats):
    story = "017d27d00eb43678c15cb4a8dd4723a035323219"
    options = default_options("cnn_dailymail", splits=["train", "valid"])
    records, _ = read("cnn_dailymail", formats / "cnn_dailymail", options)
    (record,) = [r for r in records if r.id == story]
    last = (formats / "cnn_dailymail" / f"{story}.story").read_text(encoding="utf-8").splitlines()[-1]
    assert record.target[-1] == f"{last} ."


def test_a_real_bin_file(formats):
    options = default_options("cnn_dailymail_bin", splits=["valid"])
    records, malformed = read("cnn_dailymail_bin", formats / "cnn_dailymail", options)
    assert len(records) == 368
    assert malformed == []
    assert all(record.source and record.target for record in records)
    assert not any("<s>" in record.target_line for record in records)


def test_real_xsum_files(formats):
    records, malformed = read("xsum", formats / "xsum", default_options("xsum"))
    assert {record.split for record in records} == {"train", "valid", "test"}
    assert [m.id for m in malformed] == ["10000983"]


@pytest.mark.parametrize("name", ["arxiv", "pubmed"])
def test_real_papers(name, formats):
    options = default_options(name, splits=["train", "valid"])
    records, malformed = read(name, formats / name, options)
    assert len(records) == 4
    assert malformed == []
    for record in records:
        assert "<S>" not in record.target_line
        assert len(record.target) >= 2
    options.section_names = True
    assert len(read(name, formats / name, options)[0]) == 4


def test_real_interviews(formats, tmp_path):
    pytest.importorskip("ijson", reason="needs ijson, which is not installed")
    shutil.copy(next((formats / "mediasum").glob("*.json")), tmp_path / "news_dialogue.json")
    ids = [interview["id"] for interview in json.loads((tmp_path / "news_dialogue.json").read_bytes())]
    (tmp_path / "split.json").write_text(json.dumps({"train": ids[:1], "val": ids[1:2], "test": ids[2:]}))
    records, malformed = read("mediasum", tmp_path, default_options("mediasum"))
    assert len(records) == 3
    assert malformed == []
    assert sum(bool(record.notes) for record in records) == 2
