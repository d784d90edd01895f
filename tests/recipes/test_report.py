"""What the report says of made experiment folders, whole and half-done ones."""

import json
import shutil

import pytest

from data_prep.errors import EXIT_STATUS
from recipes.report import command as report_module
from recipes.report.command import lead, main
from srformer_plugin.scoring.cli import main as score_main
from srformer_plugin.scoring.rouge import score_texts

SOURCES = [
    "The council met on Monday. It chose a new bridge. Nobody was against it. Work begins soon.",
    "A museum found a painting. It is old. It was in the cellar. People want to see it.",
    "Rain fell for a week. The river rose. The ferry stopped. A bus goes instead.",
]
REFERENCES = ["The council chose a bridge. <q> Work begins soon.", "An old painting was found.", "The ferry stopped."]
HYPOTHESES = ["The council met. <q> It chose a bridge.", "A painting was found.", "The river rose for a week."]
OTHERS = ["A council.", "The cellar of a museum.", "The ferry stopped and a bus goes."]
SETTINGS = {"--arch": "srformer_bart_tiny", "--lr": "1e-3"}
FILES = {"report.md", "results.json", "learning_curves.png"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_score(folder):
    """The score stage of a recipe."""
    (folder / "score").mkdir(exist_ok=True)
    arguments = [folder / "generate/generate-test.txt", folder / "corpus/test.target"]
    arguments += ["--source", folder / "corpus/test.source", "--json"]
    return score_main([str(argument) for argument in arguments])


@pytest.fixture
def experiment(tmp_path, capsys):
    """A function that makes the folder of a finished experiment."""

    def make(name, hypotheses=HYPOTHESES, seed=1, references=REFERENCES, **settings):
        folder = tmp_path / name
        for stage in ("corpus", "encoded", "train", "generate", "score"):
            (folder / stage).mkdir(parents=True)
        flags = {**SETTINGS, "--seed": seed, "--save-dir": f"{folder}/train", **settings}
        found = {"recipe": "cnn_dailymail", "command": ["bash", "recipes/it.sh", "a b"], "commit": COMMIT}
        found |= {"dirty": False, "seed": seed, "settings": flags, "versions": {"torch": "2.13.0"}}
        write_json(folder / "settings.json", found)
        for side, texts in (("source", SOURCES), ("target", references)):
            (folder / "corpus" / f"test.{side}").write_text("".join(text + "\n" for text in texts[: len(references)]))
        length = {"mean": 5, "median": 5, "p95": 1234, "max": 2000}
        lengths = {side: {"test": length} for side in ("source", "target")}
        write_json(folder / "corpus/manifest.json", {"counts": {"test": {"written": 33333}}, "words": lengths})
        encoded = {"counts": {"test": {"lines": 33333, "truncated source": 77}}, "tokens": lengths}
        write_json(folder / "encoded/manifest.json", encoded)
        (folder / "train/train.log").write_text(training_log())
        generated = [f"S-{i}\tx\nH-{i}\t-0.5\t{text}\nD-{i}\t-0.5\t{text}\n" for i, text in enumerate(hypotheses)]
        (folder / "generate/generate-test.txt").write_text("".join(reversed(generated)))
        capsys.readouterr()
        assert write_score(folder) == 0
        (folder / "score/score.json").write_text(capsys.readouterr().out)
        return folder

    return make


def write_json(path, value):
    path.write_text(json.dumps(value))


def change_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)


def training_log():
    lines = ["{'_name': None}"]
    for update in (25, 50):
        stats = {"nll_loss": f"{200 / update}", "num_updates": str(update), "ups": "4", "wall": f"{100 * update}"}
        lines.append(json.dumps(stats))
        stats = {"valid_nll_loss": f"{100 / update}", "valid_rouge1": "7", "valid_num_updates": str(update)}
        lines.append(json.dumps(stats))
    return "\n".join([*lines, "done training in 5000.0 seconds"]) + "\n"


