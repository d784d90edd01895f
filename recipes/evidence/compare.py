"""Carry out a plan of experiments: data and a start once, then every system with every seed, then one report.

    bash recipes/compare.sh --raw DATA --plan recipes/plans/tiny.toml --out experiments/tiny

DATA has the raw files of the plan's format; a plan is described in recipes/evidence/plan.py. What is finished is never
done again: the same command goes on where it was stopped, and a plan to which systems were added runs those. A run that
fails is named at the end, and the others go on. One that failed because others had the device's memory is tried again
after them, with fewer at once and at last alone; so is the start, as often.
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
from recipes.evidence.device import FREE_GB, SHARE, Turns, devices_of_runs, skipped_batches, wants_memory
from recipes.evidence.measures import losses, read_cell
from recipes.evidence.plan import START, PlanError, read_plan
from recipes.evidence.work import BEFORE, ON_DEVICE, Place, cell_stages, cells_of, shared_stages, value_of
from recipes.later_arguments import refused

CHANGED = "choose another --out, or give --changed redo"
TRIES = 3  # of a stage or a run that others left no memory
LACKED = "the device's memory was not enough beside others"
AGAIN = 75  # exit status of a run that is worth another try: <sysexits.h>'s EX_TEMPFAIL
# What to lower for a stage that has not enough memory even alone.
LOWER = {
    "start": "--max-tokens or --batch-size in [start]",
    "train": "--max-tokens or --batch-size in [adapt]",
    "generate": "--batch-size in [decode], with --changed redo, which keeps the trainings,",
}


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
        "--gpus",
        type=positive,
        default=1,
        metavar="N",
        help="share the runs out among N GPUs, --at-once on each; the start is trained on the first (default: 1)",
    )
    options.add_argument(
        "--free-gb",
        type=float,
        metavar="GB",
        help="begin no training and no decoding beside others until so much of the device's memory is free; 0: do not "
        f"wait (default: {FREE_GB}, or {SHARE:.0%}% of a smaller device)",
    )
    options.add_argument(
        "--stop-after",
        type=float,
        metavar="MINUTES",
        help="begin no run later than this, and write the report; another try of one that was begun is no new run",
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
    words += ["--gpus", str(options.gpus)] if options.gpus > 1 else []
    words += [] if options.free_gb is None else ["--free-gb", f"{options.free_gb:g}"]
    return words + (["--cpu"] if options.cpu else ["--precision", options.precision])


def book_of(folder, options, turns=None, **more):
    """The `Book` of a folder; on a device its stages take their turns."""
    if turns is not None:
        more["around"] = lambda stage, log: on_device(turns, stage, log)
    return Book(folder, shlex.join(own_command(options)), options.changed, CHANGED, **more)


def turns_of(options):
    """The `Turns` on the device, or None on the CPU."""
    return None if options.cpu else Turns(options.free_gb)


class LeftOut(BookError):
    """A training went on without batches for which the device had no memory."""


@contextlib.contextmanager
def on_device(turns, stage, log):
    """Within it the commands of a stage run, in their turn if they need the device."""
    if stage.name not in ON_DEVICE:
        yield
        return
    with turns.turn(stage.name):
        yield
    if stage.name in ("start", "train") and (count := skipped_batches(log)):
        message = f"the training left out {count} batches for want of the device's memory: {log}"
        if turns.beside and stage.name == "train":  # chance, and another system with the same seed has seen them
            raise LeftOut(message, log=log)
        say(f"warning: {message}")


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
    turns = turns_of(options)
    try:
        book_of(place.cell(cell), options, turns, known={BEFORE: options.after}).run(cell_stages(plan, place, cell))
    except BookError as error:
        say(f"error: {error}")
        if error.status == 130:
            return 130
        if turns is not None and lacked_memory(error):
            if turns.beside:
                return AGAIN
            if cell.system.updates or error.log.stem != "train":  # the start is only validated, by our own flags
                say(advice(error.log.stem, options))
    return 0


def lacked_memory(error):
    """Whether a BookError is of a stage that found no memory on the device."""
    if isinstance(error, LeftOut):  # wherever in its log it says so
        return True
    return error.log is not None and error.log.stem in ON_DEVICE and wants_memory(error.log)


def advice(stage, options):
    """What to do about a stage that has not enough memory with the device for itself."""
    return f"error: the device has not enough memory for {stage} even alone: lower {LOWER[stage]} of {options.plan}"


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


def run_shared(book, stages, turns):
    """The data and the start: as a run, a stage that others left no memory is tried again, and goes on where it was.

    Raises:
        BookError: as `Book.run`, of the last try.
    """
    for number in range(1, TRIES + 1):
        try:
            return book.run(stages)
        except BookError as error:
            if turns is None or not turns.beside or not lacked_memory(error):
                raise
            again = number < TRIES
            say(f"{error.log.stem}: {LACKED}; {'again' if again else 'the same command tries again'}")
            if not again:
                raise


def run_cells(options, plan, place, after, devices):
    """All runs that have not finished, `--at-once` of them at a time on each of the `devices` (`devices_of_runs`)."""
    cells = {cell.name: cell for cell in cells_of(plan, place) if not finished(plan, place, cell)}
    words = [sys.executable, "-m", "recipes.evidence.compare", *sys.argv[1:], "--after", after]
    until = [] if options.stop_after is None else ["--until", str(time.time() + 60 * options.stop_after)]
    say(f"{len(cells)} of {len(cells_of(plan, place))} runs to do, {at_once_of(options)} at once")
    show = Runs(list(cells), lambda name: finished(plan, place, cells[name]))

    def command_of(name, first):
        # what was begun in time may be finished later
        return Command([*words, *(until if first else []), "--cell", name], label=name)

    with open(place.out / "logs/runs.log", "ab") as log, signals_raise():
        status = run_tries(list(cells), command_of, options.at_once, log, show, devices)
    if status:
        raise BookError(f"a run was ended; the same command goes on, and {log.name} has what they printed", status)


def at_once_of(options):
    """How many runs there are at a time, in words."""
    return f"{options.at_once} on each of {options.gpus} GPUs" if options.gpus > 1 else str(options.at_once)


def run_tries(names, command_of, at_once, log, show, devices=({},)):
    """Run `command_of(name, first)` of all names; those that end with `AGAIN` once more after the others.

    There are `TRIES`: `at_once` at a time on each of `devices`, half as many, and one. Returns 0, or the exit status of
    the first that ends otherwise, which ends the others.
    """
    widths = [at_once, max(1, at_once // 2), 1]
    assert len(widths) == TRIES
    for number, width in enumerate(widths):
        wanting = []

        def excused(label, status, wanting=wanting):
            if status == AGAIN:
                wanting.append(label)
            return status == AGAIN

        commands = [command_of(name, number == 0) for name in names]
        at_a_time = width * len(devices)
        if status := run_commands(commands, log, show, at_a_time, excused=excused, variables=devices):
            return status
        names = [name for name in names if name in wanting]  # in the plan's order
        if not names:
            return 0
        then = f"again, {widths[number + 1]} at once" if number + 1 < TRIES else "the same command tries again"
        say(f"{', '.join(names)}: {LACKED}; {then}")
    return 0


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
