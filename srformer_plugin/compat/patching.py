"""How a mend takes the place of a function of fairseq."""

import functools


def wrap(owner, name, make_wrapper):
    """Replace ``owner.name`` by ``make_wrapper(original)``, once."""
    original = getattr(owner, name)
    if not hasattr(original, "srformer_original"):
        wrapper = functools.wraps(original)(make_wrapper(original))
        wrapper.srformer_original = original
        setattr(owner, name, wrapper)
