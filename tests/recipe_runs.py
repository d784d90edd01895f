"""Recipes run as a user would, on tiny data: for the tests of recipes/."""

import os
import shlex
import subprocess
import sys

import pytest
import warm
from conftest import ROOT, sentence_pairs

RECIPES = ROOT / "recipes"
NAMES = ["cnn_dailymail", "xsum", "arxiv", "mediasum", "custom"]
SIZES = {"train": 40, "valid": 9, "test": 11}
TINY = [
    "--cpu", "--init", "scratch", "--max-update", "6", "--validate-every", "4", "--batch-size", "8",
    "--warmup-updates", "1", "--lr", "1e-2", "--max-source", "48", "--max-target", "96", "--min-len", "1",
    "--max-len", "12", "--beam", "2", "--workers", "1", "--vocabulary", "100",
]  # fmt: skip
FRESH = {"PYTHON": sys.executable}
TINY_ARCH = {"bart": "srformer_bart_tiny", "t5": "srformer_t5_tiny"}


def environment(**more):
    """Variables for a recipe: its programs start at once (tests/warm), or with ``**FRESH`` as they always do."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") and name != "CLEAN"}
    return {
        **clean,
        "PYTHON": str(warm.programs() / "python"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        **more,
    }


def command(name, *arguments):
    return ["bash", str(RECIPES / f"{name}.sh"), *map(str, arguments)]


def recipe(name, *arguments, cwd=ROOT, check=True, **more):
    """Run a recipe; returns the finished process, ``stdout`` holding standard error as well."""
    done = subprocess.run(
        command(name, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env=environment(**more),
        timeout=280,
    )
    if check and done.returncode != 0:
        pytest.fail(f"{name} {' '.join(map(str, arguments))}\n{done.stdout}")
    return done


def commands(text):
    """The commands that --dry-run printed, as lists of words."""
    return [shlex.split(line) for line in text.splitlines() if line and not line.startswith("#")]


def dry_run(name, *arguments, **more):
    return commands(recipe(name, "--dry-run", *arguments, **more).stdout)


def the(program, found):
    """The one command that runs ``program``."""
    matching = [words for words in found if program in words]
    assert len(matching) == 1, found
    return matching[0]


def value(words, flag):
    """What a flag has in a command: that of its last place, as in the tools."""
    return words[len(words) - words[::-1].index(flag)]


def documents():
    """Made-up documents of two to five sentences, with summaries of two."""
    pairs = iter(sentence_pairs(sum(SIZES.values()), seed=11))
    return {
        split: [
            (f"{split}-{number}", source.replace(" . ", " .\n").split("\n"), [target, "It is so ."])
            for number, (source, target) in zip(range(size), pairs)
        ]
        for split, size in SIZES.items()
    }
