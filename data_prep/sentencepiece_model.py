"""SentencePiece models: `train` one on line files, `load` one to encode with."""

import re
import sys
from functools import partial
from itertools import chain, islice
from pathlib import Path

import sentencepiece

from data_prep.added_tokens import ADDED_TOKENS, keeping, read_added_tokens
from data_prep.errors import WrongVocabulary
from data_prep.line_files import lines_of

WORDS_AT_ONCE, LETTERS_AT_ONCE = 100, 1000
# Training holds its text in memory: of a larger corpus every n-th piece is used. 50 million words, some 300 MB.
MAX_TRAINING_TEXTS = 500_000
SENTINEL = re.compile(r"<extra_id_\d+>")


def train(files, path, vocabulary, symbols=(), fold_case=False):
    """Train a unigram model on the lines of `files` and write it to `path`; returns its number of subwords.

    These are `vocabulary`, or as many as the text is enough for. fairseq's dictionary brings its own special symbols,
    so the model has none but the unknown subword. `symbols` become one subword each wherever they stand. With
    `fold_case` capital letters become small ones.

    Raises:
        WrongVocabulary: fewer subwords than different characters; or no text.
    """
    # Given files, SentencePiece leaves out every line of more than 4,192 bytes, which is most articles.
    count = sum(1 for _ in short_texts(files))
    if not count:
        raise WrongVocabulary(f"{', '.join(map(str, files))}: no text to train SentencePiece on")
    stride = -(-count // MAX_TRAINING_TEXTS)

    def run(**options):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=islice(short_texts(files), 0, None, stride),
            model_prefix=str(Path(path).with_suffix("")),
            vocab_size=vocabulary,
            character_coverage=1.0,
            bos_id=-1,
            eos_id=-1,
            unk_id=0,
            user_defined_symbols=list(symbols),
            max_sentence_length=2**30,
            normalization_rule_name="nmt_nfkc_cf" if fold_case else "nmt_nfkc",
            minloglevel=2,
            **options,
        )

    try:
        try:
            run()
        except RuntimeError as error:
            if "too high" not in str(error):
                raise
            run(hard_vocab_limit=False)
    except RuntimeError as error:
        needed = re.search(r"required_chars\. \d+ vs (\d+)", str(error))
        if needed is None:
            reason = str(error).rpartition("] ")[2].strip() or str(error)
            raise WrongVocabulary(f"SentencePiece cannot be trained: {reason}") from error
        raise WrongVocabulary(
            f"--vocabulary {vocabulary:,} is too small: the different characters of the text and the special pieces "
            f"are {int(needed.group(1)):,} subwords already; give at least that many"
        ) from error
    Path(path).with_suffix(".vocab").unlink()  # the model's pieces once more, as text
    size = sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size()
    if size < vocabulary:
        print(f"note: the text is enough for {size:,} subwords, not {vocabulary:,}", file=sys.stderr)
    return size


def short_texts(files):
    """Yield the texts of `files`, a line each, in pieces of at most `WORDS_AT_ONCE` words and `LETTERS_AT_ONCE`
    characters. The latter are for texts without spaces, and for what is no word: SentencePiece takes minutes for one
    text that repeats itself over 200,000 characters.
    """
    for file in files:
        for line in lines_of(file):
            words, letters = [], 0
            for word in chain.from_iterable(map(_parts, line.split())):
                if len(words) == WORDS_AT_ONCE or letters + len(word) > LETTERS_AT_ONCE:
                    yield " ".join(words)
                    words, letters = [], 0
                words.append(word)
                letters += len(word) + 1
            if words:
                yield " ".join(words)


def _parts(word):
    return (word[start : start + LETTERS_AT_ONCE] for start in range(0, len(word), LETTERS_AT_ONCE))


def load(path):
    """The function text -> list of pieces of a model.

    The tokens that `added_tokens.json` beside the model names, as a Hugging Face folder has them, stay whole. T5's
    sentinels are no text.

    Raises:
        WrongVocabulary: `path` is no SentencePiece model, or the file of added tokens is damaged.
    """
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.Load(str(path))
    except (OSError, RuntimeError) as error:
        raise WrongVocabulary(f"{path} is no SentencePiece model, or damaged") from error
    encode = partial(processor.encode, out_type=str)
    added = read_added_tokens(Path(path).with_name(ADDED_TOKENS))
    return keeping({token: token for token in added if not SENTINEL.fullmatch(token)}, encode)
