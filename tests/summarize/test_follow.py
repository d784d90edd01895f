"""`--follow`: a file or pipe that grows, and when it is summarised."""

import io
import itertools
import json
import os
import sys
import threading
import time

import pytest
from summarize.conftest import TEXTS, words

from data_prep.errors import UserError
from srformer_plugin.summarize import cli
from srformer_plugin.summarize.follow import follow, growing


class Words:
    """A stream that only counts."""

    def __init__(self):
        self.words = 0

    def append(self, text):
        self.words += len(text.split())


def shown(parts, every, pause, seconds=1.0):
    """After how many words `follow` shows a summary; every part comes `seconds` after the one before."""
    stream, found, now = Words(), [], itertools.count(step=seconds)
    clock = [next(now)]

    def timed():
        for part in parts:
            clock[0] = next(now)
            yield part

    follow(timed(), stream, lambda: found.append(stream.words), every, pause, lambda: clock[0])
    return found


def test_a_summary_after_every_so_many_words_and_at_the_end():
    assert shown(["a b", "c", "d e f", "g"], every=3, pause=99) == [3, 6, 7]
    assert shown(["a b c d e f g"], every=3, pause=99) == [7]
    assert shown(["a b c"], every=3, pause=99) == [3]
    assert shown([], every=3, pause=99) == shown(["", " "], every=1, pause=0) == []


def test_a_summary_at_a_pause_after_new_words():
    assert shown(["a", "", "", "", "", "", "b", "", "c"], every=99, pause=3) == [1, 3]
    assert shown(["a", "", "b", "", "c", ""], every=99, pause=3) == [3]


def test_a_pipe_is_read_until_it_ends_and_characters_may_come_in_parts(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    text = "\ufeffthe bridge é東 " * 3

    def write():
        with open(tmp_path / "pipe", "wb", buffering=0) as file:
            for byte in text.encode():
                file.write(bytes([byte]))
                time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    found = list(growing(str(tmp_path / "pipe"), poll=0.01))
    writer.join()
    assert "".join(found) == text.removeprefix("\ufeff")


def test_a_file_is_read_as_it_grows_and_said_to_be_shorter(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("the bridge ")
    parts = growing(str(path), poll=0.001)
    assert [next(parts), next(parts)] == ["the bridge ", ""]
    with open(path, "a") as file:
        file.write("and the storm")
    assert next(part for part in parts if part) == "and the storm"
    path.write_text("short")
    with pytest.raises(UserError, match="shorter"):
        list(parts)


def test_another_file_of_the_same_name_is_said(tmp_path):
    """As where a log is rotated, or an editor saves."""
    path = tmp_path / "a.txt"
    path.write_text("the bridge ")
    parts = growing(str(path), poll=0.001)
    assert [next(parts), next(parts)] == ["the bridge ", ""]
    with open(path, "a") as file:
        path.rename(tmp_path / "a.txt.1")
        file.write("and the storm")
    assert [next(parts), next(parts)] == ["and the storm", ""]  # no file has the name: it is followed still
    path.write_text("the bridge and the storm and the museum")
    with pytest.raises(UserError, match="replaced"):
        next(parts)


@pytest.mark.parametrize("data", [b"the na\xefve", b"the \xc3"])
def test_what_is_no_text_is_said(data, monkeypatch, tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(data)
    with open(path) as file:
        monkeypatch.setattr(sys, "stdin", file)
        with pytest.raises(UserError, match="standard input is not UTF-8"):
            list(growing("-"))


@pytest.fixture
def run(monkeypatch, capsys, model):
    """Function (arguments) -> (status, lines of standard output, standard error), of `--follow`."""
    monkeypatch.setattr(cli, "load", lambda *args, **how: model)

    def run(*arguments):
        status = cli.main(["--model", "m", "--follow", *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return run


def test_a_pipe_is_summarised_again_and_again(run, model, monkeypatch, tmp_path):
    parts = [TEXTS[0] + " ", words(50, seed=40) + " ", words(90, seed=41)]
    monkeypatch.setattr(cli, "growing", lambda file: iter(parts))
    expected = [model.summarize("".join(parts[:count])) for count in (1, 2, 3)]
    assert run("-", "--every", 5) == (0, expected, "")
    status, lines, _ = run("-", "--every", 5, "--json")
    found = [json.loads(line) for line in lines]
    assert [one["words"] for one in found] == [12, 62, 152]
    assert [one["chunked"] for one in found] == [False, True, True]
    assert run("-", "--every", 5, "--out", tmp_path / "out.txt") == (0, [], "")
    assert (tmp_path / "out.txt").read_text() == expected[-1] + "\n"


def test_an_interruption_ends_it(run, model, monkeypatch, tmp_path):
    def parts(file):
        yield TEXTS[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "growing", parts)
    (tmp_path / "a.txt").write_text("")
    assert run(tmp_path / "a.txt", "--every", 3) == (0, [model.summarize(TEXTS[0])], "")


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["a", "b"], "one file"),
        (["-", "--field", "x"], "--field"),
        (["missing"], "missing"),
        (["-", "--pause", "-1"], "-1"),
        (["-", "--pause", "nan"], "nan"),
    ],
)
def test_what_does_not_go_together_is_named_before_the_model_is_loaded(run, monkeypatch, arguments, named):
    monkeypatch.setattr(cli, "load", lambda *args, **how: pytest.fail("loaded"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    status, _, err = run(*arguments)
    assert status == 2 and named in err and err.count("\n") == 1
