"""Write the settings of an experiment: what was run, with which code, and how to run it again.

    printf '%s\\n' COMMAND ARGUMENT... | python -m recipes.settings OUT/settings.json --recipe NAME --seed 1 \\
        --setting NAME=VALUE ...
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from data_prep.prepare import versions

ROOT = Path(__file__).resolve().parent.parent
FAIRSEQ = ("ve-fairseq", "fairseq")  # whichever is installed
# They choose a part of the run and not its outcome.
NO_SETTINGS = {"from", "to", "only", "dry-run", "changed", "node-rank", "master"}


def git(*arguments):
    """What git says about the clone, or None outside of one."""
    try:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def settings(recipe, command, seed, values):
    """The object of settings.json. `values`: option -> text, "" for one that is not set."""
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {
        "recipe": recipe,
        "command": command,
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "seed": seed,
        "settings": {name: value for name, value in sorted(values.items()) if name not in NO_SETTINGS},
        "versions": versions(*FAIRSEQ, "torch", "numpy", "sentencepiece", "tiktoken", "rouge-score"),
    }


def main(argv=None):
    """Command line; the command to repeat comes on standard input, an argument a line."""
    parser = argparse.ArgumentParser(prog="python -m recipes.settings", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(argv)
    values = dict(setting.partition("=")[::2] for setting in options.setting)
    content = settings(options.recipe, sys.stdin.read().splitlines(), options.seed, values)
    partial = options.out.with_name(options.out.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, options.out)


if __name__ == "__main__":
    main()
