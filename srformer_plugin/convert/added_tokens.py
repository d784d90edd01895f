"""The tokens that a user added to the tokenizer of a Hugging Face folder."""

from pathlib import Path

from data_prep.added_tokens import ADDED_TOKENS

from ..errors import ConfigurationError
from .weights import read_json


def added_tokens(folder: Path) -> dict[str, int]:
    """token -> id, from every file that may name them; the tokenizer's own special tokens are among them.

    Raises:
        ConfigurationError: a file is damaged, or two files or entries do not agree.
    """
    files = {name: folder / name for name in (ADDED_TOKENS, "tokenizer.json", "tokenizer_config.json")}
    content = {name: read_json(path) if path.is_file() else {} for name, path in files.items()}
    try:
        found = [(files[ADDED_TOKENS], token, int(number)) for token, number in content[ADDED_TOKENS].items()]
        entries = content["tokenizer.json"].get("added_tokens") or ()
        found += [(files["tokenizer.json"], entry["content"], int(entry["id"])) for entry in entries]
        entries = content["tokenizer_config.json"].get("added_tokens_decoder") or {}
        found += [(files["tokenizer_config.json"], e["content"], int(number)) for number, e in entries.items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"{folder} has damaged entries of added tokens in {', '.join(files)}") from error
    tokens, owner = {}, {}
    for file, token, number in found:
        if tokens.setdefault(token, number) != number or owner.setdefault(number, token) != token:
            raise ConfigurationError(f"{file} gives the added token {token!r} the id {number}; another file disagrees")
    return tokens
