"""The fairseq dictionary of a T5 tokenizer."""

import os
from pathlib import Path

import sentencepiece
from fairseq.data import Dictionary

from ..errors import ConfigurationError

NUM_SENTINELS = 100
# T5's vocabulary of 32,100 tokens has an embedding of 32,128 rows.
ROWS_MULTIPLE = 128


def t5_dictionary(spiece_model: str | os.PathLike, rows: int | None = None) -> Dictionary:
    """The dictionary of a SentencePiece model with T5's special ids (pad 0, eos 1, unk 2, no bos).

    Args:
        spiece_model: path of the `spiece.model`.
        rows: rows of the model's embedding, which the dictionary will have entries (default: the next multiple
            of 128 above pieces and sentinels, which for T5 gives 32,128).
    Raises:
        ConfigurationError: it is not a SentencePiece model, not T5's kind of one, or the rows do not hold it.
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
    pieces = [processor.IdToPiece(number) for number in range(3, len(processor))]
    pieces += [f"<extra_id_{number}>" for number in reversed(range(NUM_SENTINELS))]
    tokens = len(pieces) + 3
    rows = rows or (tokens // ROWS_MULTIPLE + 1) * ROWS_MULTIPLE
    if rows <= tokens:
        raise ConfigurationError(
            f"--rows {rows} must be above the {tokens:,} tokens, since the last row becomes fairseq's <s>"
        )
    dictionary = Dictionary()
    for piece in pieces:
        if piece.split() != [piece]:  # fairseq splits encoded text at white space
            raise ConfigurationError(f"{spiece_model} has a piece with white space in it: {piece!r}")
        if piece in dictionary:
            raise ConfigurationError(f"{spiece_model} has the piece {piece!r} more than once, or as a special token")
        dictionary.add_symbol(piece)
    for number in range(rows - len(dictionary)):
        dictionary.add_symbol(f"madeupword{number:04d}", n=0)
    return dictionary
