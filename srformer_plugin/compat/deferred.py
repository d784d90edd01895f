"""Packages that fairseq imports and hardly ever uses are imported when they are used.

Where this package is imported before fairseq, as srformer-summarize and its like do. fairseq's
`tasks/audio_classification.py:19` and `criterions/sentence_prediction.py:13` import scikit-learn and SciPy for metrics
of classifiers, which is a third of the time until a program starts. Not needed when ``import fairseq`` imports neither.
"""

import builtins
import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator

from . import quiet  # noqa: F401 (before fairseq is imported)

WHO = ("fairseq.tasks.audio_classification", "fairseq.criterions.sentence_prediction")
WHAT = ("sklearn", "scipy")


class _Later(types.ModuleType):
    """Stands for a package in one of fairseq's files; its functions import it when they are called."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **kwargs):
            return getattr(importlib.import_module(self.__name__), name)(*args, **kwargs)

        return call


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within this, the packages are not imported where fairseq's two files say so; anywhere else they are."""
    original = builtins.__import__

    def __import__(name, globals=None, locals=None, fromlist=(), level=0):
        package = name.partition(".")[0]
        asks = fromlist and globals and globals.get("__name__") in WHO and package in WHAT
        if asks and importlib.util.find_spec(package) is not None:  # a missing one is an error here and now
            module = _Later(name)
            if name == "sklearn":  # from sklearn import metrics
                module.metrics = _Later("sklearn.metrics")
            return module
        return original(name, globals, locals, fromlist, level)

    builtins.__import__ = __import__
    try:
        yield
    finally:
        builtins.__import__ = original


if "fairseq" not in sys.modules:
    with deferred():
        import fairseq  # noqa: F401
