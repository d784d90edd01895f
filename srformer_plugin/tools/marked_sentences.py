"""Copying examples for a model from scratch: find the marked sentences of a document, and write them down in order.

    python -m srformer_plugin.tools.marked_sentences DATA OUT --short-sources 64 160 --passes 8 --share 0.6

DATA is what fairseq-preprocess made of SentencePiece subwords, with a dictionary that has `<mark>` and `<mask>`
(`srformer_plugin.tools.sentencepiece_dictionary --add`). OUT/1, OUT/2, ... become such folders too, one for every pass
over the training data, with the same validation data. A pass has a pair for every training pair of DATA: with the
probability --share a copying example in its place, else the pair as it is. A few whole sentences of the source are
chosen, the first piece of each becomes `<mark>`, 20% of their other pieces and 8% of all others become `<mask>`, and
the target is the sentences as they were. Such pairs teach the decoder where to look, which summaries alone do not
within the first thousands of updates.

Where there is less to look at, copying is learned in fewer updates: with --short-sources the first passes, one for each
length given, are copying examples alone, of sources cut to that length, of which at most half is marked.

Every pass draws anew. fairseq-train takes one pass an epoch if it is given the folders with colons between:
`fairseq-train OUT/1:OUT/2:DATA` (its sharded data). The draws depend on --seed, the pass and the pair alone, not on
--workers.
"""

import argparse
import os
import shutil
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fairseq.data import Dictionary, data_utils, indexed_dataset

from data_prep.arguments import non_negative, positive, share, token_limit
from data_prep.errors import command
from data_prep.whole import new_folder, write_json

from ..errors import ConfigurationError

MARK, MASK = "<mark>", "<mask>"
WORD_START = "\u2581"  # SentencePiece's, before the first piece of a word
SHORTEST, LONGEST = 5, 70  # pieces of a sentence that may be chosen
MASKED_IN_MARKED, MASKED_ELSEWHERE = 0.2, 0.08
SUMMARY, COPYING, NO_SENTENCE = "summary", "copying", "summary for want of a sentence"


class Symbols(NamedTuple):
    """What the words of a dictionary are: boolean arrays over their ids, and three ids."""

    ends: np.ndarray  # nothing but ".", "!" or "?"
    starts: np.ndarray  # begins a word
    mark: int
    mask: int
    eos: int


def symbols_of(dictionary: Dictionary) -> Symbols:
    """The `Symbols` of a dictionary.

    Raises:
        ConfigurationError: it lacks `<mark>` or `<mask>`, or has no SentencePiece pieces.
    """
    words = dictionary.symbols
    if missing := [symbol for symbol in (MARK, MASK) if symbol not in dictionary]:
        raise ConfigurationError(
            f"the dictionary has no {missing[0]}: make it with srformer_plugin.tools.sentencepiece_dictionary "
            f"--add '{MARK}' --add '{MASK}'"
        )
    starts = np.array([word.startswith(WORD_START) for word in words])
    if not starts.any():
        raise ConfigurationError(f"the dictionary has no piece that begins with {WORD_START}: no SentencePiece pieces")
    ends = np.array([word != WORD_START and not word.removeprefix(WORD_START).strip(".!?") for word in words])
    return Symbols(ends, starts, dictionary.index(MARK), dictionary.index(MASK), dictionary.eos())


def sentences_of(tokens: np.ndarray, symbols: Symbols) -> np.ndarray:
    """The whole sentences of a text: rows `(start, end)`, for `tokens[start:end]`.

    A sentence ends with a piece of nothing but `.`, `!` or `?` behind which a word begins or the text ends. What is
    behind the last of them, as a cut source has it, is no whole sentence.

    Args:
        tokens: ids without the end of sentence, [pieces].
    """
    behind = np.append(symbols.starts[tokens[1:]], True) if len(tokens) else np.zeros(0, bool)
    ends = np.flatnonzero(symbols.ends[tokens] & behind) + 1
    return np.stack((np.append(0, ends)[: len(ends)], ends), axis=1)


