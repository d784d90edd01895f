"""settings.json: what the stages of a folder ran with, and which code ran."""

import functools
import subprocess
import time
from pathlib import Path

from data_prep.provenance import versions
from data_prep.whole import write_json
from recipes.books.files import read_json

ROOT = Path(__file__).resolve().parents[2]
FAIRSEQ = ("ve-fairseq", "fairseq")  # whichever is installed
SETTINGS = "settings.json"


def git(*arguments):
    """What git says about the clone, or None outside of one."""
    try:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


@functools.cache
def _code():
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "versions": versions(*FAIRSEQ, "torch", "numpy", "sentencepiece", "tiktoken", "rouge-score"),
    }


def of_stage(facts, settings):
    """What a stage's record says: ``facts`` of the whole run (recipe, command, seed), ``settings`` of the stage."""
    return {**facts, **_code(), "settings": settings, "began": time.time()}


def write(out):
    """Write ``out``/settings.json from the records of the stages that have begun.

    ``settings`` has what each stage ran with, and nothing of stages that did not run; the rest is that of the stage
    that began last. ``stages`` tells of each.
    """
    records = {path.stem: read_json(path) or {} for path in (out / ".stages").glob("*.json")}
    ran = {name: record["ran"] for name, record in records.items() if "ran" in record}
    if not ran:
        return
    ran = dict(sorted(ran.items(), key=lambda item: item[1]["began"]))
    last = list(ran.values())[-1]
    settings = {name: value for stage in ran.values() for name, value in stage["settings"].items()}
    stages = {
        name: {key: value for key, value in stage.items() if key not in ("settings", "versions")}
        for name, stage in ran.items()
    }
    content = {key: value for key, value in last.items() if key != "began"}
    content |= {"settings": dict(sorted(settings.items())), "stages": stages}
    write_json(out / SETTINGS, content, indent=1)
