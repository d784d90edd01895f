"""What a cell has left in its folder: scores, loss, speed and cost, as far as it got."""

import json
import math
import re
from dataclasses import dataclass, field

import numpy as np

from recipes.books.files import read_json

ROUGE = ("rouge1", "rouge2", "rougeLsum")
_STATS = re.compile(r" \| INFO \| (?P<kind>train|valid) \| (?P<stats>\{.*\})$")
_DECODED = re.compile(r"Translated ([\d,]+) sentences \(([\d,]+) tokens\) in ([\d.,]+)s .* ([\d.,]+) tokens/s")


@dataclass
class Measures:
    """Of one cell; what is not there is None."""

    name: str
    rouge: np.ndarray | None = None  # F1 in percent, [texts, len(ROUGE)]
    loss: float | None = None  # on the validation split at the end, nats a target token, without label smoothing
    seconds: float | None = None  # of its training
    tokens_per_second: float | None = None  # of its decoding
    target_tokens: float | None = None  # mean of its hypotheses
    signature: str = ""  # of its ROUGE
    missing: list[str] = field(default_factory=list)  # stages that have not finished

    @property
    def complete(self):
        """Whether all stages have finished."""
        return not self.missing


def read_cell(folder, name, stages):
    """The `Measures` of the cell in `folder`; `stages` are the names of its stages in order."""
    found = Measures(name)
    done = {stage for stage in stages if (read_json(folder / f".stages/{stage}.json") or {}).get("state") == "finished"}
    found.missing = [stage for stage in stages if stage not in done]
    if "train" in done:
        found.loss, found.seconds = losses(folder / "logs/train.log")
    if "generate" in done:
        found.tokens_per_second, found.target_tokens = speed(
            folder / "generate/generate-test.txt", folder / "logs/generate.log"
        )
    if "score" in done:
        found.rouge = scores(folder / "score/examples.jsonl")
        found.signature = json.loads((folder / "score/score.json").read_text(encoding="utf-8")).get("signature", "")
    return found


def losses(path):
    """`(validation loss in nats, seconds of training)` at the end of a log of fairseq-train or fairseq-validate."""
    loss = seconds = None
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not (match := _STATS.search(line)):
                continue
            stats = json.loads(match["stats"])
            if match["kind"] == "valid":
                bits = stats.get("valid_nll_loss", stats.get("nll_loss"))
                loss = loss if bits is None else float(bits) * math.log(2)
            elif "train_wall" in stats:
                seconds = float(stats["train_wall"])
    return loss, seconds


def speed(*paths):
    """`(tokens a second, mean tokens of a hypothesis)` as fairseq-generate says in one of its files; else Nones.

    Its last line goes to its results or to its errors, as the logging was set up before.
    """
    found = None, None
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if match := _DECODED.search(line):
                    sentences, tokens, _, rate = (float(number.replace(",", "")) for number in match.groups())
                    found = rate, tokens / sentences
    return found


def scores(path):
    """F1 in percent of every text, [texts, len(ROUGE)], from what srformer-score --per-example wrote."""
    rows = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            rows.append([row[kind] for kind in ROUGE])
    return np.array(rows, dtype=float)
