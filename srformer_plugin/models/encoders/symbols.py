"""Symbols of the source dictionary that an encoder goes by."""

from ...errors import ConfigurationError


def index_of(symbol: str | None, dictionary, flag: str, remedy: str) -> int | None:
    """The number of a symbol that must be in the dictionary; None of None.

    Args:
        flag, remedy: what the symbol was given by, and what it can be, for an error.
    """
    if symbol is None:
        return None
    if symbol not in dictionary:
        raise ConfigurationError(f"{flag} {symbol!r} is not in the source dictionary: use {remedy}")
    return dictionary.index(symbol)
