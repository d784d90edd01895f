"""Copying examples for a model from scratch: find the marked sentences of a document, and write them down in order.

    python -m data_prep.marked_sentences ENCODED OUT --passes 8 --share 0.6

reads train.source and train.target of folder ENCODED, which `data_prep.encode --bpe sentencepiece` wrote, and writes
trainK.source and trainK.target to OUT for every pass K = 1, 2, ... over the training data. A pass has a line for every
line of ENCODED: with the probability --share a copying example in place of the pair, else the pair as it is. A few
whole sentences of the source are chosen, the first piece of each becomes `<mark>`, 20% of their other pieces and 8% of
all others become `<mask>`, and the target is the sentences as they were. Such pairs teach the decoder where to look,
which summaries alone do not within the first thousands of updates.

Every pass draws anew. fairseq-train takes one pass an epoch if it is given their binarised folders with colons between:
`fairseq-train data1:data2:... ` (its sharded data). The draws depend on --seed, the pass and the line alone, not on
--workers. An interrupted run begins anew.
"""

import argparse
import json
import os
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_prep.arguments import non_negative, positive, share
from data_prep.errors import command
from data_prep.line_files import BadCorpus, lines_of, splits_of
from data_prep.ordered_map import ordered_map
from data_prep.provenance import sha256_of, versions
from data_prep.text import SIDES
from data_prep.whole import MANIFEST, whole_folder

MARK, MASK = "<mark>", "<mask>"
WORD_START = "\u2581"  # SentencePiece's, before the first piece of a word
SHORTEST, LONGEST = 5, 70  # pieces of a sentence that may be chosen
MASKED_IN_MARKED, MASKED_ELSEWHERE = 0.2, 0.08


def sentences_of(pieces):
    """The whole sentences of a list of SentencePiece pieces, as a list of `(start, end)` with `pieces[start:end]`.

    A sentence ends with a piece of nothing but `.`, `!` or `?` behind which a word begins or the text ends. What is
    behind the last of them, as a cut source has it, is no whole sentence.
    """
    bounds, start = [], 0
    for place, piece in enumerate(pieces):
        marks = piece.removeprefix(WORD_START)
        if not marks or marks.strip(".!?"):
            continue
        if place + 1 == len(pieces) or pieces[place + 1].startswith(WORD_START):
            bounds.append((start, place + 1))
            start = place + 1
    return bounds


def choose(bounds, limit, rng):
    """Sentences in random order for as long as the next one fits into `limit` pieces; returned in the text's order.

    Sentences of fewer than `SHORTEST` or more than `LONGEST` pieces are never chosen, nor those beyond `limit`.
    """
    fit = [(start, end) for start, end in bounds if SHORTEST <= end - start <= min(LONGEST, limit)]
    chosen = []
    for index in rng.permutation(len(fit)):
        start, end = fit[index]
        limit -= end - start
        if limit < 0:
            break
        chosen.append(fit[index])
    return sorted(chosen)


def copying_example(pieces, limit, rng):
    """`(source, target)`, two lists of pieces, or None if no sentence fits into `limit` pieces of target.

    The source is as long as `pieces`.
    """
    chosen = choose(sentences_of(pieces), limit, rng)
    if not chosen:
        return None
    rate = np.full(len(pieces), MASKED_ELSEWHERE)
    for start, end in chosen:
        rate[start:end] = MASKED_IN_MARKED
    masked = rng.random(len(pieces)) < rate
    source = [MASK if hidden else piece for piece, hidden in zip(pieces, masked.tolist())]
    for start, _ in chosen:
        source[start] = MARK
    return source, [piece for start, end in chosen for piece in pieces[start:end]]


def example(task):
    """`(source line, target line, what it is)` of a training pair in a pass; see `tasks`."""
    source, target, key, share, limit = task
    rng = np.random.default_rng(key)
    if rng.random() >= share:
        return source, target, "summary"
    copied = copying_example(source.split(), limit, rng)
    if copied is None:
        return source, target, "summary for want of a sentence"
    return " ".join(copied[0]), " ".join(copied[1]), "copying"


def tasks(corpus, seed, number, share, limit):
    """What `example` needs, for every training pair of `corpus`, in order."""
    pairs = zip(lines_of(corpus / "train.source"), lines_of(corpus / "train.target"))
    for line, (source, target) in enumerate(pairs):
        yield source, target, (seed, number, line), share, limit


def mark(corpus, out, passes, share, limit, seed, workers=1):
    """Write `passes` passes over the training pairs of folder `corpus` to folder `out`; returns the manifest.

    `limit`: pieces of a target at most, without the end of sentence. Raises BadCorpus.
    """
    lines = splits_of(corpus).get("train")
    if lines is None:
        raise BadCorpus(f"{corpus} has no train.source")
    if WORD_START not in "".join(islice(lines_of(corpus / "train.source"), 100)):
        raise BadCorpus(
            f"{corpus}/train.source has no SentencePiece pieces: "
            "encode the corpus with data_prep.encode --bpe sentencepiece"
        )
    counts = {}
    with whole_folder(out) as folder:
        for number in range(1, passes + 1):
            counts[number] = Counter()
            results = ordered_map(example, tasks(corpus, seed, number, share, limit), workers, 200)
            progress = tqdm(results, f"pass {number} of {passes}", lines, unit="line", mininterval=1)
            with (
                open(folder / f"train{number}.source", "w", encoding="utf-8", newline="\n") as sources,
                open(folder / f"train{number}.target", "w", encoding="utf-8", newline="\n") as targets,
            ):
                for source, target, kind in progress:
                    sources.write(source + "\n")
                    targets.write(target + "\n")
                    counts[number][kind] += 1
            if share and not counts[number]["copying"]:
                raise BadCorpus(f"{corpus}/train.source has no sentence of {SHORTEST} to {LONGEST} pieces to copy")
        manifest = {
            "corpus_sha256": {f"train.{side}": sha256_of(corpus / f"train.{side}") for side in SIDES},
            "counts": {str(number): dict(sorted(count.items())) for number, count in counts.items()},
            "options": {"passes": passes, "share": share, "max_target": limit + 1, "seed": seed},
            "versions": versions("numpy"),
        }
        manifest["sha256"] = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


@command
def main(argv=None):
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.marked_sentences",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("corpus", type=Path, metavar="ENCODED", help="folder with train.source and train.target")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--passes", type=positive, default=1, help="passes over the training data (default: 1)")
    parser.add_argument(
        "--share", type=share, default=0.6, help="probability of a copying example (default: 0.6)"
    )
    parser.add_argument(
        "--max-target", type=positive, default=96, metavar="TOKENS",
        help="tokens of a copied target at most, the end of sentence included (default: 96)",
    )  # fmt: skip
    parser.add_argument("--seed", type=non_negative, default=1, help="of the draws, 0 or more (default: 1)")
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="processes (default: one a core)")
    args = parser.parse_args(argv)
    manifest = mark(args.corpus, args.out, args.passes, args.share, args.max_target - 1, args.seed, args.workers)
    total = Counter()
    for count in manifest["counts"].values():
        total.update(count)
    print(", ".join(f"{count:,} {kind}" for kind, count in sorted(total.items())))


if __name__ == "__main__":
    sys.exit(main())
