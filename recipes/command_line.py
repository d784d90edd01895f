"""What recipes/recipe.sh asks for the options of a script: the command line in, variables of the shell out.

    python -m recipes.command_line SCRIPT NAME [--OPTION DEFAULT]... -- ARGUMENTS...

prints assignments on file descriptor 3, which recipes/recipe.sh evaluates. The DEFAULTS are the script's own.
"""

import json
import os
import shlex
import sys
from pathlib import Path

from data_prep.errors import command
from recipes.checks import check
from recipes.derived import derive
from recipes.options import command_to_repeat, parse, settings_of


def assignments(variables):
    """Lines of shell: a list becomes an array."""
    lines = []
    for name, value in variables.items():
        name = name.replace("-", "_").upper()
        quoted = f"({shlex.join(value)})" if isinstance(value, list) else shlex.quote(value)
        lines.append(f"{name}={quoted}")
    return "\n".join(lines) + "\n"


def title_of(script):
    """The words after the first line of a script: what it is, for --help."""
    lines = Path(script).read_text(encoding="utf-8").splitlines()[1:]
    words = []
    for line in lines:
        if not line.startswith("# ") or line.startswith("# shellcheck"):
            break
        words.append(line[2:])
    return "\n".join(words)


@command
def main(argv=None):
    """Command line: assignments on file descriptor 3, or one line on standard error."""
    script, name, *rest = sys.argv[1:] if argv is None else argv
    end = rest.index("--")
    defaults = {flag.removeprefix("--"): value for flag, value in zip(rest[:end:2], rest[1:end:2])}
    program = os.path.relpath(script, os.environ.get("CALLED_FROM", "."))
    values, given = parse(program, name, title_of(script), defaults, rest[end + 1 :])
    variables = derive(name, values, given)
    check(values, variables)
    repeat = command_to_repeat(script, values, given, name)
    facts = {"recipe": variables["name"], "command": repeat, "seed": int(values["seed"])}
    run = {"values": values, "facts": facts, "settings": settings_of(name, values), "selected": variables["selected"]}
    plan = {"PLAN": ["2", "book", "options=" + json.dumps(run)]}
    with open(3, "w", encoding="utf-8") as shell:
        shell.write(assignments({**values, **variables, **plan}))


if __name__ == "__main__":
    sys.exit(main())
