"""Tokens that were added to a vocabulary of subwords: they stay whole wherever they stand in a text."""

import json
import re

from data_prep.errors import WrongVocabulary

ADDED_TOKENS = "added_tokens.json"  # Hugging Face's name, beside the vocabulary


def read_added_tokens(path):
    """`{token: id}` of the file `added_tokens.json`; empty where there is none. Raises WrongVocabulary."""
    if not path.is_file():
        return {}
    try:
        tokens = json.loads(path.read_bytes())
        if not all(isinstance(number, int) and token for token, number in tokens.items()):
            raise ValueError
    except (ValueError, AttributeError) as error:
        raise WrongVocabulary(f'{path} is damaged: it must hold an object {{"token": id, ...}}') from error
    return tokens


def keeping(added, encode):
    """`encode`, a function text -> list of pieces, with the tokens of `added`, `{token: piece}`, kept whole."""
    if not added:
        return encode
    # where one begins like another, the longer one is meant
    pattern = re.compile("(" + "|".join(map(re.escape, sorted(added, key=len, reverse=True))) + ")")

    def pieces(text):
        found = []
        for part in filter(None, pattern.split(text)):
            found += [added[part]] if part in added else encode(part)
        return found

    return pieces
