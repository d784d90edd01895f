"""Texts as a user brings them to fairseq-interactive."""

import contextlib
import sys

from fairseq_cli import interactive

from data_prep.text import binary_lines

from ..errors import ConfigurationError
from .patching import wrap_of_command


def read_texts_as_other_commands_do():
    """Read UTF-8 whatever the locale, without its byte order mark, and name the line that is none.

    ``fairseq_cli/interactive.py:40`` leaves the mark in the first word, which is unknown then, and ends in a traceback
    at a byte that is not UTF-8. Not needed when ``fairseq-interactive --input`` does neither.
    """

    def make_wrapper(original):
        def buffered_read(input, buffer_size):
            buffer = []
            for line in _lines(input):
                buffer.append(line.strip())
                if len(buffer) >= buffer_size:
                    yield buffer
                    buffer = []
            if buffer:
                yield buffer

        return buffered_read

    wrap_of_command(interactive, "buffered_read", make_wrapper)


def _lines(name):
    """The lines of a file; "-" is standard input, whose lines come as they are written."""
    with contextlib.ExitStack() as stack:
        file = sys.stdin.buffer if name == "-" else stack.enter_context(open(name, "rb"))
        for number, line in enumerate(binary_lines(file), 1):
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                shown = "standard input" if name == "-" else name
                raise ConfigurationError(f"{shown}:{number} is not UTF-8 text") from error
            yield text
