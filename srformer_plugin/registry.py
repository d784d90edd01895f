"""Named, exchangeable parts (schedules, memories, backends): one dictionary each, one line to add to it."""

from collections.abc import Mapping
from typing import TypeVar

from .errors import ConfigurationError

Part = TypeVar("Part")


def choose(parts: Mapping[str, Part], name: str, flag: str) -> Part:
    """Return `parts[name]`; an unknown name is a ConfigurationError that lists the known ones."""
    if name not in parts:
        raise ConfigurationError(f"{flag} {name!r} is unknown; choose one of: {', '.join(sorted(parts))}")
    return parts[name]
