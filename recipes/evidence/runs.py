"""The runs of a plan: the data and the start once, then every cell in a process of its own, several at once.

A run that fails is named, and the others go on. One that failed because others had the device's memory is tried again
after them, with fewer at once and at last alone; so is the start, as often.
"""

import contextlib
import shlex
import sys
import time

from recipes.books import Book, BookError, Command
from recipes.books.book import say
from recipes.books.processes import run_commands, signals_raise
from recipes.books.stage import identities
from recipes.evidence.device import Turns, skipped_batches, wants_memory
from recipes.evidence.measures import read_cell
from recipes.evidence.options import own_command
from recipes.evidence.work import BEFORE, ON_DEVICE, cell_stages, cells_of

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
