"""Carry out the plan of a recipe's script, which comes on standard input (recipes/books/plan.py)."""

import json
import os
import shlex
import sys
from pathlib import Path

from data_prep.errors import EXIT_STATUS, PREFIX
from recipes.books import Book, BookError
from recipes.books.book import ROOT
from recipes.books.files import read_json
from recipes.books.plan import read_plan
from recipes.derived import UPDATES
from recipes.later_arguments import check_later_arguments
from recipes.options import RefusedOptions


def counted_updates(values):
    """Updates of --epochs, as the encoded training split has lines; None if it is not there yet."""
    lines = Path(values["data-from"] or values["out"]) / "encoded/train.source"
    if not lines.is_file():
        return None
    with open(lines, "rb") as file:
        documents = sum(1 for _ in file)
    return int(values["epochs"]) * -(-documents // int(values["batch-size"]))


def dry_run(book, stages, selected, values):
    """Print every command as it can be pasted into a shell. ``selected``: names of stages; None: all."""
    print(f"cd {shlex.quote(str(ROOT))}")
    packages = f"{shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"
    print(f"export PYTHONPATH={packages} PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
    for stage in stages:
        if selected is None or stage.name in selected:
            print(f"\n# {stage.name}: {stage.title}")
            for command in stage.commands:
                if UPDATES in command.words and counted_updates(values) is None:
                    lines = f"{values['data-from'] or values['out']}/encoded/train.source"
                    print(f"# UPDATES: {values['epochs']} epochs of {lines} in batches of {values['batch-size']}")
                print(shlex.join(book.final(command).words))


def open_book(plan, stages):
    """``(book, selected stages, options)`` of a plan; the options are None for a script without any."""
    if "options" not in plan:
        book = Book(
            plan["out"], plan["again"], plan.get("changed", "redo"), plan.get("remedy", ""), plan.get("clean") == "1"
        )
        return book, None, None
    run = json.loads(plan["options"])
    values = run["values"]
    for stage in stages:
        stage.settings = run["settings"][stage.name]
    known = {}
    if values["data-from"]:
        record = read_json(Path(values["data-from"]) / ".stages/binarise.json") or {}
        if record.get("state") != "finished" and not values["dry-run"]:
            raise BookError(f"--data-from {values['data-from']} has no finished data")
        known = {"binarise": record.get("identity", "")}
    book = Book(
        values["out"],
        shlex.join(run["facts"]["command"]),
        values["changed"],
        "choose another --out, or give --changed redo (start over) or --changed keep (go on with what is there)",
        facts=run["facts"],
        known=known,
        late={UPDATES: lambda: counted_updates(values) or "UPDATES"},
    )
    return book, run["selected"], values


def carry_out(data):
    """Run the plan in ``data``, or print it with --dry-run.

    Raises:
        BookError: as `Book.run`.
    """
    plan, stages = read_plan(data)
    book, selected, values = open_book(plan, stages)
    if book.known:
        done = ("prepare", "encode", "binarise")
        stages = [stage for stage in stages if stage.name not in done]
    if os.environ.get("DRY_RUN") == "1" or (values and values["dry-run"]):
        dry_run(book, stages, selected, values)
    elif values and values["node-rank"] != "0":
        # node 0 prepares, decodes and keeps the book; the others only train with it
        for stage in stages:
            if stage.name == "train" and "train" in selected:
                book.help(stages, stage, f"train.node{values['node-rank']}")
    else:
        if values:
            check_later_arguments(stages, selected, values)
        book.run(stages, selected)
        if selected is None or stages[-1].name in selected:
            print(Path(plan["show"]).read_text(encoding="utf-8"), end="")


def main():
    """Command line: the exit status of a failed stage, 1 for a refused run, 130 after a signal."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    try:
        carry_out(sys.stdin.buffer.read())
    except BookError as error:
        print(f"{PREFIX}{error}", file=sys.stderr)
        return error.status
    except RefusedOptions as error:
        print(f"{PREFIX}{error}", file=sys.stderr)
        return EXIT_STATUS
    return 0


if __name__ == "__main__":
    sys.exit(main())
