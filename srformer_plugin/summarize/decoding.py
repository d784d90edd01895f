"""How a summary is searched: the settings, and what Hugging Face's files say about them.

Lengths are fairseq's: tokens of a summary without its </s>. Hugging Face counts the first token of the decoder too,
and in `max_length` the </s> (docs/convert.md, "Where the two search differently").
"""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..compat.generation_settings import BOUNDS
from ..convert.weights import read_json
from ..errors import ConfigurationError

# A search keeps the scores of the whole vocabulary, and what the decoder has computed, for every hypothesis: 256 of 8
# documents with BART's vocabulary are 0.4 GB of scores alone, several times over.
MOST_HYPOTHESES = 256


@dataclass(frozen=True)
class Decoding:
    """Settings of the beam search. The defaults are those of BART for CNN/DailyMail.

    Attributes:
        beam: hypotheses that are kept, at most `MOST_HYPOTHESES`.
        lenpen: the score of a hypothesis is divided by its length to this power.
        min_len, max_len: tokens of a summary, its end not counted.
        no_repeat_ngram_size: no sequence of so many tokens comes twice; 0: any may.
    """

    beam: int = 4
    lenpen: float = 2.0
    min_len: int = 55
    max_len: int = 140
    no_repeat_ngram_size: int = 3

    def changed(self, limit: int, changes: dict) -> "Decoding":
        """These settings with `changes` (None: as it is), for a model of `limit` target positions.

        A length that was not asked for gives way to one that was, and to the model's positions.

        Raises:
            ConfigurationError: a value that cannot work, or one without a name here.
        """
        unknown = set(changes) - {one.name for one in fields(self)}
        if unknown:
            raise ConfigurationError(f"{min(unknown)!r} is no setting of the search")
        changes = {name: value for name, value in changes.items() if value is not None}
        for name, value in changes.items():
            kinds = (int, float) if name == "lenpen" else (int,)
            if not isinstance(value, kinds) or isinstance(value, bool):
                what = "number" if name == "lenpen" else "whole number"
                raise ConfigurationError(f"--{name.replace('_', '-')} must be a {what}, got {value!r}")
        found, longest = replace(self, **changes), limit - 1
        for name, least in (("beam", 1), ("min_len", 0), ("max_len", 1), ("no_repeat_ngram_size", 0)):
            if getattr(found, name) < least:
                flag = name.replace("_", "-")
                raise ConfigurationError(f"--{flag} must be at least {least}, got {getattr(found, name)}")
        if found.beam > MOST_HYPOTHESES:
            raise ConfigurationError(f"--beam must be at most {MOST_HYPOTHESES}, got {found.beam}")
        holds, bound = BOUNDS["lenpen"]
        if not holds(found.lenpen):
            raise ConfigurationError(f"--lenpen must be {bound}, got {found.lenpen}")
        if changes.get("max_len", 0) > longest:
            raise ConfigurationError(
                f"--max-len {found.max_len} is more than the model's {limit} target positions hold: at most {longest}"
            )
        if "max_len" not in changes:
            found = replace(found, max_len=min(max(found.max_len, changes.get("min_len", 0)), longest))
        if "min_len" not in changes:
            found = replace(found, min_len=min(found.min_len, found.max_len))
        if found.min_len > found.max_len:
            raise ConfigurationError(f"--min-len {found.min_len} is more than --max-len {found.max_len}")
        return found


def of_huggingface(folder: Path) -> tuple[Decoding, str]:
    """(settings, text to put before every document) of a Hugging Face folder.

    `task_specific_params.summarization` of config.json comes before generation_config.json, and that before
    config.json, as in transformers' summarization pipeline. What none of them names is `Decoding`'s default where the
    folder names nothing at all, and Hugging Face's own default where it names something.

    Raises:
        ConfigurationError: a file that is no JSON object, or a value of the wrong type.
    """
    config = read_json(folder / "config.json")
    generation = folder / "generation_config.json"
    tasks = config.get("task_specific_params") or {}
    of_task = (tasks.get("summarization") or {}) if isinstance(tasks, dict) else tasks
    if not isinstance(of_task, dict):
        raise ConfigurationError(f"task_specific_params of {folder / 'config.json'} holds no JSON object of settings")
    stored = {**config, **(read_json(generation) if generation.is_file() else {}), **of_task}
    stored = {name: value for name, value in stored.items() if value is not None}
    read = {
        "beam": ("num_beams", int, 1, 0),
        "lenpen": ("length_penalty", float, 1.0, 0),
        "min_len": ("min_length", int, 0, -1),
        "max_len": ("max_length", int, Decoding.max_len + 2, -2),
        "no_repeat_ngram_size": ("no_repeat_ngram_size", int, 0, 0),
    }
    for new, (old, shift) in {"min_new_tokens": ("min_length", 1), "max_new_tokens": ("max_length", 1)}.items():
        if new in stored:
            stored[old] = _number(stored[new], int, new, folder) + shift
    if not any(name in stored for name, *_ in read.values()):
        return Decoding(), str(of_task.get("prefix", ""))
    values = {
        ours: max(_number(stored.get(theirs, default), kind, theirs, folder) + shift, 0)
        for ours, (theirs, kind, default, shift) in read.items()
    }
    return Decoding(**values), str(stored.get("prefix", ""))


def _number(value, kind, name, folder):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is(kind, value):
        raise ConfigurationError(f"{name} of {folder} is {value!r}, no number that could be one")
    return kind(value)


def _is(kind, value):
    """Whether a number is one of a kind: JSON writes 4.0 for 4, and Python's reads Infinity."""
    return math.isfinite(value) and kind(value) == value
