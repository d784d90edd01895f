"""The fairseq dictionary of a T5 tokenizer."""

import os
from pathlib import Path

import sentencepiece
from fairseq.data import Dictionary

from ..errors import ConfigurationError

FIRST_PIECE = 3  # after <pad>, </s> and <unk>
NUM_SENTINELS = 100
# T5's vocabulary of 32,100 tokens has an embedding of 32,128 rows.
ROWS_MULTIPLE = 128


def read_pieces(spiece_model: str | os.PathLike) -> list[str]:
    """T5's tokens from id 3 on: the pieces of its SentencePiece model, then the sentinels.

    Raises:
        ConfigurationError: it is not a SentencePiece model, or not T5's kind of one.
    """
    if not Path(spiece_model).is_file():
        raise ConfigurationError(f"{spiece_model} is not a file; a T5 tokenizer's is called spiece.model")
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.Load(str(spiece_model))
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(f"{spiece_model} is not a SentencePiece model: {error}") from error
    special = {name: getattr(processor, f"{name}_id")() for name in ("pad", "eos", "unk", "bos")}
    if special != {"pad": 0, "eos": 1, "unk": 2, "bos": -1}:
        raise ConfigurationError(
            f"{spiece_model} is not a T5 tokenizer: its special ids are {special}, T5's pad 0, eos 1, unk 2 and no bos"
        )
    pieces = [processor.IdToPiece(number) for number in range(FIRST_PIECE, len(processor))]
    return pieces + [f"<extra_id_{number}>" for number in reversed(range(NUM_SENTINELS))]


def t5_dictionary(spiece_model: str | os.PathLike, rows: int | None = None, added: dict | None = None) -> Dictionary:
    """The dictionary of a SentencePiece model with T5's special ids (pad 0, eos 1, unk 2, no bos).

    Args:
        spiece_model: path of the `spiece.model`.
        rows: rows of the model's embedding, which the dictionary will have entries (default: the next multiple
            of 128 above pieces and sentinels, which for T5 gives 32,128).
        added: T5's id -> token, for tokens that were added to the vocabulary.
    Raises:
        ConfigurationError: as `read_pieces`; or the rows do not hold the tokens, or fairseq cannot.
    """
    pieces = read_pieces(spiece_model)
    tokens = len(pieces) + FIRST_PIECE
    rows = rows or (tokens // ROWS_MULTIPLE + 1) * ROWS_MULTIPLE
    names = dict(enumerate(pieces, FIRST_PIECE))
    for number, token in (added or {}).items():
        if names.setdefault(number, token) != token:
            raise ConfigurationError(f"the added token {token!r} has the id {number}, which is that of {names[number]}")
    if rows <= max(names) + 1:
        raise ConfigurationError(
            f"--rows {rows} must be above the {max(names) + 1:,} tokens, since the last row becomes fairseq's <s>"
        )
    dictionary = Dictionary()
    unused = 0
    # the last row is that of <s>
    for number in range(FIRST_PIECE, rows - 1):
        piece = names.get(number)
        if piece is None:
            dictionary.add_symbol(f"madeupword{unused:04d}", n=0)
            unused += 1
            continue
        if piece.split() != [piece]:  # fairseq splits encoded text at white space
            raise ConfigurationError(f"{spiece_model} has a piece with white space in it: {piece!r}")
        if piece in dictionary:
            raise ConfigurationError(f"{spiece_model} has the piece {piece!r} more than once, or as a special token")
        dictionary.add_symbol(piece)
    return dictionary
