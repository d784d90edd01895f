"""What the demo's report does with the output of fairseq-generate and with training logs."""

import json

import pytest
from rouge_score import rouge_scorer
from sacrebleu.metrics import CHRF

from recipes.report import demo
from srformer_plugin.scoring.files import ScoringError

SOURCES = [
    "function add ( a, b ) in maths | Both numbers are taken. They are added.",
    "function halve ( a ) in maths | The number is divided by two. Odd ones too!",
    "class Reader in files | It reads a file. Then it stops.",
]
REFERENCES = ["Add two numbers.", "Divide a number by two. Slowly.", "A reader of files."]
HYPOTHESES = ["Adds the two numbers.", "Divide by a two. Slowly.", "A file of reading."]


def generated(hypotheses, order):
    """The text of a generate-test.txt with a beam of two, whose sentences come in the given order."""
    blocks = []
    for index in order:
        blocks.append(f"S-{index}\t▁sub ▁words\nT-{index}\tref")
        for rank, text in enumerate((hypotheses[index], "a worse hypothesis")):
            blocks.append(f"H-{index}\t-0.{rank}\t{text}\nD-{index}\t-0.{rank}\t{text}\nP-{index}\t-0.1 -0.2")
    return "\n".join(blocks) + "\nGenerate test with beam=2: BLEU4 = 0.00\n"


def training_log(path):
    """A log of 50 updates, resumed at 25."""
    lines = ["{'_name': None, 'common': {}}", "Start iterating over samples"]
    for update, loss in ((25, 9.0), (50, 8.0), (50, 7.5)):
        stats = {"loss": "10", "nll_loss": str(loss), "num_updates": str(update), "train_wall": "5"}
        lines.append(json.dumps(stats))
        stats = {"valid_nll_loss": str(loss + 1), "valid_num_updates": str(update)}
        lines.append(json.dumps(stats))
    lines.append(json.dumps({"epoch": 1, "train_nll_loss": "8", "train_num_updates": "50"}))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def run(tmp_path):
    """A finished run of two systems; returns the arguments of ``main``."""
    (tmp_path / "source").write_text("\n".join(SOURCES) + "\n")
    (tmp_path / "reference").write_text("\n".join(REFERENCES) + "\n")
    (tmp_path / "one.txt").write_text(generated(HYPOTHESES, [2, 0, 1]))
    (tmp_path / "two.txt").write_text(generated(REFERENCES, [1, 2, 0]))
    training_log(tmp_path / "log")
    arguments = ["--source", "source", "--reference", "reference", "--out", "report"]
    arguments += ["--system", "one", "one.txt", "log", "--system", "two", "two.txt", "log"]
    return [a if a.startswith("--") or a in ("one", "two") else str(tmp_path / a) for a in arguments]


def test_scores_are_those_of_the_libraries():
    scores = demo.score(HYPOTHESES, REFERENCES)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)
    for name in ("rouge1", "rouge2", "rougeLsum"):
        expected = [
            scorer.score(r.replace(". ", ".\n"), h.replace(". ", ".\n"))[name].fmeasure
            for r, h in zip(REFERENCES, HYPOTHESES)
        ]
        assert scores[name] == pytest.approx(100 * sum(expected) / 3)
    assert scores["chrf"] == pytest.approx(CHRF().corpus_score(HYPOTHESES, [REFERENCES]).score)
    assert "nc:6" in scores["chrf_signature"]
    low, high = scores["rouge1_interval"]
    assert low <= scores["rouge1"] <= high


def test_lsum_sees_the_sentences():
    # the longest common subsequence of the whole texts is half of them, that of each sentence all of it
    scores = demo.score(["It is slow. It is safe."], ["It is safe. It is slow."])
    assert scores["rougeLsum"] == pytest.approx(100)


def test_perfect_hypotheses_score_100_and_unrelated_ones_0():
    assert demo.score(REFERENCES, REFERENCES)["rouge2"] == pytest.approx(100)
    assert demo.score(["xyz"] * 3, REFERENCES)["rouge1"] == 0


def test_texts_of_different_number_are_not_scored():
    with pytest.raises(ValueError):
        demo.score(HYPOTHESES[:2], REFERENCES)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (SOURCES[0], "Both numbers are taken."),
        ("function f | Is it so? Yes.", "Is it so?"),
        ("function f | No end", "No end"),
        ("No header here. Second.", "No header here."),
    ],
)
def test_first_sentence_is_that_of_the_description(source, sentence):
    assert demo.first_sentence(source) == sentence


def test_the_report_holds_scores_examples_and_a_picture(run, tmp_path, capsys):
    demo.main(run)
    out = tmp_path / "report"
    results = json.loads((out / "results.json").read_text())
    assert results["texts"] == 3
    assert results["scores"]["two"]["rouge1"] == pytest.approx(100)
    assert results["scores"]["one"] == demo.score(HYPOTHESES, REFERENCES)
    assert results["scores"]["source's first sentence"]["rouge1"] < 100
    assert results["training"]["one"] == {"updates": 50, "seconds": 10.0, "valid_loss": 8.5}
    assert (out / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert printed == (out / "table.md").read_text()
    for system in results["scores"]:
        assert f"{results['scores'][system]['rouge1']:.2f}" in printed
    examples = (out / "examples.md").read_text()
    for text in SOURCES + REFERENCES + HYPOTHESES:
        assert text in examples


def test_a_report_without_a_hypothesis_is_not_written(run, tmp_path):
    (tmp_path / "two.txt").write_text(generated(REFERENCES, [0, 1]))
    with pytest.raises(ScoringError, match="two.txt has no hypothesis for sentence 2 of 3"):
        demo.main(run)
    assert not (tmp_path / "report").exists()


def test_examples_are_spread_over_the_test_split():
    texts = [f"text {i}" for i in range(100)]
    page = demo.page_of_examples(texts, texts, {"system": texts}, count=10)
    assert [line for line in page.splitlines() if line.startswith("## ")] == [f"## {i}" for i in range(0, 100, 10)]
