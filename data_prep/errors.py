"""Errors that a user can mend: one root, one prefix, one exit status, for every command of the project.

- `UserError`: the root. Raise a subclass with one clear sentence: which file, line, flag or value, and what to do.
- `command`: decorator of a `main(argv=None)`; such an error becomes the line `error: ...` and `EXIT_STATUS`.
- `one_line(error)`: the message without the prefix, for whoever prints it elsewhere.
- `TRACEBACK`: set this environment variable to see where an error comes from.
"""

import functools
import os
import sys
from concurrent.futures.process import BrokenProcessPool

PREFIX = "error: "
EXIT_STATUS = 2  # argparse's own; 1 is what Python gives a crash
TRACEBACK = "SRFORMER_TRACEBACK"


class UserError(Exception):
    """Something that the user can mend. The message is one clear sentence with the remedy."""


class WrongVocabulary(UserError):
    """Files of subwords that are not there, damaged, or do not belong together."""


def one_line(error: BaseException) -> str:
    """What an error says, as a sentence: `FILE: No such file or directory` and not `[Errno 2] ...`."""
    if isinstance(error, OSError) and error.strerror:
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return f"{names}: {error.strerror}" if names else error.strerror
    if isinstance(error, BrokenProcessPool):
        return "a process died, perhaps for want of memory; try fewer --workers"
    return str(error) or type(error).__name__


def wants_traceback() -> bool:
    """Whether a developer asked for tracebacks with the environment variable `TRACEBACK`."""
    return bool(os.environ.get(TRACEBACK))


def command(main):
    """Decorator of a command's `main(argv=None)`, which returns None or an exit status.

    A `UserError`, a file that cannot be read or written, or a worker process that died ends the command with one line
    on standard error and `EXIT_STATUS`; an interruption with 130. Any other exception is a fault of the program and
    keeps its traceback. A standard stream that the caller has closed is /dev/null.
    """

    @functools.wraps(main)
    def run(argv=None):
        _open_missing_streams()
        try:
            return main(argv) or 0
        except (UserError, OSError, BrokenProcessPool) as error:
            if wants_traceback():
                raise
            print(PREFIX + one_line(error), file=sys.stderr)
            return EXIT_STATUS
        except KeyboardInterrupt:
            print(PREFIX + "interrupted", file=sys.stderr)
            return 130

    return run


def _open_missing_streams():
    """Python has None for a standard stream that is closed, and the next file that is opened would have its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
