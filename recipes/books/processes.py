"""Run the commands of a stage: everything they print goes to a log, and its lines to who shows progress."""

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time

from recipes.books.errors import Interrupted

_LINE_END = re.compile(rb"\r\n|\n|\r")
GRACE = 10  # seconds between the request to end and the end


class _Running:
    """A process in a session of its own, and what it has printed of a line."""

    def __init__(self, command, variables, **options):
        self.label, self.rest, self.variables = command.label, b"", variables
        if variables:
            options["env"] = {**(options.get("env") or os.environ), **variables}
        self.process = subprocess.Popen(
            command.words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )

    def read(self):
        """What is there, or b"" at the end."""
        return os.read(self.process.stdout.fileno(), 1 << 16)

    def lines(self, data):
        """The lines that ``data`` completes."""
        *lines, self.rest = _LINE_END.split(self.rest + data)
        return [line.decode(errors="replace") for line in lines]

    def signal(self, number):
        # of the whole session: fairseq has workers
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def run_commands(commands, log, show, at_once=1, descriptors=(), excused=None, variables=({},), **options):
    """Run commands in turn, ``at_once`` of them at a time; returns 0 or the exit status of the first that fails.

    Where one fails, or on an exception, the others are ended; not so where ``excused(label, status)`` is true. ``log``
    is a binary file; ``show(label, line)`` is called for every line, and ``show(label, None)`` about once a second.
    ``descriptors`` are inherited. ``options`` go to `subprocess.Popen`.

    ``variables`` are dictionaries of the environment, each for as many commands at a time as any other: a command that
    begins takes those of the one that has ended. ``at_once`` is a multiple of their number.
    """
    waiting, running, status = list(commands), {}, 0
    free = list(variables) * (at_once // len(variables))
    with selectors.DefaultSelector() as selector:
        try:
            while (waiting or running) and status == 0:
                while waiting and free:
                    command = waiting.pop(0)
                    try:
                        one = _Running(command, free.pop(0), pass_fds=descriptors, **options)
                    except OSError as error:
                        log.write(f"{command.words[0]}: {error.strerror}\n".encode())
                        show(command.label, f"{command.words[0]}: {error.strerror}")
                        return 127
                    running[one.process.pid] = one
                    selector.register(one.process.stdout, selectors.EVENT_READ, one)
                for key, _ in selector.select(timeout=1):
                    one = key.data
                    data = one.read()
                    _pass_on(one, data or (b"\n" if one.rest else b""), log, show)
                    if not data:
                        selector.unregister(one.process.stdout)
                        one.process.stdout.close()
                        del running[one.process.pid]
                        free.append(one.variables)
                        code = one.process.wait()
                        code = 128 - code if code < 0 else code
                        if code and not (excused and excused(one.label, code)):
                            status = status or code
                show("", None)
        finally:
            _end(running.values())
    return status


def _pass_on(one, data, log, show):
    mark = f"[{one.label}] ".encode() if one.label else b""
    if not mark:
        log.write(data)
    for line in one.lines(data):
        if mark:
            log.write(mark + line.encode() + b"\n")
        show(one.label, line)
    log.flush()


def _end(running):
    for one in running:
        one.signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for one in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.process.wait(max(0, deadline - time.monotonic()))
        one.signal(signal.SIGKILL)
        one.process.wait()
        one.process.stdout.close()


class signals_raise:
    """Within it SIGINT and SIGTERM raise Interrupted, in the main thread."""

    def __enter__(self):
        self.old = {}

        def stop(number, frame):
            raise Interrupted("interrupted")

        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.old[number] = signal.signal(number, stop)
            except ValueError:  # another thread
                break

    def __exit__(self, *_):
        for number, handler in self.old.items():
            signal.signal(number, handler)
