"""How a mend takes the place of a function of fairseq."""

import functools
import sys


def wrap(owner, name, make_wrapper):
    """Replace ``owner.name`` by ``make_wrapper(original)``, once for every ``make_wrapper``.

    ``owner.name.srformer_original`` is fairseq's own, whatever the number of mends around it.
    """
    current = getattr(owner, name)
    mends = getattr(current, "srformer_mends", ())
    mend = make_wrapper.__qualname__
    if mend not in mends:
        wrapper = functools.wraps(current)(make_wrapper(current))
        wrapper.srformer_original = getattr(current, "srformer_original", current)
        wrapper.srformer_mends = (*mends, mend)
        setattr(owner, name, wrapper)


def wrap_of_command(module, name, make_wrapper):
    """As `wrap`, of a command's module; of the copy too that ``python -m`` runs as ``__main__``."""
    wrap(module, name, make_wrapper)
    script = sys.modules["__main__"]
    if getattr(script, "__spec__", None) and script.__spec__.name == module.__name__:
        wrap(script, name, make_wrapper)
