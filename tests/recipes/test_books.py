"""The books of the recipes: a stage runs once, again after a change, goes on where it was, or is refused."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from recipes.books import Book, BookError, Command, Stage
from recipes.books.book import ROOT
from recipes.books.files import read_json
from recipes.books.lock import Lock
from recipes.books.plan import read_plan
from recipes.books.progress import Progress, in_words
from recipes.books.stage import differences, identities


def shell(script, *words, free=()):
    """A command of `sh`: cheap to start."""
    return Command(["sh", "-c", script, "sh", *map(str, words)], frozenset(free))


def append(out, folder, word):
    """A command that adds a line to ``folder``/file."""
    return shell(f'echo "$1" >> {out}/{folder}/file', word)


def one(out, word="one", **more):
    return [Stage("first", [append(out, "first", word)], **more)]


def two(out, word="one", other="other"):
    return [*one(out, word), Stage("second", [append(out, "second", other)])]


def text(out, folder):
    return (out / folder / "file").read_text()


def snapshot(folder):
    """Every file with its content and time: what a refused run must leave as it is."""
    return {
        str(path.relative_to(folder)): (path.is_dir() or path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


# ---- once, and again after a change -------------------------------------------------------------------------


def test_a_finished_stage_is_skipped(out, capsys):
    for _ in range(2):
        Book(out).run(one(out))
    assert "first: done before" in capsys.readouterr().out
    assert text(out, "first") == "one\n"


def test_a_changed_stage_and_those_after_it_run_anew(out):
    Book(out).run(two(out))
    (out / "second/old").touch()
    Book(out, changed="redo").run(two(out, "another"))
    assert text(out, "first") == "another\n"
    assert text(out, "second") == "other\n"
    assert not (out / "second/old").exists()


def test_a_stage_runs_anew_when_its_folder_is_gone(out):
    Book(out).run(one(out))
    (out / "first/file").unlink()
    (out / "first").rmdir()
    Book(out).run(one(out))
    assert text(out, "first") == "one\n"


def test_only_the_stages_it_comes_after_count(out, capsys):
    def stages(word):
        return [
            *one(out, word),
            Stage("other", [append(out, "other", "x")], after=[]),
            Stage("last", [append(out, "last", "x")], after=["other"]),
        ]

    Book(out).run(stages("one"))
    capsys.readouterr()
    Book(out, changed="redo").run(stages("two"))
    shown = capsys.readouterr().out
    assert "other: done before" in shown
    assert "last: done before" in shown
    assert text(out, "first") == "two\n"


def test_a_stage_is_known_by_its_arguments_and_those_before_it_but_not_by_free_words_and_places():
    def known(*words, free=(), before=("a",), places=None):
        stages = [Stage("before", [Command(list(before))]), Stage("it", [Command(list(words), frozenset(free))])]
        return identities(stages, places or {})["it"]

    same = known("tool", "--lr", "1")
    assert same == known("tool", "--lr", "1")
    assert same != known("tool", "--lr", "2")
    assert same != known("tool", "--lr 1")
    assert same != known("tool", "--lr", "1", "")
    assert same != known("tool", "--lr", "1", before=("b",))
    assert known("tool", "--workers", "1", free=(1, 2)) == known("tool", "--workers", "8", free=(1, 2)) == known("tool")
    assert known("/a/out/x", places={"/a/out": "OUT"}) == known("/b/out/x", places={"/b/out": "OUT"})


def test_a_stage_that_comes_after_none_that_is_there_is_refused():
    with pytest.raises(ValueError, match="stage it comes after nothing, which"):
        identities([Stage("it", [], after=["nothing"])], {})


def test_other_settings_stop_with_the_difference_and_leave_everything_as_it_is(out):
    def stages(rate):
        train = shell(f"echo trained > {out}/train/file", "--lr", rate, "--seed", 1)
        return [*one(out), Stage("train", [train], settings={"lr": str(rate)})]

    Book(out, facts={"seed": 1}).run(stages(0.1))
    before = snapshot(out)
    with pytest.raises(BookError) as refused:
        Book(out, remedy="choose another folder", facts={"seed": 2}).run(stages(0.2))
    assert str(refused.value).splitlines()[1:] == ["  before: --lr 0.1", "  now:    --lr 0.2", "choose another folder"]
    assert snapshot(out) == before
    assert json.loads((out / "settings.json").read_text())["settings"] == {"lr": "0.1"}


def test_a_late_refusal_comes_before_an_early_stage_runs(out):
    """The first stage would run; the second is refused: nothing runs."""
    Book(out).run(two(out))
    (out / ".stages/first.json").unlink()
    (out / "first/file").unlink()
    (out / "first").rmdir()
    before = snapshot(out)
    with pytest.raises(BookError, match="second has run in .* with other settings"):
        Book(out).run(two(out, "one", "changed"))
    assert snapshot(out) == before


def test_keep_goes_on_in_the_folder_of_other_settings(out, capsys):
    Book(out).run(one(out))
    Book(out, changed="keep").run(one(out, "two"))
    assert text(out, "first") == "one\ntwo\n"
    assert "goes on in" in capsys.readouterr().out
    Book(out).run(one(out, "two"))
    assert text(out, "first") == "one\ntwo\n"


def test_files_of_which_no_record_tells_are_not_removed_unless_told(out):
    Book(out).run(one(out))
    (out / ".stages/first.json").unlink()
    with pytest.raises(BookError, match="out/first has files, and no record says what made them"):
        Book(out).run(one(out, "two"))
    assert text(out, "first") == "one\n"
    Book(out, changed="redo").run(one(out, "two"))
    assert text(out, "first") == "two\n"


def test_an_unfinished_stage_with_other_settings_starts_over_unless_it_could_go_on(out):
    for resumable in (False, True):
        folder = out / str(resumable)
        stage = Stage("first", [append(folder, "first", "begun"), Command(["false"])], resumable=resumable)
        with pytest.raises(BookError):
            Book(folder).run([stage])
        changed = [Stage("first", [append(folder, "first", "changed")], resumable=resumable)]
        if resumable:
            with pytest.raises(BookError, match="with other settings"):
                Book(folder).run(changed)
            assert text(folder, "first") == "begun\n"
        else:
            Book(folder).run(changed)
            assert text(folder, "first") == "changed\n"


@pytest.mark.parametrize(("changed", "expected"), [("redo", "A\n"), ("keep", "A\nB\nA\n")])
def test_what_a_stage_finished_with_before_does_not_count_once_it_began_with_other_settings(out, changed, expected):
    """First A, then B that is interrupted, then A again: what is in the folder is B's, so A must run."""
    Book(out).run(one(out, "A"))
    with pytest.raises(BookError):
        Book(out, changed=changed).run([Stage("first", [append(out, "first", "B"), Command(["false"])])])
    Book(out, changed=changed).run(one(out, "A"))
    assert text(out, "first") == expected


