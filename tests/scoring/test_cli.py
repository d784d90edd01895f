"""What `srformer-score` prints, writes and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rouge_score import rouge_scorer

from data_prep.errors import EXIT_STATUS
from srformer_plugin.scoring import cli
from srformer_plugin.scoring.evaluate import markdown_table
from srformer_plugin.scoring.rouge import ROUGE_TYPES

REFERENCES = ["Add two numbers.", "Divide a number by two. Slowly.", "A reader of files.", "Close the file."]
HYPOTHESES = ["Adds the two numbers.", "Divide by a two. Slowly.", "A file of reading.", "Close it."]
SOURCES = ["Numbers are added two at a time.", "Divide by a two.", "A file.", "Close it and go."]


@pytest.fixture
def files(tmp_path):
    """Paths of line files, by name."""
    paths = {}
    for name, lines in (("hyp", HYPOTHESES), ("ref", REFERENCES), ("src", SOURCES), ("bad", ["xyz"] * 4)):
        paths[name] = str(tmp_path / name)
        Path(paths[name]).write_text("\n".join(lines) + "\n")
    return paths


@pytest.fixture
def score(capsys):
    """Runs the command in this process: (exit status, standard output, standard error)."""

    def score(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return score


def test_json_is_one_object_with_the_scores_in_percent(score, files):
    status, out, _ = score(files["hyp"], files["ref"], "--json")
    result = json.loads(out)
    assert status == 0
    scorer = rouge_scorer.RougeScorer(list(ROUGE_TYPES), use_stemmer=True)
    for name in ROUGE_TYPES:
        pairs = ((r.replace(". ", ".\n"), h.replace(". ", ".\n")) for r, h in zip(REFERENCES, HYPOTHESES))
        each = [scorer.score(*pair)[name] for pair in pairs]
        assert result[name] == pytest.approx(25 * sum(one.fmeasure for one in each))
        assert result["recall"][name] == pytest.approx(25 * sum(one.recall for one in each))
        low, high = result["interval"][name]
        assert low <= result[name] <= high
    assert result["texts"] == 4
    assert "stemmer:porter" in result["signature"]
    assert result["statistics"]["words"] == pytest.approx(15 / 4)
    assert "novel_1" not in result["statistics"]


def test_perfect_hypotheses_score_100_and_unrelated_ones_0(score, files):
    assert json.loads(score(files["ref"], files["ref"], "--json")[1])["rouge2"] == pytest.approx(100)
    assert json.loads(score(files["bad"], files["ref"], "--json")[1])["rouge1"] == 0


def test_several_systems_are_compared_with_the_first(score, files):
    more = ["--system", "same", files["hyp"], "--system", "bad", files["bad"]]
    result = json.loads(score(files["hyp"], files["ref"], *more, "--json", "--bootstrap-samples", 500)[1])
    assert [row["system"] for row in result["systems"]] == ["hyp", "same", "bad"]
    assert all(result[name] == result["systems"][0][name] for name in ROUGE_TYPES)
    assert result["signature"] == result["systems"][0]["signature"]
    same, bad = result["comparison"]
    assert (same["system"], same["baseline"]) == ("same", "hyp")
    assert same["p_value"]["rouge1"] == 1
    assert same["difference"]["rouge1"] == 0
    assert bad["p_value"]["rouge1"] < 0.01
    assert bad["difference"]["rouge1"] == pytest.approx(-result["rouge1"])
    alone = json.loads(score(files["bad"], files["ref"], "--json", "--bootstrap-samples", 500)[1])
    assert alone == result["systems"][2]  # whatever it is scored beside


def test_a_source_adds_novelty_and_also_adds_scores_of_sacrebleu(score, files):
    result = json.loads(score(files["hyp"], files["ref"], "--source", files["src"], "--also", "chrf,bleu", "--json")[1])
    # "adds the", nothing, "of reading", nothing
    assert result["statistics"]["novel_1"] == pytest.approx((2 / 4 + 1 / 5 + 2 / 4 + 0) / 4)
    assert result["reference_statistics"]["novel_1"] > 0
    assert "nc:6" in result["also"]["chrf"]["signature"]
    assert 0 < result["also"]["bleu"]["score"] < 100


def test_the_table_shows_every_number_with_the_signatures(score, files):
    arguments = [files["hyp"], files["ref"], "--system", "bad", files["bad"], "--also", "chrf"]
    result = json.loads(score(*arguments, "--json")[1])
    _, out, _ = score(*arguments)
    for row in result["systems"]:
        assert all(f"{row[name]:.2f} ({row['interval'][name][0]:.2f} to" in out for name in ROUGE_TYPES)
    assert f"{result['comparison'][0]['p_value']['rouge1']:.4f}" in out
    assert result["signature"] in out
    assert result["systems"][0]["also"]["chrf"]["signature"] in out


def test_examples_are_written_a_line_for_each_text_and_system(score, files, tmp_path):
    out = tmp_path / "examples.jsonl"
    result = json.loads(
        score(files["hyp"], files["ref"], "--system", "bad", files["bad"], "--json", "--per-example", out)[1]
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["system"], row["index"]) for row in rows] == [(s, i) for s in ("hyp", "bad") for i in range(4)]
    assert sum(row["rouge1"] for row in rows[:4]) / 4 == pytest.approx(result["rouge1"])
    assert rows[4]["repeated_2"] is None  # one word has no pairs
    assert [path.name for path in tmp_path.glob("examples*")] == ["examples.jsonl"]


def test_what_is_printed_can_be_saved(score, files, tmp_path):
    status, table, _ = score(files["hyp"], files["ref"], "--save", tmp_path / "new" / "score")
    assert status == 0
    assert (tmp_path / "new/score/score.txt").read_text() == table
    assert (tmp_path / "new/score/score.json").read_text() == score(files["hyp"], files["ref"], "--json")[1]


def test_generated_output_scores_as_the_line_file(score, files, tmp_path):
    lines = [f"D-{index}\t-0.5\t{text}" for index, text in enumerate(HYPOTHESES)]
    (tmp_path / "generate-test.txt").write_text("\n".join(reversed(lines)) + "\n")
    results = [json.loads(score(p, files["ref"], "--json")[1]) for p in (tmp_path / "generate-test.txt", files["hyp"])]
    assert {**results[0], "system": ""} == {**results[1], "system": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [("D-0\t-1\ta\nD-3\t-1\tb\n", "no hypothesis for sentence 1"), ("a\n", "1 lines"), ("", "is empty")],
)
def test_unfit_hypotheses_are_one_clear_error(score, files, tmp_path, text, message):
    (tmp_path / "text").write_text(text)
    status, out, err = score(tmp_path / "text", files["ref"], "--json")
    assert (status, out) == (EXIT_STATUS, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_other_misuse_is_one_clear_error(score, files, tmp_path):
    (tmp_path / "score.txt").write_text("\n".join(REFERENCES) + "\n")
    for arguments, message in (
        ([files["hyp"], tmp_path / "nowhere"], "cannot read"),
        ([files["hyp"], files["ref"], "--system", "hyp", files["bad"]], "two systems"),
        ([files["hyp"], files["ref"], "--per-example", tmp_path / "no" / "folder"], "cannot write"),
        ([files["hyp"], files["ref"], "--save", files["src"]], "cannot make the folder"),
        ([files["hyp"], files["ref"], "--save", tmp_path, "--per-example", tmp_path / "score.json"], "is a file of"),
        ([files["hyp"], tmp_path / "score.txt", "--save", tmp_path], "is read as well"),
    ):
        status, out, err = score(*arguments)
        assert (status, out, err.count("\n")) == (EXIT_STATUS, "", 1)
        assert message in err
    (tmp_path / "src").write_text("one\n")
    assert "src has 1 lines" in score(files["hyp"], files["ref"], "--source", tmp_path / "src")[2]
    with pytest.raises(SystemExit):
        score(files["hyp"], files["ref"], "--seed", -1)


@pytest.mark.slow  # three processes import the package
def test_the_module_runs_alone_in_two_processes_and_prints_nothing_but_json(score, files):
    arguments = [files["hyp"], files["ref"], "--json"]
    command = [sys.executable, "-m", "srformer_plugin.scoring", *arguments, "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(cli.__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(score(*arguments)[1])


def test_one_long_cell_does_not_fill_up_every_line():
    lines = markdown_table(["setting", "value"], [["a", "x" * 300], ["b", "y"]])
    assert lines[2] == "| a       | " + "x" * 300 + " |"
    assert lines[3] == "| b       | " + "y".ljust(40) + " |"
