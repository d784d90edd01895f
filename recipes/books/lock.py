"""One run at a time in a folder."""

import fcntl
import os

from recipes.books.errors import BookError


class Lock:
    """An exclusive lock on a file, held by this process and by every process that inherits its descriptor.

    So what a killed run has left at work keeps others out. The file is never removed: two runs that hold the locks of
    two files of one name would not see each other.
    """

    def __init__(self, path):
        self.path, self.descriptor = path, None

    def take(self, create=True):
        """Take it, once; nothing if there is no such file and ``create`` is not set.

        Raises:
            BookError: another process holds it.
        """
        if self.descriptor is not None:
            return
        if create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        elif not self.path.exists():
            return
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            folder = self.path.parent.parent
            raise BookError(
                f"another run is at work in {folder}, or has left a process there (fuser {self.path})"
            ) from error
        self.descriptor = descriptor

    def release(self):
        """Give it back, as far as this process is concerned."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
