"""Texts of any length to summaries, with a model that is there: ``srformer-summarize``, and from Python

    import srformer_plugin
    srformer_plugin.summarize(["A long text ..."], model="bart-large-cnn-hf")

    model = srformer_plugin.summarize.load("bart-large-cnn-hf", device="cuda")
    model.summarize(["A long text ..."], beam=6)

The package can be called: that is `summarize`. Nothing heavy is imported before it is needed.
"""

import sys
from types import ModuleType


def load(folder, **options):
    """A model of a checkpoint folder of fairseq's or a Hugging Face folder; arguments and errors: `model.load`."""
    from ..quiet import warnings_only

    with warnings_only():  # fairseq logs what it imports and builds
        from .model import load

        return load(folder, **options)


def summarize(texts, model, **options):
    """Summaries of texts, in their order.

    Args:
        texts: list of str; or one str, whose summary is returned as one.
        model: what `load` returned; or a folder, which is loaded for this call.
        options: of `Model.summarize`: beam, lenpen, min_len, max_len, no_repeat_ngram_size, max_tokens.
    Raises:
        ConfigurationError: a folder that holds no such model, an empty text, a setting that cannot work.
    """
    if not hasattr(model, "summarize"):
        model = load(model)
    return model.summarize(texts, **options)


class _Callable(ModuleType):
    """`srformer_plugin.summarize(...)`, where `srformer_plugin.summarize` is also the package."""

    def __call__(self, texts, model, **options):
        return summarize(texts, model, **options)


sys.modules[__name__].__class__ = _Callable
