"""What ends a run with a line instead of a traceback."""

from data_prep.errors import EXIT_STATUS, UserError


class BookError(UserError):
    """A run that is refused, or a stage that failed. The message says what to do.

    `status` is the exit status of the command line.
    """

    def __init__(self, message, status=EXIT_STATUS):
        super().__init__(message)
        self.status = status


class Interrupted(BookError):
    """SIGINT or SIGTERM ended the run."""

    def __init__(self, message):
        super().__init__(message, 130)