def test_a_stage_that_runs_always_counts_for_no_other(out):
    for word in ("one", "two"):
        fetch = Stage("fetch", [shell(f'echo "$1" >> {out}/fetched', word)], always=True)
        Book(out).run([fetch, *one(out)])
    assert (out / "fetched").read_text() == "one\ntwo\n"
    assert text(out, "first") == "one\n"


# ---- parts of a run -----------------------------------------------------------------------------------------


def test_stages_that_are_not_selected_do_not_run_but_must_have_run(out):
    with pytest.raises(BookError, match="second needs first, which has not finished in .*: run that first"):
        Book(out).run(two(out), {"second"})
    assert not out.exists()
    Book(out).run(two(out))
    Book(out, changed="redo").run(two(out, "one", "again"), {"second"})
    assert text(out, "second") == "again\n"
    with pytest.raises(BookError, match="second needs first, which ran in .* with other settings"):
        Book(out, changed="redo").run(two(out, "other"), {"second"})


def test_a_helper_does_not_take_any_finished_training_for_its_own(out, capsys):
    stages = two(out)
    book = Book(out)
    with pytest.raises(BookError, match="second needs first, which has not finished"):
        book.help(stages, stages[1], "second.node1")
    book.run(stages)
    book.help(stages, stages[1], "second.node1")
    assert "second: done before" in capsys.readouterr().out
    changed = two(out, "one", "changed")
    with pytest.raises(BookError, match="second has run in .* with other settings"):
        Book(out).help(changed, changed[1], "second.node1")
    before = read_json(out / ".stages/second.json")
    Book(out, changed="keep").help(changed, changed[1], "second.node1")
    assert text(out, "second") == "other\nchanged\n"
    assert read_json(out / ".stages/second.json") == before


