"""Carry out a plan of experiments: data and a start once, then every system with every seed, then one report.

    bash recipes/compare.sh --raw DATA --plan recipes/plans/tiny.toml --out experiments/tiny

DATA has the raw files of the plan's format; a plan is described in recipes/evidence/plan.py. What is finished is never
done again: the same command goes on where it was stopped, and a plan to which systems were added runs those. A run that
fails is named at the end, and the others go on. One that failed because others had the device's memory is tried again
after them, with fewer at once and at last alone; so is the start, as often.
"""

import contextlib
import os
import platform
import shlex
import sys
from pathlib import Path

from data_prep import provenance
from data_prep.errors import command
from recipes.books import BookError
from recipes.books.book import ROOT, say
from recipes.evidence import report
from recipes.evidence.device import devices_of_runs
from recipes.evidence.measures import losses
from recipes.evidence.options import own_command, parser, place_of
from recipes.evidence.plan import START, PlanError, read_plan
from recipes.evidence.runs import (
    advice,
    at_once_of,
    book_of,
    known_by,
    lacked_memory,
    run_cell,
    run_cells,
    run_shared,
    turns_of,
)
from recipes.evidence.work import cell_stages, cells_of, shared_stages, value_of
from recipes.later_arguments import refused


def dry_run(plan, place):
    """Print every command as it can be pasted into a shell."""
    print(f"cd {shlex.quote(str(ROOT))}\nexport PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}")
    for stage in shared_stages(plan, place):
        _print(stage.name, stage)
    for cell in cells_of(plan, place):
        for stage in cell_stages(plan, place, cell):
            _print(f"{cell.name}: {stage.name}", stage)


def _print(name, stage):
    print(f"\n# {name}: {stage.title}")
    for one in stage.commands:
        print(shlex.join(one.words))


def check_flags(file, plan, place):
    """Raise a PlanError for flags that the program of a stage refuses, before the first one begins."""
    stages = [(START, stage) for stage in shared_stages(plan, place)]
    for number, cell in enumerate({cell.system.name: cell for cell in cells_of(plan, place)}.values()):
        own = cell_stages(plan, place, cell)
        stages += [(cell.system.name, stage) for stage in (own[:1] if number else own)]  # one search for all
    with contextlib.chdir(ROOT):  # where commands run, and find the plugin
        for name, stage in stages:
            if message := refused(stage):
                raise PlanError(f"{file}: {name!r}, {stage.name}: {message}")
    longest = int(value_of(plan.data["encode"], "--max-source", 1024))
    if not place.init and (beyond := [length for length in plan.start["short"] if 0 < longest < length]):
        raise PlanError(f"{file}: start.short: {beyond[0]} tokens are more than the {longest} of --max-source")


def facts_of(options, plan, place):
    """What the report says of the machine and the run."""
    import torch

    device = "CPU" if options.cpu or not torch.cuda.is_available() else torch.cuda.get_device_name()
    versions = provenance.versions("ve-fairseq", "fairseq", "torch", "numpy", "sentencepiece", "rouge-score")
    found = {
        "device": device,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "runs at once": at_once_of(options),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "start": str(place.init) if place.init else f"from scratch, {plan.start['updates']} updates",
    }
    log = place.out / "logs/start.log"
    if not place.init and log.exists() and (seconds := losses(log)[1]):
        found["training of the start"] = f"{seconds:.0f} s"
    return found


@command
def main(argv=None):
    """Command line: 0 if every run has finished, 1 if some are missing, 2 for a plan that cannot be carried out."""
    options = parser(__doc__).parse_args(argv)
    plan = read_plan(options.plan)
    place = place_of(options)
    if plan.start is None and place.init is None:
        raise PlanError(f"{options.plan} has no [start]: give --init, a checkpoint of full attention")
    if options.cell:
        return run_cell(options, plan, place)
    if options.dry_run:
        return dry_run(plan, place)
    stages = shared_stages(plan, place)
    if not options.report_only:
        if options.cpu and options.gpus > 1:
            raise PlanError(f"--gpus {options.gpus} does not go with --cpu: leave one out")
        devices = devices_of_runs(options.gpus)
        check_flags(options.plan, plan, place)
    elif not (place.out / "runs").is_dir():
        raise PlanError(f"--report-only: there are no runs in {place.out}")
    turns = turns_of(options)
    book = book_of(place.out, options, turns)
    try:
        if not options.report_only:
            run_shared(book, stages, turns)
            run_cells(options, plan, place, known_by(stages, place, book), devices)
    except BookError as error:
        say(f"error: {error}", sys.stderr)
        if turns is not None and not turns.beside and lacked_memory(error):
            say(advice(error.log.stem, options), sys.stderr)
        if error.status == 130 or not (place.out / "runs").exists():
            return error.status
    example = next(cell for cell in cells_of(plan, place) if cell.system.updates)
    commands = [one.words for stage in cell_stages(plan, place, example) for one in stage.commands]
    rows, text = report.write(plan, place, own_command(options), facts_of(options, plan, place), commands)
    print(text.split("## Loss")[0])
    say(f"in {place.out / 'report'}: report.md, report.json, quality_over_cost.png, hypotheses")
    return 1 if any(row.missing for row in rows) else 0


if __name__ == "__main__":
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    sys.exit(main())
