"""Dictionaries that an editor has saved."""

from fairseq.data import Dictionary

from .patching import wrap


def skip_byte_order_mark():
    """Read a dictionary that begins with a byte order mark as if it did not.

    ``data/dictionary.py:238`` opens it as "utf-8", so that the mark becomes part of the first word: that word is
    ``<unk>`` in every text. Not needed when fairseq opens it as "utf-8-sig".
    """
    wrap(Dictionary, "_load_meta", _without_mark)


def _without_mark(original):
    def load_meta(self, lines):
        if lines:
            lines[0] = lines[0].removeprefix("\ufeff")
        return original(self, lines)

    return load_meta
