"""Line files as SentencePiece subwords: trains a model on the training split and encodes every split with it."""

import argparse
import sys
from itertools import islice
from pathlib import Path

import sentencepiece
from tqdm import tqdm

from data_prep.text import SIDES, SPLITS

WORDS_AT_ONCE = 100
# Training holds its text in memory: of a larger corpus every n-th piece is used. 50 million words, some 300 MB.
MAX_TRAINING_TEXTS = 500_000


def train_model(files, prefix, vocabulary, symbols=(), fold_case=False):
    """Train a unigram model of ``vocabulary`` subwords on text ``files``; writes ``<prefix>.model`` and ``.vocab``.

    fairseq's dictionary brings its own special symbols, so the model has none but the unknown subword. ``symbols``
    become one subword each wherever they stand. With ``fold_case`` capital letters become small ones.
    """
    # Given files, SentencePiece leaves out every line of more than 4,192 bytes, which is most articles.
    count = sum(1 for _ in short_texts(files))
    stride = -(-count // MAX_TRAINING_TEXTS) or 1
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=islice(short_texts(files), 0, None, stride),
        model_prefix=str(prefix),
        vocab_size=vocabulary,
        character_coverage=1.0,
        bos_id=-1,
        eos_id=-1,
        unk_id=0,
        user_defined_symbols=list(symbols),
        max_sentence_length=2**30,
        normalization_rule_name="nmt_nfkc_cf" if fold_case else "nmt_nfkc",
        minloglevel=1,
    )


def short_texts(files):
    """Yield the texts of ``files``, a line each, in pieces of at most ``WORDS_AT_ONCE`` words."""
    for file in files:
        with open(file, encoding="utf-8", newline="\n") as lines:
            for line in lines:
                words = line.split()
                for start in range(0, len(words), WORDS_AT_ONCE):
                    yield " ".join(words[start : start + WORDS_AT_ONCE])


def encode_file(processor, raw, encoded):
    """Write the lines of ``raw`` to ``encoded`` as subwords with a space between; returns the number of lines."""
    with open(raw, encoding="utf-8", newline="\n") as lines, open(encoded, "w", encoding="utf-8") as out:
        count = 0
        for line in tqdm(lines, desc=Path(raw).name, unit="line", mininterval=1):
            out.write(" ".join(processor.encode(line.rstrip("\n"), out_type=str)) + "\n")
            count += 1
    return count


def main(argv=None):
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.sentencepiece_lines",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder with {train,valid,test}.{source,target}")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and the encoded files")
    parser.add_argument("--vocabulary", type=int, default=4000, help="subwords")
    parser.add_argument("--fold-case", action="store_true", help="capital letters become small ones")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    prefix = args.out / "sentencepiece"
    train_model([args.corpus / f"train.{side}" for side in SIDES], prefix, args.vocabulary, fold_case=args.fold_case)
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    for split in SPLITS:
        for side in SIDES:
            encode_file(processor, args.corpus / f"{split}.{side}", args.out / f"{split}.{side}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
