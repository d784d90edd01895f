"""Write the fairseq dictionary of a T5 tokenizer.

    python -m srformer_plugin.tools.t5_dictionary SPIECE_MODEL OUT_DICT

With it, stock fairseq works on T5's own SentencePiece model: encode text with it (`--bpe sentencepiece` in
fairseq-interactive and fairseq-generate), then `fairseq-preprocess --srcdict OUT_DICT --joined-dictionary` and
`--task translation`. The ids are T5's plus one (`t5_row_of_fairseq_id` says why and what it does to the embeddings):

    fairseq            0     1       2      3       4 ...            ... then         ... up to the embedding's rows
    token              <s>   <pad>   </s>   <unk>   T5's pieces      <extra_id_99> to <extra_id_0>   madeupwordNNNN

The sentinels `<extra_id_N>` are in the dictionary, in T5's order, and not in the SentencePiece model: they stand for
themselves in encoded text, but `--bpe sentencepiece` does not find them in raw text.
"""

import argparse
import os
import sys
from pathlib import Path

import sentencepiece
from fairseq.data import Dictionary

from ..errors import ConfigurationError
from ..models.t5_names import t5_row_of_fairseq_id

__all__ = ["t5_dictionary", "t5_row_of_fairseq_id"]

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


def main(arguments=None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m srformer_plugin.tools.t5_dictionary", description=__doc__.splitlines()[0]
    )
    parser.add_argument("spiece_model", help="SentencePiece model of the T5 tokenizer")
    parser.add_argument("out_dict", help="dictionary to write")
    parser.add_argument("--rows", type=int, help="rows of the model's embedding (default: 32,128 for T5's tokenizer)")
    options = parser.parse_args(arguments)
    try:
        dictionary = t5_dictionary(options.spiece_model, options.rows)
    except ConfigurationError as error:
        sys.exit(f"error: {error}")
    out = Path(options.out_dict)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        dictionary.save(str(unfinished))
        os.replace(unfinished, out)
    finally:
        unfinished.unlink(missing_ok=True)
    print(f"{out}: {len(dictionary):,} tokens")


if __name__ == "__main__":
    main()
