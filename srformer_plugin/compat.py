"""Mends for stock fairseq (being written)."""


def apply():
    """Apply every mend."""
