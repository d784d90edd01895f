"""Carry out a plan of experiments: data and a start once, then every system with every seed, then one report.

    bash recipes/compare.sh --raw DATA --plan recipes/plans/tiny.toml --out experiments/tiny

DATA has the raw files of the plan's format; a plan is described in recipes/evidence/plan.py. What is finished is never
done again: the same command goes on where it was stopped, and a plan to which systems were added runs those. A run that
fails is named at the end, and the others go on.
"""

import argparse
import contextlib
import os
import platform
import shlex
import sys
import time
from pathlib import Path

from data_prep import provenance
from data_prep.arguments import file, positive
from data_prep.errors import command
from recipes.books import Book, BookError, Command
from recipes.books.book import ROOT, say
from recipes.books.processes import run_commands, signals_raise
from recipes.books.stage import identities
from recipes.evidence import report
from recipes.evidence.measures import losses, read_cell
from recipes.evidence.plan import START, PlanError, read_plan
from recipes.evidence.work import BEFORE, Place, cell_stages, cells_of, shared_stages, value_of
from recipes.later_arguments import refused

CHANGED = "choose another --out, or give --changed redo"


def parser():
    """The command line."""
    options = argparse.ArgumentParser(
        prog="recipes/compare.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--raw", type=Path, required=True, help="folder with the raw files")
    options.add_argument("--plan", type=file, required=True, help="what to run, a TOML file")
    options.add_argument("--out", type=Path, help="folder to write (default: experiments/ and the plan's name)")
    options.add_argument("--init", type=file, help="a fairseq checkpoint to start from, in place of the plan's start")
    options.add_argument(
        "--at-once", type=positive, default=1, metavar="N", help="runs at once on the device (default: 1)"
    )
    options.add_argument(
        "--stop-after", type=float, metavar="MINUTES", help="begin no run later than this, and write the report"
    )
    options.add_argument("--precision", choices=["bf16", "fp16", "fp32"], default="bf16", help="(default: bf16)")
    options.add_argument("--cpu", action="store_true", help="train and decode on the CPU, in fp32")
    options.add_argument(
        "--workers", type=positive, default=os.cpu_count() or 1, help="processes for the data (default: one a core)"
    )
    options.add_argument(
        "--loaders", type=positive, default=4, help="processes that load the batches of one training (default: 4)"
    )
    options.add_argument(
        "--changed",
        choices=["stop", "redo"],
        default="stop",
        help="finished work that the plan now wants otherwise: stop and say so, or redo it (default: stop)",
    )
    options.add_argument("--report-only", action="store_true", help="write the report of what is there")
    options.add_argument("--dry-run", action="store_true", help="print every command and do nothing")
    options.add_argument("--cell", help=argparse.SUPPRESS)  # of one run's own process: its name
    options.add_argument("--after", help=argparse.SUPPRESS)  # what the data and the start are known by
    options.add_argument("--until", type=float, help=argparse.SUPPRESS)  # the time after which none begins
    return options


def place_of(options):
    """The `Place` that the options say; paths are absolute, since commands run in the clone."""
    precision = () if options.precision == "fp32" else (f"--{options.precision}",)
    out = options.out or Path("experiments") / options.plan.stem
    return Place(
        out.absolute(),
        options.raw.absolute(),
        options.init and options.init.absolute(),
        options.workers,
        options.loaders,
        ("--cpu",) if options.cpu else precision,
        ("--cpu",) if options.cpu else (),
    )


def own_command(options):
    """The words that carry the plan out again."""
    words = ["bash", "recipes/compare.sh", "--raw", str(options.raw), "--plan", str(options.plan)]
    for name in ("out", "init"):
        if value := getattr(options, name):
            words += [f"--{name}", str(value)]
    words += ["--at-once", str(options.at_once)]
    return words + (["--cpu"] if options.cpu else ["--precision", options.precision])


def book_of(folder, options, **more):
    """The `Book` of a folder."""
    return Book(folder, shlex.join(own_command(options)), options.changed, CHANGED, **more)


def known_by(stages, place, book):
    """What the data and the start are known by, for the books of the cells."""
    found = identities(stages, book.places)[stages[-1].name]
    return f"{found} {place.init}" if place.init else found


def finished(plan, place, cell):
    """Whether all stages of a cell have finished."""
    stages = [stage.name for stage in cell_stages(plan, place, cell)]
    return read_cell(place.cell(cell), cell.name, stages).complete


def run_cell(options, plan, place):
    """One run, in a process of its own; an error is printed, and the other runs go on."""
    if options.until and time.time() > options.until:
        return 0
    cell = next(cell for cell in cells_of(plan, place) if cell.name == options.cell)
    try:
        book_of(place.cell(cell), options, known={BEFORE: options.after}).run(cell_stages(plan, place, cell))
    except BookError as error:
        say(f"error: {error}")
        return 130 if error.status == 130 else 0
    return 0


class Runs:
    """Prints the lines of the runs under their names, and now and then how many are done and what time is left."""

    def __init__(self, names, is_done, clock=time.monotonic):
        self.names, self.is_done, self.clock = names, is_done, clock
        self.began, self.done = clock(), 0

    def __call__(self, label, line):
        """A line of a run, or None: time has passed."""
        if not line:
            return
        print(f"[{label}] {line}", flush=True)
        done = sum(map(self.is_done, self.names)) if " score: " in line else self.done
        if done > self.done:
            self.done = done
            left = (self.clock() - self.began) / done * (len(self.names) - done) / 60
            say(f"{done} of {len(self.names)} runs done" + (f", about {left:.0f} min left" if left else ""))


def run_cells(options, plan, place, after):
    """All runs that have not finished, `--at-once` of them at a time."""
    cells = {cell.name: cell for cell in cells_of(plan, place) if not finished(plan, place, cell)}
    words = [sys.executable, "-m", "recipes.evidence.compare", *sys.argv[1:], "--after", after]
    if options.stop_after is not None:
        words += ["--until", str(time.time() + 60 * options.stop_after)]
    say(f"{len(cells)} of {len(cells_of(plan, place))} runs to do, {options.at_once} at once")
    show = Runs(list(cells), lambda name: finished(plan, place, cells[name]))
    commands = [Command([*words, "--cell", name], label=name) for name in cells]
    with open(place.out / "logs/runs.log", "ab") as log, signals_raise():
        status = run_commands(commands, log, show, options.at_once)
    if status:
        raise BookError(f"a run was ended; the same command goes on, and {log.name} has what they printed", status)


def dry_run(plan, place):
    """Print every command as it can be pasted into a shell."""
    print(f"cd {shlex.quote(str(ROOT))}\nexport PYTHONPATH={shlex.quote(str(ROOT))}")
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
        "runs at once": str(options.at_once),
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
    options = parser().parse_args(argv)
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
        check_flags(options.plan, plan, place)
    book = book_of(place.out, options)
    try:
        if not options.report_only:
            book.run(stages)
            run_cells(options, plan, place, known_by(stages, place, book))
    except BookError as error:
        say(f"error: {error}", sys.stderr)
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
