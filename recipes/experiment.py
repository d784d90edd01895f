"""What a recipe left in its folder, as far as it got.

    settings.json                 recipe, command, commit, dirty, seed, settings, versions
    corpus/, encoded/             manifest.json of data_prep.prepare and data_prep.encode; test.source, test.target
    train/train.log               fairseq's log as JSON lines
    generate/generate-test.txt    what fairseq-generate wrote
    score/score.json              what `srformer-score --json` printed
"""

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from recipes.training_log import TrainingLog, read_training_log
from srformer_plugin.scoring.files import ScoringError, read_hypotheses, read_lines

# File of each stage, in the order in which the stages run.
FILES = {
    "corpus": "corpus/manifest.json",
    "encoded": "encoded/manifest.json",
    "train": "train/train.log",
    "generate": "generate/generate-test.txt",
    "score": "score/score.json",
}
SETTINGS = "settings.json"


class ReportError(ValueError):
    """Folders of which no report can be made. The message is one sentence that names the folder or file."""


@dataclass
class Experiment:
    """A folder of results; what is not there is None, and `missing` says so."""

    name: str
    folder: Path
    settings: dict = field(default_factory=dict)
    corpus: dict | None = None  # manifests
    encoded: dict | None = None
    log: TrainingLog | None = None
    hypotheses: list[str] | None = None  # of the test set, in its order
    references: list[str] | None = None
    sources: list[str] | None = None
    score: dict | None = None
    missing: list[str] = field(default_factory=list)  # sentences

    @property
    def references_sha256(self):
        """Equal for equal references; None without them."""
        return None if self.references is None else hashlib.sha256("\n".join(self.references).encode()).hexdigest()

    def plain_settings(self):
        """The settings without the seed, and without the experiment's own folder in their values."""
        own = sorted({str(self.folder), str(self.folder.resolve())}, key=len, reverse=True)

        def plain(value):
            for path in own:
                value = value.replace(path, "EXPERIMENT") if isinstance(value, str) and len(path) > 1 else value
            return value

        named = {name.lstrip("-"): plain(value) for name, value in self.settings.get("settings", {}).items()}
        return {name: value for name, value in named.items() if name.lower() != "seed"}


def read_experiment(folder, name):
    """The `Experiment` in a folder.

    Raises:
        ReportError: there is no such folder, none of a recipe's files is in it, or one of them is damaged.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder} is no folder")
    found = [file for file in (SETTINGS, *FILES.values()) if (folder / file).exists()]
    if not found:
        raise ReportError(f"{folder} is not the folder of an experiment, which has a {SETTINGS}: run a recipe")
    experiment = Experiment(name, folder)
    experiment.settings = _json(folder / SETTINGS) if SETTINGS in found else {}
    for stage, file in FILES.items():
        if file not in found:
            experiment.missing.append(_missing(experiment, stage, f"{folder / file} is missing"))
    for stage in ("corpus", "encoded"):
        if FILES[stage] in found:
            setattr(experiment, stage, _json(folder / FILES[stage]))
    if FILES["score"] in found:
        experiment.score = _score(folder / FILES["score"])
    if FILES["train"] in found:
        _read_log(experiment)
    _read_texts(experiment)
    return experiment


def _missing(experiment, stage, what):
    return f"{what}: run the stage `{stage}` of {experiment.settings.get('recipe', 'its recipe')}"


def _read_log(experiment):
    path = experiment.folder / FILES["train"]
    try:
        experiment.log = read_training_log(path)
    except ValueError as error:
        experiment.missing.append(_missing(experiment, "train", str(error)))
    else:
        if not experiment.log.finished:
            what = f"{path} ends after {experiment.log.updates:,} updates without the end of training"
            experiment.missing.append(_missing(experiment, "train", what))


def _read_texts(experiment):
    corpus = experiment.folder / "corpus"
    try:
        if (corpus / "test.target").exists():
            experiment.references = read_lines(corpus / "test.target")
        if (corpus / "test.source").exists():
            experiment.sources = read_lines(corpus / "test.source")
    except ScoringError as error:
        raise ReportError(str(error)) from error
    if experiment.references is None:
        return
    if experiment.sources is not None and len(experiment.sources) != len(experiment.references):
        raise ReportError(f"{corpus}: test.source and test.target differ in length")
    path = experiment.folder / FILES["generate"]
    if path.exists():
        try:
            experiment.hypotheses = read_hypotheses(path, len(experiment.references))
        except ScoringError as error:
            experiment.missing.append(_missing(experiment, "generate", str(error)))


def _json(path):
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ReportError(f"{path} is not a JSON object")
    return value


def _score(path):
    """The (first) system of a score.json, NaN in place of null; raises ReportError for something else."""
    score = _json(path)
    score = score.get("systems", [score])[0]
    lacking = {"texts", "rouge1", "interval", "statistics", "reference_statistics", "signature", "also"} - score.keys()
    if lacking:
        raise ReportError(f"{path} has no {min(lacking)!r}: write it with srformer-score --json")
    for name in ("statistics", "reference_statistics"):
        score[name] = {key: math.nan if value is None else value for key, value in score[name].items()}
    return score
