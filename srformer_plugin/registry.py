"""Named, exchangeable parts (schedules, memories, backends): one dictionary each, one line to add to it."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from .errors import ConfigurationError

Part = TypeVar("Part")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one was probably meant to be; None: none is near."""
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)


def choose(parts: Mapping[str, Part], name: str, flag: str) -> Part:
    """Return `parts[name]`; an unknown name is a ConfigurationError that lists the known ones."""
    if name not in parts:
        raise ConfigurationError(f"{flag} {name!r} is unknown; choose one of: {', '.join(sorted(parts))}")
    return parts[name]
