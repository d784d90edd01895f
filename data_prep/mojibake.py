"""UTF-8 that was read as Latin-1 or Windows-1252 once, and written as UTF-8 again."""

import re

# The lead byte of a character, and as many bytes after it as it announces; Latin-1 has the C1 controls where
# Windows-1252 has quotation marks and the like.
_CONTINUATION = "[\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
_CONTINUATION += "\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]"
_CHARACTER = re.compile(
    f"[\u00c2-\u00df]{_CONTINUATION}|[\u00e0-\u00ef]{_CONTINUATION}{{2}}|[\u00f0-\u00f4]{_CONTINUATION}{{3}}"
)


def _byte(character):
    return character.encode("cp1252" if ord(character) > 255 else "latin-1")


def _mend(match):
    try:
        return b"".join(map(_byte, match.group())).decode()
    except UnicodeDecodeError:
        return match.group()


def mend(text):
    """`text` with every such character mended; what is not valid UTF-8 stays."""
    return _CHARACTER.sub(_mend, text)
