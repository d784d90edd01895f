"""Records of the books."""

import json


def read_json(path):
    """The value in a file, or None if it is not there or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
