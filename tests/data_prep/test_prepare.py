"""`python -m data_prep.prepare`: line files, what is counted, and what an interruption leaves."""

import hashlib
import json
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from data_prep import prepare as prepare_module
from data_prep import whole
from data_prep.errors import EXIT_STATUS
from data_prep.mojibake import mend
from data_prep.prepare import MOJIBAKE, TooManyMalformed, default_options, main, prepare
from data_prep.record import RawDataError


@pytest.fixture
def run(tmp_path):
    """`run(rows, ...)`: prepare jsonl rows `{split: [(text, summary)]}`; returns the manifest; output in `out`."""

    def make(rows, out="out", workers=1, **changes):
        raw = tmp_path / "raw"
        raw.mkdir(exist_ok=True)
        for split, pairs in rows.items():
            lines = [p if isinstance(p, str) else json.dumps({"text": p[0], "summary": p[1]}) for p in pairs]
            (raw / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines))
        changes = {"splits": list(rows), **changes}
        options = default_options("fields", source_field="text", target_field="summary", **changes)
        return prepare("fields", raw, tmp_path / out, options, workers)

    return make


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def lines(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def many(number):
    return [(f"document {n} says this", f"summary {n}") for n in range(number)]


def test_files_are_aligned_and_folded_and_keep_the_sentences_of_a_target(run, out):
    manifest = run({"train": [("a \n b\u2028c", "d\ne\tf"), ("g", ["h .", "i ."])]})
    assert lines(out / "train.source") == ["a b c", "g"]
    assert lines(out / "train.target") == ["d <q> e f", "h . <q> i ."]
    assert manifest["sentence_separator"] == "<q>"


def test_every_format_is_prepared_from_the_command_line(any_format, tmp_path, write_corpus, documents, capsys):
    reader, _ = write_corpus(any_format, tmp_path / "raw")
    fields = ["--source-field", "text", "--target-field", "summary"] if reader == "fields" else []
    assert main([reader, str(tmp_path / "raw"), str(tmp_path / "out"), "--workers", "1", *fields]) == 0
    for split, members in documents.items():
        assert sorted(lines(tmp_path / "out" / f"{split}.source")) == sorted(" ".join(s) for _, s, _ in members)
    assert "Malformed records: 0" in capsys.readouterr().out


def test_the_output_does_not_depend_on_the_number_of_workers(run, tmp_path):
    rows = {"train": [*many(300), "broken", *many(20)], "valid": [("v", "w")]}
    first = run(rows, out="first", workers=1)
    second = run(rows, out="second", workers=2)
    assert first == second
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_checksums_are_those_of_the_files(run, out):
    manifest = run({"train": many(3)})
    assert set(manifest["sha256"]) == {path.name for path in out.iterdir()} - {"manifest.json"}
    for name, checksum in manifest["sha256"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == checksum
    assert json.loads((out / "manifest.json").read_text()) == manifest


def test_the_manifest_names_options_and_versions_and_no_folder_of_this_machine(run, out, tmp_path):
    manifest = run({"train": many(3)}, max_source_words=7)
    assert manifest["options"]["max_source_words"] == 7
    assert manifest["versions"]["python"].startswith("3.")
    run({"train": [*many(300), "broken"]})
    for path in out.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()


def test_lengths_are_counted_in_words(run):
    manifest = run({"train": [("w " * n, "x\n" * 2 * n) for n in (1, 2, 3, 4, 10)]})
    assert manifest["words"]["source"]["train"] == {"mean": 4, "median": 3, "p95": 10, "max": 10}
    assert manifest["words"]["target"]["train"]["median"] == 6  # and not 11, with the marks between sentences


@pytest.mark.parametrize(("where", "written"), [("train", (1, 2)), ("all", (1, 1)), ("none", (2, 2))])
def test_duplicates_are_counted_everywhere_and_removed_where_asked(where, written, run):
    same = [("a", "b"), ("a", "b")]
    counts = run({"train": same, "valid": same}, duplicates=where)["counts"]
    assert (counts["train"]["written"], counts["valid"]["written"]) == written
    assert (counts["train"]["duplicate"], counts["valid"]["duplicate"]) == (1, 1)


def test_one_document_with_two_summaries_is_no_duplicate(run):
    assert run({"train": [("a", "b"), ("a", "c")]})["counts"]["train"] == {"read": 2, "written": 2}


def test_documents_in_two_splits_are_counted_and_stay(run, out):
    manifest = run({"train": [("a", "b"), ("c", "d"), ("e", "f")], "valid": [("a", "other")], "test": [("c", "d")]})
    assert manifest["overlaps"] == {"train and valid": 1, "train and test": 1, "valid and test": 0}
    assert len(lines(out / "train.source")) == 3


def test_overlap_is_removed_from_train_on_request_and_from_train_only(run, out):
    rows = {"train": [("a", "b"), ("long one", "x y"), ("c", "d")], "valid": [("a", "other")], "test": [("c", "d")]}
    manifest = run(rows, remove_overlap=True)
    assert lines(out / "train.source") == ["long one"]
    assert lines(out / "train.target") == ["x y"]
    assert (lines(out / "valid.source"), lines(out / "test.source")) == (["a"], ["c"])
    assert manifest["counts"]["train"] == {"read": 3, "written": 1, "overlap": 2}
    assert manifest["words"]["source"]["train"]["median"] == 2
    assert manifest["overlaps"]["train and test"] == 1


def test_empty_texts_are_left_out_on_both_sides_and_counted(run, out):
    manifest = run({"train": [("a", "b"), (" ", "c"), ("d", []), ("e", "<q>"), ("f", "g")]})
    assert lines(out / "train.source") == ["a", "f"]
    assert lines(out / "train.target") == ["b", "g"]
    assert manifest["counts"]["train"] == {"read": 5, "empty source": 1, "empty target": 2, "written": 2}


def test_longer_texts_are_cut_and_counted_where_asked(run, out):
    manifest = run({"train": [("a b c d", "e\nf g"), ("a b", "e")]}, max_source_words=3, max_target_words=2)
    # the mark between sentences is no word
    assert lines(out / "train.source") == ["a b c", "a b"]
    assert lines(out / "train.target") == ["e <q> f", "e"]
    assert manifest["counts"]["train"]["truncated source"] == 1
    assert manifest["counts"]["train"]["truncated target"] == 1
    assert manifest["words"]["source"]["train"]["max"] == 4


def test_malformed_records_are_listed_with_file_and_line(run, out):
    manifest = run({"train": [*many(100), "broken", '{"text": 1}']}, max_malformed=0.02)
    log = [json.loads(line) for line in lines(out / "malformed.jsonl")]
    assert [(entry["file"], entry["line"]) for entry in log] == [("train.jsonl", 101), ("train.jsonl", 102)]
    assert manifest["malformed"] == 2
    assert manifest["malformed_examples"][1].startswith("train.jsonl:102: field 'text' is neither")
    assert "train.jsonl:102" in (out / "report.md").read_text()


def test_more_malformed_records_than_the_share_are_an_error_and_nothing_is_written(run, out):
    rows = {"train": [*many(98), "broken", "{}"]}
    with pytest.raises(TooManyMalformed, match="2 of 100 records .* --max-malformed 0.01 [\\s\\S]*train.jsonl:99"):
        run(rows)
    assert list(out.iterdir()) == []
    assert run(rows, max_malformed=0.02)["malformed"] == 2


def test_a_split_without_a_usable_record_is_an_error_that_says_why(run, out):
    with pytest.raises(RawDataError, match="no usable record for valid .*1 empty target"):
        run({"train": many(3), "valid": [("a", "")]})
    assert not (out / "manifest.json").exists()


def test_an_error_is_one_line_and_the_exit_status_of_a_users_error(tmp_path, capsys):
    assert main(["arxiv", str(tmp_path / "nowhere"), str(tmp_path / "out")]) == EXIT_STATUS
    assert capsys.readouterr().err.endswith(f"\nerror: {tmp_path / 'nowhere'} is not a folder\n")


def test_the_report_names_counts_and_shows_the_histogram(run, out):
    run({"train": [*many(5), *many(1)], "valid": many(1)})
    text = (out / "report.md").read_text()
    assert "| duplicates in the split | 1 | 0 |" in text
    assert "| **written** | 5 | 1 |" in text
    assert "- train and valid: 1" in text
    assert "(histogram.png)" in text
    assert (out / "histogram.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_an_error_while_reading_leaves_the_earlier_output(run, out):
    run({"train": many(3)})
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(TooManyMalformed):
        run({"train": ["broken"]})
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_interruption_while_files_move_leaves_no_manifest_and_the_next_run_completes(run, out, monkeypatch):
    run({"train": many(3)})
    moved = []

    def interrupted(source, destination):
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(source.rename(destination))

    monkeypatch.setattr(whole.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run({"train": many(4)})
    assert not (out / "manifest.json").exists()
    monkeypatch.undo()
    assert run({"train": many(4)})["counts"]["train"]["written"] == 4


def test_a_killed_run_leaves_nothing_that_the_next_one_takes_for_its_own(run, out):
    (out / whole.PARTIAL).mkdir(parents=True)
    (out / whole.PARTIAL / "test.source").write_text("half a li")
    manifest = run({"train": many(3)})
    assert "test.source" not in manifest["sha256"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*manifest["sha256"], "manifest.json"])


def test_a_split_of_an_earlier_run_does_not_stay_behind(run, out):
    run({"train": many(3), "test": many(2)})
    (out / "notes.txt").write_text("the user's own")
    run({"train": many(3)})
    assert not (out / "test.source").exists()
    assert (out / "notes.txt").exists()


# "£" and "’" as UTF-8 that was read as Latin-1 and as Windows-1252
POUND, QUOTE = "\u00c2\u00a3", "\u00e2\u20ac\u2122"


def test_mojibake_is_counted_and_kept_unless_mending_is_asked_for(run, out):
    rows = {"train": [(f"it cost {POUND}6", f"it{QUOTE}s"), ("caf\u00e9 \u00a36 \u2019", "b")]}
    manifest = run(rows)
    assert manifest["notes"] == {MOJIBAKE: 1}
    assert lines(out / "train.source")[0] == f"it cost {POUND}6"
    run(rows, mend_mojibake=True)
    assert lines(out / "train.source") == ["it cost \u00a36", "caf\u00e9 \u00a36 \u2019"]
    assert lines(out / "train.target") == ["it\u2019s", "b"]


@pytest.mark.parametrize("character", ["\u00e9", "\u00a3", "\u2019", "\u4e2d", "\U0001f600", "\u0142", "\u00df"])
@pytest.mark.parametrize("codec", ["latin-1", "cp1252"])
def test_every_character_is_mended_and_a_right_one_stays(character, codec):
    assert mend(character + " x") == character + " x"
    try:
        broken = character.encode().decode(codec)
    except UnicodeDecodeError:
        pytest.skip(f"{codec} has no character for one of the bytes")
    assert mend(broken + " x") == character + " x"


def test_the_real_xsum_sample_holds_mojibake(formats):
    text = (formats / "xsum" / "10000983.summary").read_text(encoding="utf-8")
    assert f"({POUND}6,076)" in text
    assert "(\u00a36,076)" in mend(text)


def test_workers_that_die_are_an_error_and_no_traceback(tmp_path, write_corpus, monkeypatch, capsys):
    write_corpus("arxiv", tmp_path / "raw")

    def dies(*_):
        raise BrokenProcessPool

    monkeypatch.setattr(prepare_module, "ordered_map", dies)
    assert main(["arxiv", str(tmp_path / "raw"), str(tmp_path / "out")]) == EXIT_STATUS
    assert "fewer --workers" in capsys.readouterr().err


def test_help_explains_every_format():
    command = [sys.executable, "-m", "data_prep.prepare", "mediasum", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    text = " ".join(done.stdout.split())
    for word in ("news_dialogue.json", "--split-file", "--max-malformed", "(default: 0.01)", "--workers"):
        assert word in text


def test_the_map_keeps_the_order_and_does_not_run_ahead():
    from data_prep.ordered_map import ordered_map

    taken = []
    results = ordered_map(abs, (taken.append(n) or -n for n in range(5000)), workers=2, chunk=10)
    assert [next(results) for _ in range(15)] == list(range(15))
    assert len(taken) <= 10 * (4 * 2 + 2)
    results.close()
