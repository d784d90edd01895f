"""A file or a pipe that grows, and a summary of it again and again."""

import codecs
import contextlib
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from data_prep.errors import UserError

from .documents import STDIN

POLL = 0.2  # seconds between two looks at what is new
BLOCK = 1 << 16  # bytes


def follow(
    parts: Iterable[str],
    stream,
    show: Callable[[], None],
    every: int,
    pause: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Append `parts` to a stream, and call `show` where a summary is due.

    That is after every `every` new words, when nothing has come for `pause` seconds after new words, and at the end.
    What comes at once has one summary, however long it is.

    Args:
        parts: text as it comes; "" says that nothing has come for a moment.
        stream: the `Stream`.
    """
    shown, last = 0, clock()
    for text in parts:
        if text:
            stream.append(text)
            last = clock()
        new = stream.words - shown
        if new >= every or (new and not text and clock() - last >= pause):
            shown = stream.words
            show()
    if stream.words > shown:
        show()


def growing(file: str, poll: float = POLL) -> Iterator[str]:
    """The text of a UTF-8 file as it comes, for `follow`: a pipe or "-" until it ends, any other file for ever.

    Raises:
        OSError: the file cannot be read.
        UserError: it is not UTF-8 text, has become shorter, or another file has taken its name.
    """
    name = "standard input" if file == STDIN else file
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    read = 0
    for data in _stdin(poll) if file == STDIN else _file(file, poll):
        try:
            yield decoder.decode(data or b"", final=data is None)
        except UnicodeDecodeError as error:
            at = read + error.start
            raise UserError(f"{name} is not UTF-8 text (near byte {at:,})") from error
        read += len(data or b"")


def _stdin(poll):
    return _pipe(sys.stdin.fileno(), poll)


def _file(path, poll):
    with open(path, "rb", buffering=0) as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            yield from _pipe(opened.fileno(), poll)
            return
        while True:
            data = opened.read(BLOCK)
            yield data
            if not data:
                read = os.fstat(opened.fileno())
                if read.st_size < opened.tell():
                    raise UserError(f"{path} has become shorter: start again to follow what it is now")
                with contextlib.suppress(FileNotFoundError):  # removed, or about to be replaced
                    if not os.path.samestat(read, os.stat(path)):
                        raise UserError(f"{path} has been replaced by another file: start again to follow that one")
                time.sleep(poll)


def _pipe(descriptor, poll):
    """Blocks of bytes, b"" where none has come for a moment, None at the end."""
    while True:
        ready, _, _ = select.select([descriptor], [], [], poll)
        data = os.read(descriptor, BLOCK) if ready else b""
        if ready and not data:
            yield None
            return
        yield data