def test_a_helper_may_come_first(out):
    stages = [Stage("train", [shell(f"mkdir -p {out}; echo worked >> {out}/train.txt")])]
    Book(out).help(stages, stages[0], "train.node1")
    Book(out).run(stages)
    assert (out / "train.txt").read_text() == "worked\nworked\n"


def test_a_helper_refuses_a_folder_that_no_book_has_made(out):
    out.mkdir()
    (out / "thesis.tex").write_text("")
    stages = [Stage("train", [shell("true")])]
    with pytest.raises(BookError, match="was not made by a recipe"):
        Book(out).help(stages, stages[0], "train.node1")


def test_a_word_that_is_known_late_takes_its_value_when_the_stage_begins(out):
    stages = [
        Stage("first", [shell(f"echo 12 > {out}/first/count")]),
        Stage("second", [Command.marked(["sh", "-c", f'echo "$1" > {out}/second/file', "sh", "[", "{late}", "]"])]),
    ]
    Book(out, late={"{late}": lambda: (out / "first/count").read_text().strip()}).run(stages)
    assert text(out, "second") == "12\n"
    assert "12" not in json.dumps(read_json(out / ".stages/second.json"))


# ---- failures and interruptions -----------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("kill -KILL $$", 137)])
def test_a_failed_stage_shows_its_last_words_names_its_log_and_stops(out, script, status):
    stages = [Stage("first", [shell(f"echo reason >&2; {script}")]), *two(out)[1:]]
    with pytest.raises(BookError) as failed:
        Book(out, again="make demo").run(stages)
    assert failed.value.status == status
    assert f"first failed (exit status {status}):\n  reason\nRead {out}/logs/first.log" in str(failed.value)
    assert 'run "make demo" again' in str(failed.value)
    assert (out / "logs/first.log").read_text() == "reason\n"
    assert not (out / "second").exists()


def test_a_program_that_is_not_there_is_a_failed_stage(out):
    with pytest.raises(BookError, match="no-such-program: No such file or directory"):
        Book(out).run([Stage("first", [Command(["no-such-program"])])])


def test_commands_after_a_failed_one_do_not_run(out):
    with pytest.raises(BookError):
        Book(out).run([Stage("first", [Command(["false"]), append(out, "first", "after")])])
    assert not (out / "first/file").exists()


def test_an_interrupted_stage_goes_on_in_its_folder_and_its_log(out):
    # as a training that is killed and goes on from its checkpoint
    train = shell(f"echo update >> {out}/first/file; echo logged; [ $(wc -l < {out}/first/file) -ge 2 ] || kill -9 $$")
    with pytest.raises(BookError):
        Book(out).run([Stage("first", [train], resumable=True)])
    Book(out).run([Stage("first", [train], resumable=True)])
    assert text(out, "first") == "update\nupdate\n"
    assert (out / "logs/first.log").read_text() == "logged\nlogged\n"


def test_an_interrupted_stage_that_cannot_go_on_begins_in_an_empty_folder(out):
    """fairseq-preprocess refuses to run where it has left a dictionary."""
    work = shell(f"mkdir {out}/first/dict && [ -e {out}/again ] || {{ touch {out}/again; kill -9 $$; }}")
    with pytest.raises(BookError):
        Book(out).run([Stage("first", [work])])
    Book(out).run([Stage("first", [work])])


