"""SRformer for fairseq: what ``--user-dir`` points at.

Importing this package mends what stock fairseq gets wrong on today's Python, PyTorch and NumPy
(:mod:`srformer_plugin.compat`) and registers models, criterion, optimizer, scorer and task, and does nothing else.
`srformer_plugin.summarize` is imported when it is first asked for.
"""

import importlib
import os

# Read when PyTorch loads OpenMP. Threads that spin while they wait keep those that they wait for from a core where
# other programs want it: a tiny model's summary of 60,000 words took 8 to 46 s on two shared cores, and 6 to 8 so.
# fairseq's commands load PyTorch before this, and are as they were.
_choose = "OMP_WAIT_POLICY" not in os.environ
if _choose:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

from . import compat  # noqa: E402 (loads PyTorch)
from .version import __version__  # noqa: E402, F401

compat.apply()

if _choose:  # it has been read; other programs that are started from here choose for themselves
    del os.environ["OMP_WAIT_POLICY"]

from .criterions import fused_label_smoothed_cross_entropy  # noqa: E402, F401 (registers --criterion of this name)
from .models import srformer_bart, srformer_led, srformer_t5  # noqa: E402, F401 (register; after the mends, which they rely on)
from .optim import foreach_adafactor, fused_adam  # noqa: E402, F401 (register --optimizer of these names)
from .scoring import fairseq_scorer  # noqa: E402, F401 (registers --scoring rouge)
from .tasks import summarization  # noqa: E402, F401 (registers --task summarization)


def __getattr__(name):
    """`srformer_plugin.summarize(texts, model=...)` without an import of the subpackage."""
    if name == "summarize":
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
