"""Write the fairseq dictionary of a SentencePiece model, with symbols that its text does not have.

    python -m srformer_plugin.tools.sentencepiece_dictionary MODEL OUT_DICT --add '<mark>' --add '<mask>'

For `fairseq-preprocess --srcdict OUT_DICT --joined-dictionary`, which then need not count words. It has every piece of
the model, whether or not the training split uses it, then the symbols, then unused words up to a multiple of eight,
as fairseq-preprocess has them. A T5 tokenizer's ids are `srformer_plugin.tools.t5_dictionary`'s.
"""

import argparse
import os
import sys
from pathlib import Path

import sentencepiece
from fairseq.data import Dictionary

from data_prep.errors import command
from data_prep.whole import refuse_to_replace, whole_file

from ..errors import ConfigurationError

MULTIPLE = 8


def sentencepiece_dictionary(model: str | os.PathLike, symbols=()) -> Dictionary:
    """The dictionary of a SentencePiece model.

    Raises:
        ConfigurationError: it is not a SentencePiece model, or has a piece that fairseq's files cannot hold, or one of
            the `symbols`.
    """
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.Load(str(model))
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(f"{model} is not a SentencePiece model: {error}") from error
    numbers = [
        number for number in range(len(processor)) if not (processor.IsControl(number) or processor.IsUnknown(number))
    ]
    dictionary = Dictionary()
    for word in [*map(processor.IdToPiece, numbers), *symbols]:
        if word.split() != [word]:
            raise ConfigurationError(f"{word!r} has white space in it, at which fairseq splits encoded text")
        if word in dictionary:
            raise ConfigurationError(f"{word!r} is in {model} already, or one of fairseq's own symbols")
        dictionary.add_symbol(word)
    dictionary.pad_to_multiple_(MULTIPLE)
    return dictionary


@command
def main(argv=None):
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m srformer_plugin.tools.sentencepiece_dictionary", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("model", type=Path, help="SentencePiece model")
    parser.add_argument("out", type=Path, metavar="out_dict", help="dictionary to write")
    parser.add_argument("--add", action="append", default=[], metavar="SYMBOL", help="one more symbol; may be repeated")
    args = parser.parse_args(argv)
    refuse_to_replace("out_dict", args.out, [args.model])
    dictionary = sentencepiece_dictionary(args.model, args.add)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(args.out) as file:
        dictionary.save(file)
    print(f"{args.out}: {len(dictionary):,} words")


if __name__ == "__main__":
    sys.exit(main())