RUN = """
import sys
from pathlib import Path
from recipes.books import Book, BookError, Command, Stage
out = Path(sys.argv[1])
try:
    Book(out, again="make demo").run([Stage("first", [Command(["sh", "-c", sys.argv[2]])])])
except BookError as error:
    print(error)
    sys.exit(error.status)
"""


def start(out, script):
    """A run in a process of its own, which has begun its stage."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(out), f"touch {out}/first/began; {script}"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    deadline = time.monotonic() + 60
    while not (out / "first/began").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (out / "first/began").exists()
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_recipe_alone_ends_its_stage_as_well(out, number):
    process = start(out, f"echo $$ > {out}/first/pid; exec sleep 60")
    while not (out / "first/pid").exists() or not (out / "first/pid").read_text().strip():
        time.sleep(0.02)
    child = int((out / "first/pid").read_text())
    process.send_signal(number)
    shown = process.communicate(timeout=30)[0]
    assert process.returncode == 130
    assert 'interrupted; run "make demo" again to go on where it stopped' in shown
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_what_a_killed_recipe_left_running_keeps_others_out(out):
    process = start(out, f"while [ ! -e {out}/end ]; do sleep 0.05; done")
    process.kill()
    process.wait()
    before = snapshot(out)
    for clean in (False, True):
        with pytest.raises(BookError, match=f"another run is at work in {out}"):
            Book(out, clean=clean).run(one(out))
        assert snapshot(out) == before
    (out / "end").touch()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            Book(out, changed="redo").run(one(out))
            break
        except BookError:
            time.sleep(0.05)
    assert text(out, "first") == "one\n"


def test_a_run_that_another_keeps_out_changes_nothing(out):
    Book(out, facts={"seed": 1}).run(one(out))
    other = Lock(out / ".stages/lock")
    other.take()
    before = snapshot(out)
    for options in ({}, {"clean": True}, {"changed": "redo"}):
        with pytest.raises(BookError, match="another run is at work"):
            Book(out, facts={"seed": 2}, **options).run(one(out, "two"))
        assert snapshot(out) == before
    other.release()


def test_clean_starts_over_under_the_lock(out, capsys):
    Book(out).run(one(out))
    inode = (out / ".stages/lock").stat().st_ino
    (out / "old").mkdir()
    Book(out, clean=True).run(one(out))
    assert "done before" not in capsys.readouterr().out
    assert text(out, "first") == "one\n"
    assert not (out / "old").exists()
    assert (out / ".stages/lock").stat().st_ino == inode


@pytest.mark.parametrize("clean", [False, True])
def test_a_folder_that_no_recipe_made_is_not_touched(tmp_path, clean):
    (tmp_path / "thesis.tex").touch()
    before = snapshot(tmp_path)
    with pytest.raises(BookError, match="was not made by a recipe"):
        Book(tmp_path, clean=clean).run(one(tmp_path))
    assert snapshot(tmp_path) == before


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs but what Python itself undoes."""


