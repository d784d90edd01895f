"""What ends a run with a line instead of a traceback."""

from data_prep.errors import EXIT_STATUS, UserError


class BookError(UserError):
    """A run that is refused, or a stage that failed. The message says what to do.

    `status` is the exit status of the command line; `log` is the path of what a failed stage printed, else None.
    """

    def __init__(self, message, status=EXIT_STATUS, log=None):
        super().__init__(message)
        self.status, self.log = status, log


class Interrupted(BookError):
    """SIGINT or SIGTERM ended the run."""

    def __init__(self, message):
        super().__init__(message, 130)