def choose(sentences: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of `sentences` in random order for as long as the next one fits into `limit` pieces; in the text's order.

    Sentences of fewer than `SHORTEST` or more than `LONGEST` pieces are never chosen, nor those beyond `limit`.
    """
    lengths = sentences[:, 1] - sentences[:, 0]
    order = rng.permutation(np.flatnonzero((lengths >= SHORTEST) & (lengths <= min(LONGEST, limit))))
    fit = order[np.cumsum(lengths[order]) <= limit]
    return sentences[np.sort(fit)]


def copying_example(tokens: np.ndarray, limit: int, symbols: Symbols, rng: np.random.Generator):
    """`(source, target)`, two arrays of ids, or None if no sentence fits into `limit` pieces of target.

    The source is as long as `tokens`, [pieces]. None of the three has an end of sentence.
    """
    chosen = choose(sentences_of(tokens, symbols), limit, rng)
    if len(chosen) == 0:
        return None
    marked = np.zeros(len(tokens), bool)
    for start, end in chosen:
        marked[start:end] = True
    hidden = rng.random(len(tokens)) < np.where(marked, MASKED_IN_MARKED, MASKED_ELSEWHERE)
    source = np.where(hidden, symbols.mask, tokens)
    source[chosen[:, 0]] = symbols.mark
    return source, tokens[marked]


class Pass(NamedTuple):
    """What the pairs of a pass are."""

    share: float  # probability of a copying example
    limit: int  # pieces of a copied target at most, without the end of sentence
    cut: int | None = None  # pieces of a source that is copied from


def passes_of(count: int, share: float, limit: int, short_sources=()) -> list[Pass]:
    """The passes with short sources, then `count` others."""
    short = [Pass(1.0, min(limit, length // 2), length) for length in short_sources]
    return [*short, *[Pass(share, limit)] * count]


def example(source, target, key, kind, symbols):
    """`(source, target, what it is)` of a training pair in a pass; ids, [tokens], both with an end of sentence.

    Args:
        key: whole numbers that seed the draws.
        kind: the `Pass`.
    """
    rng = np.random.default_rng(key)
    if rng.random() >= kind.share:
        return source, target, SUMMARY
    copied = copying_example(source[:-1][: kind.cut], kind.limit, symbols, rng)
    if copied is None:
        return source, target, NO_SENTENCE
    return *(np.append(side, symbols.eos) for side in copied), COPYING


def write_pass(data: Path, out: Path, number: int, kind: Pass, seed: int) -> dict:
    """Write pass `number` over the training pairs of folder `data` to folder `out`; returns what it holds, counted.

    `out` is complete when it is there: an interrupted run begins anew.
    """
    dictionary = Dictionary.load(str(data / "dict.source.txt"))
    symbols = symbols_of(dictionary)
    sides = [_load(data / f"train.source-target.{side}", dictionary) for side in ("source", "target")]
    earlier = set(os.listdir(out)) if out.is_dir() else set()
    with new_folder(out, replaceable=earlier) as partial:
        return _write_pass(data, partial, dictionary, symbols, sides, (seed, number), kind)


def _write_pass(data, out, dictionary, symbols, sides, seed, kind):
    for path in data.iterdir():
        if path.name.startswith(("dict.", "valid.")):
            shutil.copy(path, out / path.name)
    prefixes = [str(out / f"train.source-target.{side}") for side in ("source", "target")]
    builders = [
        indexed_dataset.make_builder(f"{prefix}.bin", "mmap", vocab_size=len(dictionary)) for prefix in prefixes
    ]
    counts = Counter()
    for pair, (source, target) in enumerate(zip(*sides)):
        *made, what = example(source.numpy(), target.numpy(), (*seed, pair), kind, symbols)
        counts[what] += 1
        for builder, side in zip(builders, made):
            builder.add_item(torch.from_numpy(side))
    for builder, prefix in zip(builders, prefixes):
        builder.finalize(f"{prefix}.idx")
    return dict(sorted(counts.items()))


def mark(data: Path, out: Path, passes: list[Pass], seed: int, workers: int = 1) -> dict:
    """Write OUT/1, OUT/2, ... for the `passes`, and counts.json; returns the counts, `{pass: {what: pairs}}`.

    Raises:
        ConfigurationError: `data` is not such a folder, or has no sentence to copy.
    """
    try:
        dictionary = Dictionary.load(str(data / "dict.source.txt"))
        for side in ("source", "target"):
            _load(data / f"train.source-target.{side}", dictionary)
    except OSError as error:
        raise ConfigurationError(
            f"{data} has no training data of source-target: make it with fairseq-preprocess ({error})"
        ) from error
    if (data / "dict.source.txt").read_bytes() != (data / "dict.target.txt").read_bytes():
        raise ConfigurationError(f"{data} has two dictionaries: use fairseq-preprocess with --joined-dictionary")
    symbols_of(dictionary)
    work = [(data, out / str(number), number, kind, seed) for number, kind in enumerate(passes, 1)]
    if workers == 1 or len(work) == 1:
        found = [write_pass(*one) for one in work]
    else:  # spawn: a forked child of a process with threads may hang
        with ProcessPoolExecutor(min(workers, len(work)), get_context("spawn")) as pool:
            found = list(pool.map(write_pass, *zip(*work)))
    if any(kind.share for kind in passes) and not sum(count.get(COPYING, 0) for count in found):
        raise ConfigurationError(f"{data} has no sentence of {SHORTEST} to {LONGEST} pieces to copy")
    counts = {str(number): count for number, count in enumerate(found, 1)}
    write_json(out / "counts.json", counts)
    return counts


def _load(prefix, dictionary):
    dataset = data_utils.load_indexed_dataset(str(prefix), dictionary)
    if dataset is None:
        raise FileNotFoundError(f"{prefix}.idx is not there")
    return dataset


@command
def main(argv=None):
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m srformer_plugin.tools.marked_sentences",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder that fairseq-preprocess wrote")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--short-sources",
        type=positive,
        nargs="+",
        default=[],
        metavar="TOKENS",
        help="a first pass of copying examples alone for each of these lengths, of sources that are cut to it",
    )
    parser.add_argument("--passes", type=positive, default=1, help="passes after these (default: 1)")
    parser.add_argument(
        "--share", type=share, default=0.6, help="probability of a copying example in them (default: 0.6)"
    )
    parser.add_argument(
        "--max-target",
        type=token_limit,
        default=96,
        metavar="TOKENS",
        help="tokens of a copied target at most, the end of sentence included; 0: any number (default: 96)",
    )
    parser.add_argument("--seed", type=non_negative, default=1, help="of the draws (default: 1)")
    parser.add_argument(
        "--workers", type=positive, default=os.cpu_count() or 1, help="processes, a pass each (default: one a core)"
    )
    args = parser.parse_args(argv)
    limit = args.max_target - 1 if args.max_target else sys.maxsize
    passes = passes_of(args.passes, args.share, limit, args.short_sources)
    counts = mark(args.data, args.out, passes, args.seed, args.workers)
    total = sum(map(Counter, counts.values()), Counter())
    print(", ".join(f"{count:,} {kind}" for kind, count in sorted(total.items())))


if __name__ == "__main__":
    sys.exit(main())