@pytest.fixture
def made(tmp_path):
    """A function that makes a report of folders; returns (page, results)."""

    def make(*folders, more=()):
        out = tmp_path / "report"
        assert main([*map(str, folders), "--out", str(out), *more]) == 0
        return (out / "report.md").read_text(), json.loads((out / "results.json").read_text())

    return make


def line_of(page, start):
    """The cells of the first table line that begins with `start`."""
    line = next(line for line in page.splitlines() if line.startswith(f"| {start} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_scores_are_those_of_score_json_with_intervals(experiment, made):
    one, two = experiment("one"), experiment("two", OTHERS)
    page, results = made(one, two)
    table = page[page.index("## ROUGE") : page.index("Mean F1")]
    for folder in (one, two):
        score = json.loads((folder / "score/score.json").read_text())
        cells = line_of(table, folder.name)
        for cell, kind in zip(cells[1:], ("rouge1", "rouge2", "rougeL", "rougeLsum"), strict=True):
            low, high = score["interval"][kind]
            assert cell == f"{score[kind]:.2f} ({low:.2f} to {high:.2f})"
    assert page.count(score["signature"]) == 1
    assert "Warning" not in page
    assert [one["score"]["rouge1"] for one in results["experiments"]][1] == score["rouge1"]


def test_lengths_novelty_and_repetition_are_shown_with_the_references(experiment, made):
    page, _ = made(experiment("one"))
    head = line_of(page, "texts ")
    assert {"words", "novel 2-grams", "repeated 3-grams"} <= set(head)
    assert len(line_of(page, "(reference)")) == len(head)


def test_a_score_without_sources_stands_beside_one_with(experiment, made):
    one, two = experiment("one"), experiment("two", OTHERS)
    change_json(two / "score/score.json", lambda score: score["statistics"].pop("novel_2"))
    page, _ = made(one, two)
    statistics = page[page.index("| texts ") :]
    column = line_of(statistics, "texts").index("novel 2-grams")
    assert line_of(statistics, "two")[column] == "-" != line_of(statistics, "one")[column]


def test_baselines_are_scored_on_the_same_test_set(experiment, made):
    page, results = made(experiment("one", [lead(source, 3) for source in SOURCES]))
    first, three = results["baselines"]
    assert (first["system"], three["system"]) == ("(first sentence)", "(first 3 sentences)")
    # the experiment repeats the three sentences, marks included
    assert three["rougeLsum"] == results["experiments"][0]["score"]["rougeLsum"] != first["rougeLsum"]
    assert f"{first['rouge2']:.2f}" in line_of(page, "(first sentence)")[2]


@pytest.mark.parametrize("end", ["<q>", "</q>"])
def test_the_first_sentences_are_those_of_the_document_and_not_the_question_before_it(end, experiment, made):
    documents = [lead(source, 3) for source in SOURCES]
    folder = experiment("one", documents)
    expected = made(folder)[1]["baselines"]
    asked = "".join(f"What was said of the bridge? And why? {end} {source}\n" for source in SOURCES)
    (folder / "corpus/test.source").write_text(asked)
    if end != "<q>":  # a mark of which the lines do not tell
        change_json(folder / "corpus/manifest.json", lambda m: m.update(format="qmsum", options={"separator": end}))
    found = made(folder)[1]["baselines"]
    for before, after in zip(expected, found, strict=True):
        assert [after[kind] for kind in ("rouge1", "rougeLsum")] == [before[kind] for kind in ("rouge1", "rougeLsum")]


def test_marks_between_the_sentences_of_sources_end_no_question(experiment, made):
    folder = experiment("one")
    marked = [lead(source, 9) for source in SOURCES]
    (folder / "corpus/test.source").write_text("".join(source + "\n" for source in marked))
    first = made(folder)[1]["baselines"][0]
    references = (folder / "corpus/test.target").read_text().splitlines()
    expected = score_texts([source.split(" <q> ")[0] for source in marked], references)[:, 0, 2].mean()
    assert first["rouge1"] == pytest.approx(100 * expected)


def test_lead_marks_its_sentences():
    assert lead(SOURCES[0], 3) == "The council met on Monday. <q> It chose a new bridge. <q> Nobody was against it."
    assert lead("One only", 3) == "One only"


def test_experiments_with_the_same_references_are_compared_with_the_first(experiment, made):
    one, two = experiment("one"), experiment("two", OTHERS)
    page, results = made(one, two)
    compared = {row["system"]: row for row in results["comparison"]}
    scores = [row["score"]["rouge1"] for row in results["experiments"]]
    assert compared["two"]["baseline"] == "one"
    assert compared["two"]["difference"]["rouge1"] == pytest.approx(scores[1] - scores[0])
    assert "two - one" in page and f"{compared['two']['p_value']['rouge1']:.4f}" in page


def test_other_references_are_a_warning_and_no_comparison(experiment, made):
    page, results = made(experiment("one"), experiment("two", OTHERS, references=["The council.", *REFERENCES[1:]]))
    assert "**Warning:** the references differ" in page
    assert "two" not in {row["system"] for row in results["comparison"]}
    assert "(first sentence) (two)" in page


def test_another_number_of_references_is_a_warning(experiment, made):
    page, _ = made(experiment("one"), experiment("two", OTHERS[:2], references=REFERENCES[:2]))
    assert "**Warning:** the numbers of references differ, so the scores cannot be compared: one: 3, two: 2" in page


def test_another_signature_is_a_warning_but_not_another_bootstrap(experiment, made, capsys):
    one, two = experiment("one"), experiment("two", OTHERS)
    score = two / "score/score.json"
    change_json(score, lambda value: value.update(signature=value["signature"].replace("bs:1000", "bs:500")))
    assert "Warning" not in made(one, two)[0]
    change_json(score, lambda value: value.update(signature=value["signature"].replace("nltk:", "nltk:0.")))
    assert "**Warning:** the signatures differ" in made(one, two)[0]
    assert "warning: the signatures differ" in capsys.readouterr().err


def test_scores_of_other_hypotheses_are_a_warning(experiment, made):
    one = experiment("one")
    generated = one / "generate/generate-test.txt"
    generated.write_text(generated.read_text().replace("painting", "spoon"))
    assert "score.json holds other scores than its hypotheses have now" in made(one)[0]


def test_mean_and_spread_over_seeds(experiment, made):
    folders = [experiment("one"), experiment("two", OTHERS, seed=2), experiment("three", OTHERS, **{"--lr": "1"})]
    page, results = made(*folders)
    assert results["same_but_for_seed"] == [["one", "two"]]
    low, high = sorted(row["score"]["rouge1"] for row in results["experiments"][:2])
    cells = line_of(page[page.index("## Over seeds") : page.index("## Training")], "ROUGE-1")
    deviation = (high - low) / 2**0.5
    assert cells[1:] == [f"{(low + high) / 2:.2f}", f"{deviation:.2f}", f"{low:.2f} to {high:.2f}"]


def test_seeds_at_different_commits_are_not_averaged(experiment, made):
    one, two = experiment("one"), experiment("two", OTHERS, seed=2)
    change_json(two / "settings.json", lambda value: value.update(commit="f" * 40))
    assert "Over seeds" not in made(one, two)[0]


def test_settings_that_differ_come_before_the_common_ones(experiment, made):
    page, _ = made(experiment("one"), experiment("two", **{"--lr": "2|3"}))
    differing, common = page[page.index("What differs") :].split("What is common")
    assert "| `--lr` | 1e-3 | 2\\|3 |" in " ".join(differing.split())
    assert "--arch" not in differing and "--save-dir" not in differing
    assert line_of(common, "`--arch`")[1] == "srformer_bart_tiny"
    assert line_of(common, "seed")[1] == "1"
    assert line_of(common, "version of torch")[1] == "2.13.0"


def test_data_counts_come_from_the_manifests(experiment, made):
    cells = line_of(made(experiment("one"))[0], "test")
    assert cells == ["test", "33,333", "5, 1,234", "5, 1,234", "5, 1,234", "5, 1,234", "77", "0"]


def test_training_is_shown_with_its_time_and_losses(experiment, made):
    page, results = made(experiment("one"))
    cells = line_of(page[page.index("## Training") :], "one")
    assert cells == ["one", "50", "1:23:20", "4.00", "2.000", "2.000 (50)"]
    assert results["experiments"][0]["training"]["valid_rouge"] == {"rouge1": 7}


def test_samples_stand_beside_their_reference(experiment, made):
    page, _ = made(experiment("one"), experiment("two", OTHERS), more=["--samples", "2"])
    samples = page[page.index("## Samples") : page.index("## To repeat it")]
    assert [line for line in samples.splitlines() if line.startswith("###")] == ["### 0", "### 1"]
    assert "**reference**: `The council chose a bridge. Work begins soon.`" in samples
    assert "**one**: `A painting was found.`" in samples
    assert "**two**: `The cellar of a museum.`" in samples


def test_long_samples_are_cut(experiment, made):
    page, _ = made(experiment("one", ["word " * 1000, *HYPOTHESES[1:]]))
    (line,) = [line for line in page.splitlines() if line.startswith("**one**: `word")]
    assert len(line) < 700 and line.endswith("word ...`")


def test_without_samples_no_text_of_the_corpus_is_written(experiment, made, tmp_path):
    made(experiment("one"), more=["--samples", "0"])
    for path in (tmp_path / "report").glob("*.[mj]*"):
        text = path.read_text()
        assert not any(word in text for word in ("council", "painting", "ferry", "river"))


def test_the_commands_to_repeat_it(experiment, made):
    one = experiment("one")
    page, _ = made(one)
    assert f"git checkout {COMMIT}\nbash recipes/it.sh 'a b'\n" in page
    assert f"python -m recipes.report {one} --out" in page
    change_json(one / "settings.json", lambda value: value.update(dirty=True))
    assert "# one, with changes that are in no commit" in made(one)[0]


def test_the_same_experiments_give_the_same_bytes(experiment, made, tmp_path):
    folders = [experiment("one"), experiment("two", OTHERS)]
    made(*folders)
    first = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    assert set(first) == FILES
    made(*folders)
    assert {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()} == first


def test_an_interrupted_report_leaves_the_earlier_one(experiment, made, tmp_path, monkeypatch):
    one = experiment("one")
    page, _ = made(one)

    def killed(logs, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(report_module.learning_curves, "draw", killed)
    assert main([str(one), "--out", str(tmp_path / "report"), "--samples", "0"]) == 130
    assert (tmp_path / "report/report.md").read_text() == page
    assert {path.name for path in (tmp_path / "report").iterdir()} == FILES


@pytest.mark.parametrize(
    ("absent", "shown"),
    [("score/score.json", "score"), ("generate/generate-test.txt", "generate"), ("encoded/manifest.json", "encode")],
)
def test_what_is_missing_is_named_with_its_stage_and_the_rest_is_shown(experiment, made, capsys, absent, shown):
    one = experiment("one")
    (one / absent).unlink()
    page, _ = made(one)
    sentence = f"{one / absent} is missing: run the stage `{shown}` of cnn_dailymail"
    assert sentence in page and sentence in capsys.readouterr().err
    assert line_of(page[page.index("## Training") :], "one")[1] == "50"


def test_an_unfinished_training_is_shown_as_such(experiment, made):
    one = experiment("one")
    for stage in ("generate", "score"):
        shutil.rmtree(one / stage)
    log = one / "train/train.log"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    page, _ = made(one)
    assert "train.log ends after 50 updates without the end of training: run the stage `train`" in page
    assert line_of(page[page.index("## Training") :], "one")[1] == "50 (not finished)"
    assert line_of(page, "(first sentence)")  # the baselines need no training


def test_half_of_the_hypotheses_are_not_scored(experiment, made):
    one = experiment("one")
    (one / "score/score.json").unlink()
    (one / "generate/generate-test.txt").write_text("D-1\t-0.5\ttext\n")
    page, results = made(one)
    assert "no hypothesis for sentence 0 (and 1 more) of 3: run the stage `generate`" in page
    assert results["experiments"][0]["score"] is None


def test_a_report_without_logs_has_no_old_picture(experiment, made, tmp_path):
    one = experiment("one")
    made(one)
    (one / "train/train.log").unlink()
    page, _ = made(one)
    assert "learning_curves" not in page
    assert not (tmp_path / "report/learning_curves.png").exists()


def test_an_experiment_without_corpus_is_shown_by_its_scores(experiment, made):
    one = experiment("one")
    shutil.rmtree(one / "corpus")
    page, results = made(one)
    score = results["experiments"][0]["score"]
    assert line_of(page[page.index("## ROUGE") :], "one")[1].startswith(f"{score['rouge1']:.2f} (")
    assert results["baselines"] == results["comparison"] == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "one is no folder"),
        (lambda folder: [shutil.rmtree(folder), folder.mkdir()], "one is not the folder of an experiment"),
        (lambda folder: (folder / "settings.json").write_text("{"), "settings.json is not JSON"),
        (lambda folder: (folder / "score/score.json").write_text("{}"), "score.json has no"),
        (lambda folder: (folder / "corpus/test.source").write_text("x\n"), "corpus/test.target differ in length"),
    ],
)
def test_a_damaged_folder_is_one_clear_error(experiment, tmp_path, capsys, damage, message):
    one = experiment("one")
    damage(one)
    assert main([str(one), "--out", str(tmp_path / "report")]) == EXIT_STATUS
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "report").exists()


