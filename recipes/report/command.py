"""From the folders of one or more experiments: a report with scores, learning curves, settings and commands.

    python -m recipes.report EXPERIMENT... --out FOLDER

writes to FOLDER: report.md, learning_curves.png and results.json. EXPERIMENT is the output folder of a recipe
(recipes/report/experiment.py says what is read there). The first one is what the others are compared with. What an
experiment does not have yet is named, with the stage that makes it. The same experiments give the same report.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from data_prep.arguments import non_negative
from data_prep.errors import command
from data_prep.text import join_sentences, split_sentences
from data_prep.whole import whole_file, write_text
from recipes.report import learning_curves
from recipes.report.experiment import ReportError, read_experiment
from recipes.report.page import page
from srformer_plugin.scoring.evaluate import ALSO, PAIRS_PER_WORKER, evaluate, to_json
from srformer_plugin.scoring.rouge import ROUGE_TYPES
from srformer_plugin.scoring.statistics import SAMPLES, SEED

BASELINES = {"(first sentence)": 1, "(first 3 sentences)": 3}  # named as "(reference)" is


def read_experiments(folders):
    """The `Experiment` of each folder, called as the folder, or as its path where two folders are called alike."""
    resolved = [folder.resolve() for folder in folders]
    for number, folder in enumerate(resolved):
        if folder in resolved[:number]:
            raise ReportError(f"{folders[number]} is given twice")
    names = [folder.name for folder in resolved]
    named = [str(folder) if names.count(name) > 1 else name for folder, name in zip(folders, names)]
    return [read_experiment(folder, name) for folder, name in zip(folders, named)]


def lead(document, sentences):
    """The first sentences of a document, with the marks that ROUGE-Lsum wants between them."""
    return join_sentences(split_sentences(document)[:sentences])


def comparable(signature):
    """A signature without what concerns the interval only."""
    return "|".join(field for field in signature.split("|") if field.partition(":")[0] not in ("bs", "seed"))


def bootstrap(signature):
    """`(samples, seed)` of the interval that a signature tells of."""
    fields = dict(field.partition(":")[::2] for field in signature.split("|"))
    return int(fields.get("bs", SAMPLES)), int(fields.get("seed", SEED))


def by_references(experiments):
    """Lists of the experiments that have equal references; those without a test set are left out."""
    groups = {}
    for experiment in experiments:
        if experiment.references is not None:
            groups.setdefault(experiment.references_sha256, []).append(experiment)
    return list(groups.values())


def score_group(group, label, say):
    """Score experiments with equal references, and the baselines, on the texts themselves.

    Returns `(baselines, comparison, warnings)`: rows as of `evaluate`, the paired bootstrap comparison with the group's
    first experiment, and sentences. `label` tells the baselines of several groups apart.
    """
    first = group[0]
    systems = {one.name: one.hypotheses for one in group if one.hypotheses is not None and one.score is not None}
    with_sources = next((one for one in group if one.sources is not None), None)
    sources, baselines = None, {}
    if with_sources is not None:
        sources, documents = with_sources.sources, with_sources.documents
        for name, sentences in BASELINES.items():
            baselines[name + label] = [lead(document, sentences) for document in documents]
    texts = {**systems, **baselines}
    if not texts:
        return [], [], []
    say(f"scoring {', '.join(texts)} on {len(first.references):,} references")
    scored = [one.score for one in group if one.score is not None]
    samples, seed = bootstrap(scored[0]["signature"]) if scored else (SAMPLES, SEED)
    also = [metric for metric in ALSO if scored and all(metric in score["also"] for score in scored)]
    workers = min(os.cpu_count() or 1, 1 + len(first.references) // PAIRS_PER_WORKER)
    result, _ = evaluate(texts, first.references, sources, also, samples, seed, workers)
    rows = {row["system"]: row for row in result.get("systems", [result])}
    warnings = [
        f"{one.folder}/score/score.json holds other scores than its hypotheses have now: run the stage `score` again"
        for one in group
        if one.name in systems and any(abs(rows[one.name][kind] - one.score[kind]) > 1e-6 for kind in ROUGE_TYPES)
    ]
    return [rows[name] for name in baselines], result.get("comparison", []) if systems else [], warnings


def disagreements(experiments):
    """Sentences that say why scores of the experiments cannot be compared; none if they can."""
    scored = [one for one in experiments if one.score is not None]
    found = []
    if len({comparable(one.score["signature"]) for one in scored}) > 1:
        listed = "; ".join(f"{one.name}: `{one.score['signature']}`" for one in scored)
        found.append(f"the signatures differ, so the scores cannot be compared: {listed}")
    if len({one.score["texts"] for one in scored}) > 1:
        listed = ", ".join(f"{one.name}: {one.score['texts']:,}" for one in scored)
        found.append(f"the numbers of references differ, so the scores cannot be compared: {listed}")
    elif len({one.references_sha256 for one in scored if one.references is not None}) > 1:
        found.append("the references differ, so the scores cannot be compared")
    return found


def seed_groups(experiments):
    """Lists of scored experiments that differ in nothing but their seed."""
    groups = {}
    for one in experiments:
        if one.score is None or not one.settings:
            continue
        rest = [one.settings.get(key) for key in ("recipe", "commit", "dirty", "versions")]
        rest += [one.plain_settings(), one.corpus, one.encoded, one.references_sha256]
        rest.append(comparable(one.score["signature"]))
        groups.setdefault(to_json(rest, sort_keys=True), []).append(one)
    groups = [sorted(group, key=lambda one: str(one.settings.get("seed"))) for group in groups.values()]
    return [group for group in groups if len({one.settings.get("seed") for one in group}) == len(group) > 1]


def results(experiments, baselines, comparison, warnings):
    """What results.json holds: numbers and settings, no text of a corpus."""
    return {
        "experiments": [
            {
                "name": one.name,
                **one.settings,
                "score": one.score,
                "training": one.log and one.log.summary(),
                "corpus": one.corpus and {key: one.corpus.get(key) for key in ("counts", "words")},
                "encoded": one.encoded and {key: one.encoded.get(key) for key in ("counts", "tokens")},
                "missing": one.missing,
            }
            for one in experiments
        ],
        "baselines": baselines,
        "comparison": comparison,
        "same_but_for_seed": [[one.name for one in group] for group in seed_groups(experiments)],
        "warnings": warnings,
    }


def report(folders, out, samples=5, say=lambda text: None):
    """Write the report of the experiments in `folders` to `out`; `say` gets a line of progress. Returns the warnings.

    Raises:
        ReportError: a folder holds no experiment, or a damaged file.
    """
    say(f"reading {', '.join(map(str, folders))}")
    experiments = read_experiments(folders)
    warnings = disagreements(experiments)
    groups = by_references(experiments)
    baselines, comparison = [], []
    for group in groups:
        label = "" if len(groups) == 1 else f" ({group[0].name})"
        rows, compared, stale = score_group(group, label, say)
        baselines, comparison, warnings = baselines + rows, comparison + compared, warnings + stale
    logs = {one.name: one.log for one in experiments if one.log is not None}
    repeat = ["python", "-m", "recipes.report", *map(str, folders), "--out", str(out), "--samples", str(samples)]
    same_but_for_seed = seed_groups(experiments)
    text = page(experiments, groups, same_but_for_seed, baselines, comparison, warnings, samples, shlex.join(repeat))
    found = to_json(results(experiments, baselines, comparison, warnings), indent=1) + "\n"
    say(f"writing {out}/report.md, {out}/results.json" + (f", {out}/learning_curves.png" if logs else ""))
    out.mkdir(parents=True, exist_ok=True)
    if logs:
        with whole_file(out / "learning_curves.png", "wb") as file:
            learning_curves.draw(logs, file)
    write_text(out / "results.json", found)
    write_text(out / "report.md", text)
    if not logs:
        (out / "learning_curves.png").unlink(missing_ok=True)  # of an earlier report
    return warnings + [sentence for one in experiments for sentence in one.missing]


@command
def main(argv=None):
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="+", type=Path, metavar="EXPERIMENT", help="output folder of a recipe")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the report goes")
    parser.add_argument(
        "--samples",
        type=non_negative,
        default=5,
        metavar="N",
        help="texts to show; 0: no text of the corpus (default: 5)",
    )
    options = parser.parse_args(argv)

    def say(text):
        print(f"report: {text}", file=sys.stderr)

    for warning in report(options.experiments, options.out, options.samples, say):
        say(f"warning: {warning}")