def test_a_run_that_is_killed_at_any_write_ends_as_an_undisturbed_one(tmp_path, monkeypatch):
    """Before every change that the book makes on the disk, one run is killed; the next one must put it right."""
    import shutil

    from recipes.books import book, provenance

    def stages(out, word):
        training = shell(f'echo "$1" >> {out}/second/file; sort -u -o {out}/second/file {out}/second/file', word)
        whole = shell(f'echo "$1" > {out}/first/file', word)
        return [Stage("first", [whole]), Stage("second", [training], resumable=True, settings={"word": word})]

    def run(out):
        Book(out, changed="redo", facts={"seed": 1}).run(stages(out, "new"))

    def counted(function, state):
        def write(*arguments, **more):
            state["left"] -= 1
            if state["left"] < 0:
                raise Killed
            return function(*arguments, **more)

        return write

    for kill in range(40):
        out = tmp_path / str(kill)
        Book(out, facts={"seed": 1}).run(stages(out, "old"))
        state = {"left": kill}
        with monkeypatch.context() as patch:
            patch.setattr(book, "write_json", counted(book.write_json, state))
            patch.setattr(provenance, "write_json", counted(provenance.write_json, state))
            patch.setattr(book, "run_commands", counted(book.run_commands, state))
            patch.setattr(shutil, "rmtree", counted(shutil.rmtree, state))
            try:
                run(out)
                finished = True
            except Killed:
                finished = False
        run(out)
        assert text(out, "first") == text(out, "second") == "new\n"
        assert json.loads((out / "settings.json").read_text())["settings"] == {"word": "new"}
        if finished:
            break
    assert 8 < kill < 39


# ---- settings -----------------------------------------------------------------------------------------------


def test_settings_are_those_of_the_stages_that_ran(out):
    def stages(lr, beam):
        return [
            Stage("train", [append(out, "train", lr)], settings={"lr": lr}),
            Stage("generate", [append(out, "generate", beam)], settings={"beam": beam}),
        ]

    def settings():
        return json.loads((out / "settings.json").read_text())

    Book(out, facts={"command": ["a"], "seed": 1}).run(stages("0.1", "4"), {"train"})
    assert settings()["settings"] == {"lr": "0.1"}
    Book(out, facts={"command": ["b"], "seed": 1}).run(stages("0.1", "4"))
    assert settings()["settings"] == {"lr": "0.1", "beam": "4"}
    assert settings()["command"] == ["b"]
    assert settings()["stages"]["train"]["command"] == ["a"]
    assert settings()["versions"].keys() >= {"python", "torch", "srformer-plugin"}
    before = (out / "settings.json").read_bytes()
    Book(out, facts={"command": ["only shown"], "seed": 7}).run(stages("0.1", "4"))
    assert (out / "settings.json").read_bytes() == before


# ---- several at once, and what is shown ---------------------------------------------------------------------


def labelled(label, script):
    return Command(["sh", "-c", script], label=label)


def test_commands_at_once_run_at_the_same_time_and_are_marked_in_the_log(out):
    # each waits for the other's file: one after the other would never end
    wait = f"while ! [ -e {out}/both/one -a -e {out}/both/two ]; do sleep 0.05; done"
    commands = [labelled(name, f"touch {out}/both/{name}; {wait}; echo of {name}") for name in ("one", "two")]
    Book(out).run([Stage("both", commands, at_once=2)])
    assert sorted((out / "logs/both.log").read_text().splitlines()) == ["[one] of one", "[two] of two"]


def test_no_more_run_at_once_than_asked_for(out):
    busy = f"mkdir {out}/all/busy && sleep 0.1 && rmdir {out}/all/busy"
    Book(out).run([Stage("all", [labelled(str(number), busy) for number in range(3)], at_once=1)])


def test_when_one_of_several_fails_the_others_are_stopped_and_the_stage_fails(out):
    pid = out / "both/pid"
    commands = [
        labelled("one", f"echo $$ > {pid}; exec sleep 60"),
        labelled("two", f"while ! [ -s {pid} ]; do sleep 0.05; done; exit 3"),
    ]
    with pytest.raises(BookError, match="exit status 3"):
        Book(out).run([Stage("both", commands, at_once=2)])
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def inner(updates, ppl="24.5", label=""):
    stats = {"epoch": 1, "ppl": ppl, "num_updates": str(updates), "wall": "12", "wps": "2913.5", "ups": "7.5"}
    return f"2026-01-01 00:00:00 | INFO | train_inner | {json.dumps(stats)}"


def valid(updates, **more):
    stats = {"valid_ppl": "31", "valid_num_updates": str(updates), **more}
    return f"2026-01-01 00:00:00 | INFO | valid | {json.dumps(stats)}"