def test_a_folder_is_not_reported_twice(experiment, tmp_path, capsys):
    one = experiment("one")
    assert main([str(one), f"{one}/../one", "--out", str(tmp_path / "report")]) == EXIT_STATUS
    assert "is given twice" in capsys.readouterr().err


def test_data_of_another_experiment_are_read_there(experiment, made):
    one, two = experiment("one"), experiment("two", OTHERS, seed=2, **{"data-from": "TO BE SET"})
    for stage in ("corpus", "encoded"):
        shutil.rmtree(two / stage)
    change_json(two / "settings.json", lambda value: value["settings"].update({"data-from": str(one)}))
    page, results = made(one, two)
    assert "Not finished" not in page
    assert [row["system"] for row in results["comparison"]][0] == "two"
    assert results["same_but_for_seed"] == [["one", "two"]]


def test_without_test_split_that_of_validation_is_read(experiment, made):
    one = experiment("one")
    for path in (*one.glob("corpus/test.*"), one / "generate/generate-test.txt"):
        path.rename(path.with_name(path.name.replace("test", "valid")))
    page, results = made(one)
    assert "## ROUGE of the valid set" in page
    assert "Not finished" not in page and len(results["baselines"]) == 2


def test_what_is_missing_comes_in_the_order_of_the_stages(experiment, made):
    one = experiment("one")
    for stage in ("encoded", "generate"):
        shutil.rmtree(one / stage)
    (one / "train/train.log").write_text("no losses\n")
    _, results = made(one)
    (missing,) = [row["missing"] for row in results["experiments"]]
    assert [sentence.split("`")[1] for sentence in missing] == ["encode", "train", "generate"]


def test_folders_of_the_same_name_are_told_apart_by_their_paths(experiment, made):
    folders = [experiment("a/run"), experiment("b/run", OTHERS)]
    _, results = made(*folders)
    assert [row["name"] for row in results["experiments"]] == [str(folder) for folder in folders]
