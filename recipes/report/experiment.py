"""What a recipe left in its folder, as far as it got.

    settings.json                 recipe, command, commit, dirty, seed, settings, versions
    corpus/, encoded/             manifest.json of data_prep.prepare and data_prep.encode; test.source, test.target
    train/train.log               fairseq's log as JSON lines
    generate/generate-test.txt    what fairseq-generate wrote
    score/score.json              what `srformer-score --json` printed

The setting `data-from` names another experiment's folder, whose corpus/ and encoded/ are read then. In a corpus without
test split valid takes its place.
"""

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.errors import UserError
from data_prep.text import SENTENCE_MARK, SIDES
from recipes.report.training_log import TrainingLog, read_training_log
from srformer_plugin.scoring.files import ScoringError, read_hypotheses, read_lines

SETTINGS = "settings.json"
# What each stage writes, in the order in which they run.
FILES = {
    "prepare": "corpus/manifest.json",
    "encode": "encoded/manifest.json",
    "train": "train/train.log",
    "generate": "generate/generate-{split}.txt",
    "score": "score/score.json",
}
PLACES = {"out", "data-from"}  # settings that say where files are, and change no result


class ReportError(UserError, ValueError):
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
    problems: dict[str, str] = field(default_factory=dict)  # stage -> what is missing

    @property
    def missing(self):
        """Sentences that say what is missing and which stage makes it, in the order of the stages."""
        recipe = self.settings.get("recipe", "its recipe")
        problems = [(stage, self.problems[stage]) for stage in FILES if stage in self.problems]
        return [f"{what}: run the stage `{stage}` of {recipe}" for stage, what in problems]

    @property
    def data(self):
        """The folder that holds corpus/ and encoded/."""
        other = self.settings.get("settings", {}).get("data-from")
        return Path(other) if other and not (self.folder / "corpus").exists() else self.folder

    @property
    def split(self):
        """The split that was decoded and scored."""
        return next((split for split in ("test", "valid") if (self.data / f"corpus/{split}.target").exists()), "test")

    def path(self, stage):
        """The file that a stage of this experiment writes."""
        folder = self.data if stage in ("prepare", "encode") else self.folder
        return folder / FILES[stage].format(split=self.split)

    @property
    def documents(self):
        """The sources without the question that stands before each, where these are questions on documents."""
        if self.sources is None:
            return None
        end = self._end_of_questions()
        return self.sources if end is None else [source.partition(f" {end} ")[2] or source for source in self.sources]

    def _end_of_questions(self):
        """The word that ends the question of every source; None: there are none.

        QMSum's reader says it. In line files of that form it is the one mark that every source has.
        """
        corpus = self.corpus or {}
        if corpus.get("format") == "qmsum":
            return corpus.get("options", {}).get("separator", SENTENCE_MARK)
        return SENTENCE_MARK if all(source.split().count(SENTENCE_MARK) == 1 for source in self.sources) else None

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
        return {name: value for name, value in named.items() if name not in PLACES and name.lower() != "seed"}


def read_experiment(folder, name):
    """The `Experiment` in a folder.

    Raises:
        ReportError: there is no such folder, none of a recipe's files is in it, or one of them is damaged.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder} is no folder")
    experiment = Experiment(name, folder)
    if (folder / SETTINGS).exists():
        experiment.settings = _json(folder / SETTINGS)
    found = {stage: experiment.path(stage) for stage in FILES if experiment.path(stage).exists()}
    if not found and not experiment.settings:
        raise ReportError(f"{folder} is not the folder of an experiment, which has a {SETTINGS}: run a recipe")
    experiment.problems = {stage: f"{experiment.path(stage)} is missing" for stage in FILES if stage not in found}
    experiment.corpus = _json(found["prepare"]) if "prepare" in found else None
    experiment.encoded = _json(found["encode"]) if "encode" in found else None
    experiment.score = _score(found["score"]) if "score" in found else None
    if "train" in found:
        _read_log(experiment)
    _read_texts(experiment)
    return experiment


def _read_log(experiment):
    path = experiment.path("train")
    try:
        experiment.log = read_training_log(path)
    except ValueError as error:
        experiment.problems["train"] = str(error)
    else:
        if not experiment.log.finished:
            updates = experiment.log.updates
            experiment.problems["train"] = f"{path} ends after {updates:,} updates without the end of training"


def _read_texts(experiment):
    source, target = (experiment.data / "corpus" / f"{experiment.split}.{side}" for side in SIDES)
    try:
        experiment.references = read_lines(target) if target.exists() else None
        experiment.sources = read_lines(source) if source.exists() else None
    except ScoringError as error:
        raise ReportError(str(error)) from error
    if experiment.references is None:
        return
    if experiment.sources is not None and len(experiment.sources) != len(experiment.references):
        raise ReportError(f"{source} and {target} differ in length")
    path = experiment.path("generate")
    if path.exists():
        try:
            experiment.hypotheses = read_hypotheses(path, len(experiment.references))
        except ScoringError as error:
            experiment.problems["generate"] = str(error)


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
