"""A plan from raw text to the report: the tiny plan, and the report of one that has not finished."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import warm
from helpers import pythonpath

from recipes.evidence import report
from recipes.evidence.compare import main
from recipes.evidence.options import parser, place_of
from recipes.evidence.plan import START, read_plan
from recipes.evidence.runs import Runs, run_cell
from recipes.evidence.work import cell_stages, cells_of, shared_stages

ROOT = Path(__file__).resolve().parents[3]
TINY = ROOT / "recipes/plans/tiny.toml"
TEXTS = {"train": 60, "valid": 8, "test": 8}


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """Line files of small stories: sentences of a few dozen words, and the first of them as the summary."""
    rng, folder = random.Random(0), tmp_path_factory.mktemp("raw")
    words = ["".join(rng.choice("abcdefghilmnoprstu") for _ in range(rng.randint(2, 7))) for _ in range(60)]
    for split, count in TEXTS.items():
        stories = [[" ".join(rng.choices(words, k=6)) + " ." for _ in range(5)] for _ in range(count)]
        for side, lines in (("source", map(" ".join, stories)), ("target", (story[0] for story in stories))):
            (folder / f"{split}.{side}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def arguments(raw, out, *more):
    return ["--raw", str(raw), "--plan", str(TINY), "--out", str(out), "--cpu", "--workers", "1", *more]


@pytest.fixture
def tiny(raw, tmp_path):
    """The tiny plan and its place."""
    return read_plan(TINY), place_of(parser().parse_args(arguments(raw, tmp_path / "out")))


def finish(plan, place, cell, rouge1):
    """Leave what a finished cell leaves in its folder."""
    folder = place.cell(cell)
    for name in (".stages", "logs", "generate", "score"):
        (folder / name).mkdir(parents=True)
    for stage in cell_stages(plan, place, cell):
        (folder / f".stages/{stage.name}.json").write_text('{"state": "finished"}')
    (folder / "logs/train.log").write_text('d | INFO | valid | {"valid_nll_loss": "4"}\n')
    (folder / "generate/generate-test.txt").write_text(
        "D-1\t-1\tthe second\nD-0\t-1\tthe first\n"
        "d | INFO | generate | Translated 2 sentences (8 tokens) in 2.0s (1.00 sentences/s, 4.00 tokens/s)\n"
    )
    rows = [{"rouge1": value, "rouge2": value / 2, "rougeLsum": value} for value in rouge1]
    (folder / "score/examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "logs/generate.log").write_text("")
    (folder / "score/score.json").write_text('{"signature": "refs:1"}')


def write(plan, place):
    return report.write(plan, place, ["bash", "recipes/compare.sh"], {"device": "CPU"}, [["fairseq-train", "data"]])


def test_an_unfinished_plan_has_a_report_that_names_what_is_missing(tiny):
    plan, place = tiny
    _, text = write(plan, place)
    assert "**Not finished**: 0 of 4 runs" in text
    assert "- segmented, seed 1: train, generate, score" in text
    scores = np.random.default_rng(0).normal(30, 5, 40)
    for cell in plan.cells[:3]:
        finish(plan, place, cell, scores + (cell.system.name == "full"))
    rows, text = write(plan, place)
    assert "**Not finished**: 3 of 4 runs" in text
    assert "- SRformer, seed 1: train, generate, score" in text and "- full" not in text
    by_name = {row.name: row for row in rows}
    assert by_name["full"].score.mean[0] == pytest.approx(scores.mean() + 1)
    assert by_name["segmented"].against["full"].mean[0] == pytest.approx(-1)
    assert "refs:1" in text


def test_the_report_of_a_finished_plan_is_whole(tiny):
    plan, place = tiny
    (place.out / "encoded").mkdir(parents=True)
    for side in ("source", "target"):
        (place.out / f"encoded/test.{side}").write_text("▁a ▁b ▁c ▁d ▁e ▁f ▁g ▁h ▁i ▁j ▁k\n" * 3, encoding="utf-8")
    for number, cell in enumerate(plan.cells):
        finish(plan, place, cell, np.arange(40.0) + number)
    _, text = write(plan, place)
    folder = place.out / "report"
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert "All 4 runs have finished" in text and "bash recipes/compare.sh" in text
    assert (content["finished"], content["wanted"]) == (4, 4)
    assert content["plan"] == TINY.read_text(encoding="utf-8")
    segmented = next(row for row in content["systems"] if row["system"] == "segmented")
    # 12 tokens in two segments of 8 and 4: the clock's mean of keys is 6
    assert segmented["keys"] == pytest.approx(6 / 12)
    assert segmented["against"]["full"]["mean"]["rouge1"] == pytest.approx(1)
    assert segmented["runs"][0]["tokens_per_second"] == 4
    assert (folder / "quality_over_cost.png").read_bytes().startswith(b"\x89PNG")
    with gzip.open(folder / "hypotheses/full.1.txt.gz", "rt") as lines:
        assert lines.read() == "the first\nthe second\n"


def test_hypotheses_of_a_decoding_that_was_cut_off_are_not_kept(tiny):
    plan, place = tiny
    for cell in plan.cells[:2]:
        finish(plan, place, cell, np.arange(8.0))
    for stage in ("generate", "score"):
        (place.cell(plan.cells[1]) / f".stages/{stage}.json").write_text('{"state": "started"}')
    write(plan, place)
    assert [path.name for path in (place.out / "report/hypotheses").iterdir()] == [f"{plan.cells[0].name}.txt.gz"]


def test_a_difference_from_nothing_is_no_share(tiny):
    plan, place = tiny
    for cell in plan.cells[:3]:
        finish(plan, place, cell, np.full(8, 0.0 if cell.system.name == "full" else 2.0))
    _, text = write(plan, place)
    (line,) = (line for line in text.split("## Beside")[1].splitlines() if line.startswith("| segmented"))
    assert "| +2.00 |  |" in line and "nan" not in text


def test_the_report_is_of_the_plan_that_is_given_whatever_else_there_is(tiny, raw, tmp_path, capsys):
    plan, place = tiny
    for number, cell in enumerate(plan.cells):
        finish(plan, place, cell, np.arange(8.0) + number)
    text = TINY.read_text(encoding="utf-8")
    more = text + text[text.rindex("[[system]]") :].replace('"SRformer"', '"another"')
    less = text[: text.rindex("[[system]]")].replace(', "segmented"]', "]")
    for content, status, said in ((less, 0, "All 3 runs have"), (more, 1, "4 of 5 runs"), (text, 0, "All 4 runs have")):
        (tmp_path / "plan.toml").write_text(content, encoding="utf-8")
        assert main([*arguments(raw, place.out), "--plan", str(tmp_path / "plan.toml"), "--report-only"]) == status
        assert said in capsys.readouterr().out
        assert ("SRformer" in (place.out / "report/report.md").read_text(encoding="utf-8")) is (content is not less)


def test_a_report_of_nothing_is_refused_and_leaves_nothing(raw, tmp_path, capsys):
    assert main(arguments(raw, tmp_path / "out", "--report-only")) == 2
    assert f"--report-only: there are no runs in {tmp_path / 'out'}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_system_has_the_same_start_data_and_decoding(tiny):
    plan, place = tiny
    seen = set()
    for cell in plan.cells[1:]:
        for stage in cell_stages(plan, place, cell):
            words = list(stage.commands[0].words)
            if stage.name == "train":
                first = words.index(cell.system.flags[0])
                assert tuple(words[first : first + len(cell.system.flags)]) == cell.system.flags
                del words[first : first + len(cell.system.flags)]
            seen.add((stage.name, " ".join(words).replace(str(place.cell(cell)), "CELL")))
    assert len(seen) == 3  # train, generate, score


def test_a_start_of_ones_own_takes_the_place_of_the_plans(tiny, tmp_path):
    plan, place = tiny
    assert [stage.name for stage in shared_stages(plan, place)] == [
        "prepare",
        "encode",
        "binarise",
        "mark",
        "initial",
        "start",
    ]
    own = tmp_path / "bart.pt"
    own.write_bytes(b"")
    place = place_of(parser().parse_args([*arguments("raw", tmp_path), "--init", str(own)]))
    assert [stage.name for stage in shared_stages(plan, place)] == ["prepare", "encode", "binarise"]
    assert str(own) in cell_stages(plan, place, plan.cells[1])[0].commands[0].words
    assert [cell.name for cell in cells_of(plan, place)] == ["full.1", "segmented.1", "srformer.1"]


@pytest.mark.parametrize("written", ["--max-target 16", "--max-target=16"])
def test_copying_examples_are_as_long_as_targets_may_be(raw, tmp_path, written):
    plan = tmp_path / "plan.toml"
    plan.write_text(TINY.read_text(encoding="utf-8").replace("--max-target 16", written), encoding="utf-8")
    stages = shared_stages(read_plan(plan), place_of(parser().parse_args(arguments(raw, tmp_path))))
    (words,) = (command.words for stage in stages if stage.name == "mark" for command in stage.commands)
    assert words[words.index("--max-target") + 1] == "16"


def test_a_plan_without_a_start_asks_for_one(raw, tmp_path, capsys):
    plan = tmp_path / "plan.toml"
    text = TINY.read_text(encoding="utf-8")
    plan.write_text(text[: text.index("[start]")] + text[text.index("[adapt]") :], encoding="utf-8")
    assert main(["--raw", str(raw), "--plan", str(plan), "--out", str(tmp_path / "out")]) == 2
    assert "has no [start]: give --init" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "--cross-attention srformer",
            "--cross-attention srformr",
            "'SRformer', train: --cross-attention 'srformr' is",
        ),
        ("--lr 1e-3", "--lr -1", "'start', start: --lr -1.0 must be at least 0"),
        ("--beam 2", "--beam 0", "generate: --beam 0 must be from 1 to 1,000"),
        ("--vocabulary 150", "--vocabulary 0", "'start', encode: argument --vocabulary: 0 is not"),
        ("--vocabulary 150", "--vocabulry 150", "'start', encode: unrecognized arguments: --vocabulry 150"),
        ("short = [24]", "short = [65]", "start.short: 65 tokens are more than the 64 of --max-source"),
    ],
)
def test_a_flag_that_a_later_program_refuses_ends_a_plan_before_it_begins(
    raw, tmp_path, monkeypatch, capsys, old, new, message
):
    monkeypatch.chdir(tmp_path)  # from any folder
    plan = tmp_path / "plan.toml"
    plan.write_text(TINY.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    assert main(["--raw", str(raw), "--plan", str(plan), "--out", str(tmp_path / "out"), "--cpu"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_prints_every_command_and_does_nothing(raw, tmp_path, capsys):
    assert main(arguments(raw, tmp_path / "out", "--dry-run")) == 0
    printed = capsys.readouterr().out
    for name in ("# prepare", "# start: full attention", "# full.1: train", "# srformer.1: score"):
        assert name in printed
    assert "${PYTHONPATH:+:$PYTHONPATH}" in printed.splitlines()[1]
    assert not (tmp_path / "out").exists()


def test_progress_says_how_many_are_done_and_the_time_left(capsys):
    done, now = set(), [0.0]
    show = Runs(["a.1", "b.1", "c.1"], lambda name: name in done, lambda: now[0])
    show("a.1", "12:00:00  train: 10 s")
    done.add("a.1")
    now[0] = 120.0
    show("a.1", "12:02:00  score: 1 s")
    show("", None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0] == "[a.1] 12:00:00  train: 10 s"
    assert lines[2].endswith("1 of 3 runs done, about 4 min left")


def test_no_run_begins_after_its_time(tiny, raw, tmp_path):
    plan, place = tiny
    options = parser().parse_args(arguments(raw, place.out, "--cell", START, "--after", "data", "--until", "1"))
    assert run_cell(options, plan, place) == 0
    assert not place.cell(plan.cells[0]).exists()


@pytest.mark.slow
def test_a_plan_runs_from_raw_text_to_the_report_and_nothing_twice(raw, tmp_path):
    """The tiny plan with one of its systems: every command of a plan runs."""
    head, _, systems = TINY.read_text(encoding="utf-8").partition("[[system]]")
    segmented = next(system for system in systems.split("[[system]]") if '"segmented"' in system)
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    plan.write_text(head.replace('"full", ', "") + "[[system]]" + segmented, encoding="utf-8")
    command = ["bash", str(ROOT / "recipes/compare.sh"), *arguments(raw, out, "--at-once", "2", "--plan", str(plan))]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": pythonpath(), "OMP_NUM_THREADS": "1"}

    def run(python):
        environment["PYTHON"] = str(python)
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    assert "2 of 2 runs done" in run(warm.programs() / "python")
    content = json.loads((out / "report/report.json").read_text(encoding="utf-8"))
    assert content["finished"] == content["wanted"] == 2
    assert [path.name for path in (out / "start").glob("*.pt")] == ["checkpoint_last.pt"]  # no copy as the best one
    for row, name in zip(content["systems"], (START, "segmented.1")):
        (one,) = row["runs"]
        assert 0 < one["loss"] < 10 and one["tokens_per_second"] > 0
        with gzip.open(out / f"report/hypotheses/{name}.txt.gz") as lines:
            assert len(lines.readlines()) == TEXTS["test"]
    assert "0 of 2 runs to do" in run(sys.executable)
