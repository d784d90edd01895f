"""What goes wrong is said, and what goes on is not."""

import contextlib
import logging

LOGGERS = ("fairseq", "hydra", "matplotlib", "srformer_plugin")


@contextlib.contextmanager
def warnings_only():
    """The loggers of fairseq, of this package and of what draws say what goes wrong and nothing else; they are left as
    they were."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
