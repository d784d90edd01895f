"""fairseq's commands in this process, which spares seconds of imports."""

import io
import logging
import sys

import pytest
from fairseq import checkpoint_utils
from fairseq_cli import validate as fairseq_validate


def here(tool, *arguments):
    """Run a tool of fairseq in this process, which spares seconds of imports; returns what it logged.

    Data are loaded in the process as well, unless --num-workers is given.
    """
    if "--num-workers" not in arguments:
        arguments = (*arguments, "--num-workers", 0)
    vars(checkpoint_utils.save_checkpoint).pop("best", None)  # the best score of the process, from another training
    stream, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(stream), root.level
    handler.setFormatter(logging.Formatter("%(name)s | %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SRFORMER_TRACEBACK", "1")  # errors as exceptions
            patch.setattr(sys, "argv", ["fairseq", *map(str, arguments)])
            patch.setattr(fairseq_validate, "reset_logging", lambda: None)  # would remove every handler, pytest's too
            tool.cli_main()
    finally:
        vars(checkpoint_utils.save_checkpoint).pop("best", None)
        root.removeHandler(handler)
        root.setLevel(level)
    return stream.getvalue()
