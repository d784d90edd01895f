"""`srformer-summarize`: documents in, lines out, in their order; bad documents and the exit status."""

import io
import json
import logging
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from helpers import pythonpath
from summarize.conftest import TEXTS

from srformer_plugin.summarize import cli

SETTINGS = ["--max-len", "20", "--min-len", "2"]


@pytest.fixture
def run(converted_bart, model, monkeypatch, capsys):
    """Function (arguments, bytes of standard input) -> (status, standard output, lines of standard error).

    The model is loaded by the first test that needs it.
    """
    monkeypatch.setattr(cli, "load", lambda *args, **decoding: model)

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = cli.main(["--model", str(converted_bart), *SETTINGS, *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.txt" for number in range(len(TEXTS))]
    for path, text in zip(paths, TEXTS):
        path.write_text(text, encoding="utf-8")
    return paths


def test_a_line_for_every_file_in_their_order(run, files, model):
    assert run(*files) == (0, "".join(f"{text}\n" for text in model.summarize(TEXTS)), [])


def test_standard_input_is_a_document(run, model):
    expected = (0, model.summarize(TEXTS[0]) + "\n", [])
    assert run(stdin=TEXTS[0].encode()) == run("-", stdin=TEXTS[0].encode()) == expected


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_text(run, model, tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeff".encode() + TEXTS[0].replace(" ", "\r\n").encode())
    line = json.dumps({"text": TEXTS[0]}).encode()
    (tmp_path / "a.jsonl").write_bytes("\ufeff".encode() + line + b"\r\n\r\n" + line + b"\r\n")
    status, out, err = run(tmp_path / "a.txt", tmp_path / "a.jsonl", "--field", "text", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert (status, err, {one["summary"] for one in found}) == (0, [], {model.summarize(TEXTS[0])})
    assert [one["line"] for one in found] == [None, 1, 3]


def test_json_says_what_happened(run, files, model, tmp_path):
    (tmp_path / "long.txt").write_text(" ".join(TEXTS), encoding="utf-8")
    status, out, (line,) = run(files[1], tmp_path / "long.txt", "--json")
    (short, long) = map(json.loads, out.splitlines())
    assert status == 0
    assert short == {
        "file": str(files[1]),
        "line": None,
        "summary": model.summarize(TEXTS[1]),
        "tokens": len(model.tokenizer.encode(TEXTS[1])),
        "summary_tokens": len(model.summarize_texts([TEXTS[1]])[0].ids),
        "chunked": False,
        "truncated": False,
    }
    assert long["tokens"] == len(model.tokenizer.encode(" ".join(TEXTS)))
    assert long["chunked"] and not long["truncated"]
    assert "1 document is longer than the model's 64 positions: encoded in chunks" in line


def test_bad_documents_are_named_and_the_others_go_on(run, files, model, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"ok\nna\xefve")
    (tmp_path / "folder").mkdir()
    lines = [
        b'{"text": "the bridge"}',
        b'{"text": ',
        b'["the"]',
        b'{"body": "the"}',
        b'{"text": 3}',
        b'{"text": ""}',
        b'{"text": "\xef"}',
        b'{"text": "the \\ud83d storm"}',
        b"[" * 100_000,
        b'{"text": "the storm"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "none.jsonl").write_bytes(b"\n")
    names = ["missing.txt", "empty.txt", "latin.txt", "folder", "a.jsonl", "none.jsonl", "missing.jsonl"]
    paths = [tmp_path / name for name in names]
    status, out, err = run(files[0], *paths, files[1], "--field", "text")
    a = tmp_path / "a.jsonl"
    reasons = [
        f"{paths[0]}: No such file or directory", f"{paths[1]}: it is empty",
        f"{paths[2]}: it is not UTF-8 text (line 2)",
        f"{paths[3]}: Is a directory", f"{a}:2: it is no JSON: Expecting value", f"{a}:3: it is no JSON object",
        f"{a}:4: it has no field 'text'; it has 'body'", f"{a}:5: its field 'text' is no text", f"{a}:6: it is empty",
        f"{a}:7: it is not UTF-8 text", f"{a}:8: no text: half of a surrogate pair", f"{a}:9: it is no JSON",
        f"{paths[5]}: it is empty", f"{paths[6]}: No such file or directory",
    ]  # fmt: skip
    assert status == 2
    assert len(err) == len(reasons)
    for line, reason in zip(err, reasons):
        assert line.startswith(f"error: {reason}")
    summaries = model.summarize([TEXTS[0], "the bridge", "the storm", TEXTS[1]])
    expected = [summaries[0], "", "", "", "", summaries[1], *[""] * 8, summaries[2], "", "", summaries[3]]
    assert out.splitlines() == expected
    status, as_json, _ = run(files[0], *paths, files[1], "--field", "text", "--json")
    found = [json.loads(line) for line in as_json.splitlines()]
    assert [one.get("summary", "") for one in found] == expected
    assert sum("error" in one for one in found) == len(reasons) and status == 2


def test_a_name_that_is_not_utf8_costs_nothing(run, model, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    with open(path, "w") as file:
        file.write(TEXTS[0])
    for out in ([], ["--out", tmp_path / "out"]):
        status, text, _ = run(path, "--json", *out)
        found = json.loads(text if not out else (tmp_path / "out").read_bytes())
        assert (status, found["file"], found["summary"]) == (0, path, model.summarize(TEXTS[0]))
    assert run(path, "--explain", tmp_path / "page.html")[0] == 0
    assert "caf\\udce9.txt" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_standard_output_is_utf8_whatever_the_locale(model, monkeypatch):
    monkeypatch.setattr(cli, "load", lambda *args, **decoding: model)
    monkeypatch.setattr(cli, "as_line", lambda *args: "\u6771")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXTS[0].encode())))
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert cli.main(["--model", "m"]) == 0
    sys.stdout.flush()
    assert written.getvalue() == "\u6771\n".encode()


def test_jsonl_without_a_field_is_an_error_and_standard_input_with_one_is_jsonl(run, model, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": TEXTS[0]}))
    status, _, (line,) = run(tmp_path / "a.jsonl")
    assert status == 2 and "--field" in line
    stdin = json.dumps({"text": TEXTS[0]}).encode()
    assert run("--field", "text", stdin=stdin) == (0, model.summarize(TEXTS[0]) + "\n", [])


def test_the_model_is_not_loaded_where_no_document_is_good(run, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "load", lambda *args, **how: pytest.fail("loaded"))
    assert run(tmp_path / "missing.txt")[0] == 2
    assert "no folder" in run(tmp_path / "missing.txt", "--out", tmp_path / "nowhere" / "out")[2][0]
    for flag in ("--out", "--explain"):
        assert f"{flag} {tmp_path} is a folder" in run(tmp_path / "missing.txt", flag, tmp_path)[2][0]
    assert "once" in run("-", "-")[2][0]


def test_what_cannot_be_written_or_would_replace_a_document_is_said_first(run, files, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "load", lambda *args, **how: pytest.fail("loaded"))
    (tmp_path / "link").symlink_to(files[1])
    for out in (files[1], tmp_path / "link"):
        for flags in (["--out", out], ["--explain", out], ["--follow", "--out", out]):
            status, _, (line,) = run(*files[1:2], *flags)
            assert status == 2 and line.startswith(f"error: {flags[-2]} {out} is read as well, and would be replaced")
    assert "both" in run(files[0], "--out", tmp_path / "x", "--explain", tmp_path / "x")[2][0]
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    assert run(files[0], "--out", tmp_path / "x")[2] == [
        f"error: --out {tmp_path / 'x'} cannot be written: name another file"
    ]
    assert files[1].read_text() == TEXTS[1]


def test_the_output_file_is_whole_or_as_it_was(run, files, model, tmp_path, monkeypatch):
    out = tmp_path / "out.txt"
    out.write_text("before")
    monkeypatch.setattr(cli, "as_line", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(files[0], "--out", out)
    assert out.read_text() == "before"
    monkeypatch.undo()
    monkeypatch.setattr(cli, "load", lambda *args, **decoding: model)
    assert run(*files, "--out", out) == (0, "", [])
    assert out.read_text(encoding="utf-8").splitlines() == model.summarize(TEXTS)
    assert not list(tmp_path.glob(".*"))


def test_a_bar_is_shown_where_it_is_asked_for(run, files):
    assert run(*files)[2] == []
    assert any("7/7" in line for line in run(*files, "--progress")[2])


@pytest.mark.parametrize("options", [["--beam", "0"], ["--max-len", "x"], ["--min-len", "-1"], ["--max-tokens", "0"]])
def test_values_that_cannot_be_are_refused_at_once(run, options, capsys):
    with pytest.raises(SystemExit):
        run(*options)
    assert options[0] in capsys.readouterr().err


def test_the_settings_reach_the_search(converted_bart, files, capsys, tmp_path, bart):
    """A real model, from a Hugging Face folder; the first use of it says that it is converted."""
    arguments = ["--model", str(bart[0]), "--cache-dir", str(tmp_path / "cache"), "--json", str(files[0])]
    arguments += ["--min-len", "7", "--max-len", "7", "--beam", "2", "--no-repeat-ngram-size", "0"]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["summary_tokens"] == 8
    assert "converting" in err
    assert cli.main(arguments) == 0
    assert capsys.readouterr() == (out, "")
    assert cli.main([*arguments, "--max-len", "90"]) == 2
    assert "--max-len 90" in capsys.readouterr().err


def test_help_has_an_example_and_every_default():
    text = cli.parser().format_help()
    assert "srformer-summarize --model bart-large-cnn-hf report.txt" in text
    assert "--min-len 55" in text


LAZY = """
import runpy, sys
import srformer_plugin
assert "srformer_plugin.summarize" not in sys.modules
assert callable(srformer_plugin.summarize)
assert "srformer_plugin.summarize.model" not in sys.modules
runpy.run_module("srformer_plugin.summarize", run_name="__main__")
"""


def test_as_a_command_that_is_imported_when_it_is_asked_for(converted_bart, model, files):
    command = [sys.executable, "-c", LAZY, "--model", str(converted_bart), *SETTINGS, str(files[0])]
    environment = {**os.environ, "PYTHONPATH": pythonpath(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, model.summarize(TEXTS[0]) + "\n", "")


def test_the_loggers_of_others_are_left_as_they_were(tmp_path):
    before = {name: logging.getLogger(name).level for name in ("fairseq", "hydra", "srformer_plugin")}
    assert cli.main(["--model", str(tmp_path / "none"), "a.txt"]) == 2
    assert {name: logging.getLogger(name).level for name in before} == before
