"""What a training's log says: losses and ROUGE by update, and how long it took."""

import json
import math
import re
from dataclasses import dataclass, field
from statistics import median

from srformer_plugin.scoring.files import read_lines
from srformer_plugin.scoring.rouge import ROUGE_TYPES

# As in the file of --log-file, or with the prefix of what fairseq prints.
_STATS = re.compile(r'^(?:[^{]* \| INFO \| \w+ \| )?(\{".*\})$')
_BEGIN = re.compile(r"\{'_name'")  # a run logs its settings first
_DONE = re.compile(r"(?:^|\| )done training in ")


@dataclass
class TrainingLog:
    """A training, with what it did before it was resumed.

    Losses are in bits per target token, without label smoothing; ROUGE is mean F1 in percent. Values that are no
    finite number are NaN.
    """

    train: dict[int, float] = field(default_factory=dict)  # update -> loss
    valid: dict[int, float] = field(default_factory=dict)
    rouge: dict[str, dict[int, float]] = field(default_factory=dict)  # type -> update -> score, with --eval-rouge
    interval_seconds: dict[int, float] = field(default_factory=dict)  # of training alone, up to an update's log line
    interval_speeds: dict[int, float] = field(default_factory=dict)  # updates per second, likewise
    walls: list[float] = field(default_factory=list)  # seconds of each run, validation and saving included
    updates: int = 0  # done at the log's end
    finished: bool = False

    @property
    def seconds(self):
        """Seconds spent on updates: no validation, nothing that a resumed training did again."""
        return sum(self.interval_seconds.values())

    @property
    def wall(self):
        """Seconds of all runs together, from start to last log line."""
        return sum(self.walls)

    @property
    def updates_per_second(self):
        """The median over the log's intervals; None if nothing says."""
        return median(self.interval_speeds.values()) if self.interval_speeds else None

    @property
    def best_valid(self):
        """(update, loss) of the lowest validation loss; None where there is none."""
        finite = [(loss, update) for update, loss in self.valid.items() if not math.isnan(loss)]
        return min(finite)[::-1] if finite else None

    def summary(self):
        """The numbers that a report shows, None where the log has none."""
        best = self.best_valid
        return {
            "updates": self.updates,
            "finished": self.finished,
            "wall_seconds": self.wall,
            "updates_per_second": self.updates_per_second,
            "last_valid_loss": self.valid[max(self.valid)] if self.valid else None,
            "best_valid_update": best and best[0],
            "best_valid_loss": best and best[1],
            "valid_rouge": {kind: curve[max(curve)] for kind, curve in self.rouge.items() if curve},
        }

    def forget_from(self, update):
        """Leave out what was logged at `update` and later: the training went on from an earlier checkpoint."""
        for curve in (self.train, self.valid, self.interval_seconds, self.interval_speeds, *self.rouge.values()):
            for later in [u for u in curve if u >= update]:
                del curve[later]


def read_training_log(path):
    """The `TrainingLog` of a file written with `--log-format json --log-file`, or of what fairseq-train printed.

    A resumed training writes some updates again: the later line counts. A line that a kill cut short is left out.

    Raises:
        ScoringError: the file cannot be read.
        ValueError: it has neither training nor validation losses.
    """
    log = TrainingLog()
    for line in read_lines(path):
        if _BEGIN.search(line):
            log.walls.append(0.0)
            log.finished = False
        elif _DONE.search(line):
            log.finished = True
        elif match := _STATS.match(line):
            try:
                _add(log, json.loads(match[1]))
            except json.JSONDecodeError:
                continue
    if not log.train and not log.valid:
        raise ValueError(f"{path}: no training or validation losses; was it written with --log-format json?")
    return log


def _add(log, stats):
    prefix = next((prefix for prefix in ("", "valid_", "train_") if f"{prefix}num_updates" in stats), None)
    if prefix is None:
        return
    update = int(stats[f"{prefix}num_updates"])
    if update < log.updates:
        log.forget_from(update)
    log.updates, log.finished = update, False
    if prefix == "":
        log.train[update] = _loss(stats, prefix)
        log.interval_seconds[update] = float(stats.get("train_wall", 0))
        if "ups" in stats:
            log.interval_speeds[update] = float(stats["ups"])
    elif prefix == "valid_":
        log.valid[update] = _loss(stats, prefix)
        for name in ROUGE_TYPES:
            if f"valid_{name}" in stats:
                log.rouge.setdefault(name, {})[update] = _number(stats[f"valid_{name}"])
    if f"{prefix}wall" in stats:
        _add_wall(log, float(stats[f"{prefix}wall"]))


def _add_wall(log, wall):
    """Note the seconds since the start of the run; they go back where a run is resumed."""
    if log.walls and wall >= log.walls[-1]:
        log.walls[-1] = wall
    else:
        log.walls.append(wall)


def _loss(stats, prefix):
    # without label smoothing fairseq logs one loss only
    return _number(stats.get(f"{prefix}nll_loss", stats.get(f"{prefix}loss")))


def _number(text):
    value = math.nan if text is None else float(text)
    return value if math.isfinite(value) else math.nan