def test_progress_without_a_terminal_is_a_line_now_and_then():
    now = [0.0]
    stream = io.StringIO()
    progress = Progress({"one": 400}, stream, clock=lambda: now[0])
    for update in range(0, 200, 2):
        now[0] += 1.5
        progress("one", inner(update))
        if update == 20:
            progress("one", valid(20, valid_rouge1="12.5"))
        progress("one", "somewhere.py:3: UserWarning: something")
        progress("", None)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == "  [one] update 78 of 400  train ppl 24.5  updates/s 7.5  target tokens/s 2913.5  " + (
        "valid ppl 31  ROUGE-1 12.5  4 min left"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (7100, "118 min"), (7200, "2 h 0 min"), (86_399, "24 h 0 min")],
)
def test_a_time_left_is_as_exact_as_one_wants_to_know_it(seconds, words):
    assert in_words(seconds) == words


def test_progress_of_a_day_is_a_hundred_lines_and_not_thousands():
    now = [0.0]
    stream = io.StringIO()
    progress = Progress({}, stream, clock=lambda: now[0])
    progress("", inner(1))
    for _ in range(24 * 60):
        now[0] += 60
        progress("", None)
    assert 20 < len(stream.getvalue().splitlines()) < 100


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_is_one_line_with_updates_and_time_left():
    stream = Terminal()
    progress = Progress({"": 100}, stream)
    progress("", "reading")
    progress("", inner(50))
    progress("", inner(60, ppl="20.1"))
    progress.close()
    assert "\n" not in stream.getvalue().strip()
    assert "60/100" in stream.getvalue()
    assert "train ppl=20.1" in stream.getvalue()


def test_the_last_words_of_a_stage_are_no_warnings_and_no_log_lines():
    progress = Progress({}, io.StringIO())
    for line in (inner(5), "a.py:1: FutureWarning: old", "  warnings.warn(", "INFO:x", "", "usage: tool", " 50%|###"):
        progress("", line)
    progress("one", "ValueError: the reason")
    assert progress.tail == ["[one] ValueError: the reason"]


def test_a_line_that_was_cut_short_is_no_error():
    Progress({}, io.StringIO())("", '2026-01-01 00:00:00 | INFO | valid | {"valid_ppl": }')


# ---- plans --------------------------------------------------------------------------------------------------


def plan(*records):
    return b"".join(word.encode() + b"\0" for words in records for word in (str(len(words)), *words))


def test_a_plan_is_read_as_the_script_wrote_it():
    book, stages = read_plan(
        plan(
            ("book", "out=a b", "clean="),
            ("stage", "first", "the first", "--folder", "corpus", "--always"),
            ("run", "tool", "", "two words", "[", "--workers", "2", "]", "é\n"),
            ("stage", "second", "next", "--after", "first", "other", "--at-once", "2", "--resumable"),
            ("counts", "--batch-size", "8"),
            ("run-as", "label", "train"),
        )
    )
    assert book == {"out": "a b", "clean": ""}
    first, second = stages
    assert (first.folder, first.always, first.title) == ("corpus", True, "the first")
    assert first.commands[0].words == ["tool", "", "two words", "--workers", "2", "é\n"]
    assert first.commands[0].counted() == ["tool", "", "two words", "é\n"]
    assert (second.after, second.at_once, second.resumable) == (["first", "other"], 2, True)
    assert second.counts == ["--batch-size", "8"]
    assert second.commands[0].label == "label"


@pytest.mark.parametrize("words", [["a", "["], ["a", "]"], ["[", "[", "]", "]"]])
def test_brackets_must_match(words):
    with pytest.raises(ValueError, match="brackets do not match"):
        Command.marked(words)


def test_differences_are_flags_with_their_values():
    before = [["tool", "data", "--lr", "1", "--fp16"], ["find", "x"]]
    now = [["tool", "data", "--lr", "2"], ["find", "x"]]
    assert differences(before, now) == ["  before: --lr 1", "  before: --fp16", "  now:    --lr 2"]
