"""fairseq's dictionary of a BART tokenizer, and GPT-2's two BPE files.

Hugging Face's ids are fairseq's: <s> 0, <pad> 1, </s> 2, <unk> 3, then the lines of dict.txt. What differs is what a
line says: fairseq names a token by its GPT-2 id ("13"), Hugging Face by its characters ("."). The GPT-2 id follows from
the merges: the 256 bytes come first, in the order of GPT-2's table, then one token per merge, then <|endoftext|>.
Tokens that a user added to the tokenizer get the numbers after that, so that `--bpe gpt2` decodes them and
`data_prep.encode` keeps them whole.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from data_prep.gpt2_bpe import END_OF_TEXT, byte_characters
from data_prep.text import SIDES, read_lines

from ..errors import ConfigurationError
from .added_tokens import added_tokens
from .weights import read_json

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
FAIRSEQS_OWN = (*SPECIAL_TOKENS, "<mask>")  # fairseq knows them by name


@dataclass(frozen=True)
class Tokenizer:
    """tokens: in the order of their ids; merges: "a b" in the order of their rank; added: those of `tokens` that a user
    added to the vocabulary."""

    tokens: list[str]
    merges: list[str]
    added: list[str]


def read_tokenizer(folder: Path) -> Tokenizer:
    """The byte-level BPE of a Hugging Face folder: vocab.json and merges.txt, or tokenizer.json.

    Raises:
        ConfigurationError: neither is there, or it is damaged or not a BART tokenizer.
    """
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        file, ids = folder / "vocab.json", read_json(folder / "vocab.json")
        lines = read_lines(folder / "merges.txt")
        merges = [line for line in lines if line and not line.startswith("#version")]
    elif (folder / "tokenizer.json").is_file():
        file = folder / "tokenizer.json"
        ids, merges = _vocabulary_and_merges(file)
    else:
        raise ConfigurationError(
            f"{folder} has no tokenizer (vocab.json with merges.txt, or tokenizer.json), which the dictionaries are "
            "made of"
        )
    if not all(isinstance(number, int) for number in ids.values()):
        raise ConfigurationError(f"{file} is damaged: an id of a token is no whole number")
    added = {token: number for token, number in added_tokens(folder).items() if token not in ids}
    ids = {**ids, **added}
    tokens = sorted(ids, key=ids.get)
    if sorted(ids.values()) != list(range(len(ids))):
        raise ConfigurationError(f"the token ids in {folder} have gaps or repeat")
    if tuple(tokens[: len(SPECIAL_TOKENS)]) != SPECIAL_TOKENS:
        raise ConfigurationError(
            f"the tokenizer in {folder} begins with {tokens[: len(SPECIAL_TOKENS)]}, BART's with {list(SPECIAL_TOKENS)}"
        )
    return Tokenizer(tokens, merges, [token for token in tokens if token in added and token not in FAIRSEQS_OWN])


def _vocabulary_and_merges(file: Path) -> tuple[dict, list[str]]:
    """token -> id, and "a b" in the order of their rank, of a tokenizer.json."""
    model = read_json(file).get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kind != "BPE":
        raise ConfigurationError(f"{file} is a {kind} tokenizer; BART's is BPE")
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if isinstance(vocabulary, dict) and isinstance(merges, list):
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
        if all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair) for pair in pairs):
            return vocabulary, [" ".join(pair) for pair in pairs]
    raise ConfigurationError(f"{file} is damaged: a BPE has a vocab, token to id, and merges, pairs of tokens")


def spelled(token: str) -> str:
    """A text in the characters that stand for its bytes in encoder.json."""
    characters = byte_characters()
    return "".join(characters[byte] for byte in token.encode())


def gpt2_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Token -> id as in GPT-2's encoder.json, then the added ones."""
    merged = (merge.replace(" ", "") for merge in tokenizer.merges)
    tokens = [*byte_characters().values(), *merged, END_OF_TEXT, *map(spelled, tokenizer.added)]
    return {token: number for number, token in enumerate(tokens)}


def fairseq_names(tokenizer: Tokenizer) -> dict[str, str]:
    """Token -> what fairseq's dictionary calls it: the number in encoder.json, or the token itself."""
    ids = gpt2_ids(tokenizer)
    ids |= {token: ids[spelled(token)] for token in tokenizer.added}
    return {token: str(ids.get(token, token)) for token in tokenizer.tokens}


def symbols(tokenizer: Tokenizer, rows: int) -> list[str]:
    """The lines of dict.txt: what fairseq calls the tokens from id 4 on, one for each of the embedding's `rows`.

    Rows past the last token get names that no text contains. A last <mask> may be without a row.

    Raises:
        ConfigurationError: fewer rows than tokens, or a token that a dictionary cannot hold.
    """
    tokens = tokenizer.tokens
    if len(tokens) == rows + 1 and tokens[-1] == "<mask>":  # facebook/bart-large-cnn
        tokens = tokens[:-1]
    if len(tokens) > rows:
        raise ConfigurationError(f"the tokenizer has {len(tokens)} tokens, but the embedding has only {rows} rows")
    called = fairseq_names(tokenizer)
    names = [called[token] for token in tokens[len(SPECIAL_TOKENS) :]]
    taken, number = set(names), 0
    for name in names:
        if not name or any(character.isspace() for character in name):
            raise ConfigurationError(f"fairseq's dictionary cannot hold the token {name!r}")
    if len(taken) != len(names):
        raise ConfigurationError("two tokens of the tokenizer have the same name in fairseq's dictionary")
    while len(names) < rows - len(SPECIAL_TOKENS):
        name = f"madeupword{number:04d}"
        number += 1
        if name not in taken:
            names.append(name)
    return names


def write_dictionaries(folder: Path, names: list[str]):
    """dict.source.txt and dict.target.txt, the same."""
    text = "".join(f"{name} 0\n" for name in names)
    for side in SIDES:
        (folder / f"dict.{side}.txt").write_text(text, encoding="utf-8")


def write_gpt2_files(folder: Path, tokenizer: Tokenizer):
    """encoder.json and vocab.bpe, for ``--bpe gpt2 --gpt2-encoder-json ... --gpt2-vocab-bpe ...``."""
    (folder / "encoder.json").write_text(json.dumps(gpt2_ids(tokenizer)), encoding="utf-8")
    lines = ["#version: 0.2", *tokenizer.merges, ""]
    (folder / "vocab.bpe").write_text("\n".join(lines), encoding="utf-8")
