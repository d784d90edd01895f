"""A summarization corpus from text every Python installation has: the docstrings' descriptions and summary lines.

What it is: docstrings of the standard library and of the packages installed beside the running interpreter. What a
pair is: `data_prep.docstring_pairs`. Here equal ones are dropped, and whole modules put into splits.

What it is not: a benchmark. Its content depends on what is installed, its texts are short and formulaic, and
similar functions are documented in similar words: modules share phrases although no module is in two splits.
Scores cannot be compared between two installations (``manifest.json`` names the packages and checksums of each).
"""

import argparse
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import sys
import sysconfig
from collections import Counter
from pathlib import Path

from data_prep.arguments import non_negative, positive
from data_prep.docstring_pairs import DEFAULT_LIMITS, Limits, read_pairs
from data_prep.errors import UserError, command
from data_prep.text import SPLITS
from data_prep.whole import MANIFEST, whole_folder

logger = logging.getLogger(__name__)


class TooFewPairs(UserError):
    """The installation does not hold as many pairs as were asked for."""


def deduplicate(pairs):
    """``(kept, number dropped)``: of pairs with equal descriptions, or equal summaries, the first is kept.

    Only letters and digits count, and not their case.
    """
    seen, kept = set(), []
    for pair in pairs:
        keys = {("source", _letters(pair.description)), ("target", _letters(pair.summary))}
        if not keys & seen:
            kept.append(pair)
        seen |= keys
    return kept, len(pairs) - len(kept)


def _letters(text):
    return re.sub(r"[^a-z0-9]", "", text.lower())


def short_pairs_for_training(short, splits):
    """Those of ``short`` that may join training: of no held-out module, and with a summary of their own."""
    held_out = {pair.group for split in ("valid", "test") for pair in splits[split]}
    seen = {_letters(pair.summary) for members in splits.values() for pair in members}
    kept = []
    for pair in short:
        summary = _letters(pair.summary)
        if pair.group not in held_out and summary not in seen:
            seen.add(summary)
            kept.append(pair)
    return kept


def split_by_module(pairs, seed, held_out):
    """``{split: pairs}`` without a group in two splits.

    Groups, in the order of a hash of seed and name, fill test, then valid, with about ``held_out`` pairs each;
    train takes the rest. A group larger than a quarter of ``held_out`` goes to train, so that no package makes
    up a split by itself.
    """
    sizes = Counter(pair.group for pair in pairs)
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).hexdigest())
    split_of, filled = {}, Counter()
    for group in order:
        open_splits = [s for s in ("test", "valid") if filled[s] < held_out]
        split = open_splits[0] if open_splits and 4 * sizes[group] <= max(held_out, 4) else "train"
        split_of[group] = split
        filled[split] += sizes[group]
    return {split: [pair for pair in pairs if split_of[pair.group] == split] for split in SPLITS}


def build(out, roots, limits=DEFAULT_LIMITS, min_pairs=8000, held_out=400, seed=1, workers=None, add_short=False):
    """Build the corpus in folder ``out`` from the sources below ``roots`` and return its manifest.

    With ``add_short``, training also gets symbols whose description is short or absent; they do not count as pairs.
    Raises TooFewPairs, and writes nothing, if fewer than ``min_pairs`` are left after deduplication.
    """
    pairs, short, skipped = read_pairs(roots, limits, workers)
    pairs, duplicates = deduplicate(pairs)
    skipped["duplicate"] = duplicates
    if len(pairs) < min_pairs:
        raise TooFewPairs(
            f"{len(pairs)} pairs found in {', '.join(map(str, roots))}, fewer than --min-pairs {min_pairs}: "
            "install more packages, add a folder of sources with --root, or ask for fewer pairs"
        )
    splits = split_by_module(pairs, seed, held_out)
    files = {}
    short = short_pairs_for_training(short, splits) if add_short else []
    for split, members in splits.items():
        members = members + short if split == "train" else members
        files[f"{split}.source"] = "".join(pair.source + "\n" for pair in members)
        files[f"{split}.target"] = "".join(pair.summary + "\n" for pair in members)
    manifest = {
        "what": "docstrings of installed Python packages, description -> summary line: a demonstration, "
        "not a benchmark (data_prep/docstring_corpus.py)",
        "pairs": {split: len(members) for split, members in splits.items()},
        "short_pairs_added_to_train": len(short),
        "modules": {split: sorted({pair.group for pair in members}) for split, members in splits.items()},
        "pairs_per_package": {
            split: dict(Counter(pair.group.split(".")[0] for pair in members).most_common())
            for split, members in splits.items()
        },
        "skipped": dict(skipped.most_common()),
        "options": {
            **limits._asdict(),
            "min_pairs": min_pairs,
            "held_out": held_out,
            "seed": seed,
            "add_short": add_short,
        },
        "python": platform.python_version(),
        "distributions": sorted({f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions()}),
        "sha256": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()},
    }
    with whole_folder(out) as folder:
        for name, text in {**files, MANIFEST: json.dumps(manifest, indent=2) + "\n"}.items():
            (folder / name).write_text(text, encoding="utf-8")
    return manifest


def installed_roots():
    """The folders that hold the standard library and the installed packages of the running interpreter."""
    paths = sysconfig.get_paths()
    return [Path(p) for p in dict.fromkeys((paths["stdlib"], paths["purelib"], paths["platlib"]))]


@command
def main(argv=None):
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.docstring_corpus",
        description="Build a summarization corpus (description -> summary line) from the docstrings of the "
        "standard library and of the installed packages; writes {train,valid,test}.{source,target}, one text a line, "
        "and manifest.json.",
        epilog="Splits hold whole modules, named by at most two parts (torch.nn, scipy.stats, json): in the order of "
        "sha256(seed:name) they fill test, then valid, and train gets the rest.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--root", type=Path, action="append", help="read this folder instead of the installation; repeatable"
    )
    parser.add_argument("--min-pairs", type=non_negative, default=8000, help="fail if there are fewer pairs")
    parser.add_argument("--held-out", type=non_negative, default=400, help="pairs in each of valid and test, about")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other modules to valid and test")
    parser.add_argument(
        "--min-target", type=non_negative, default=DEFAULT_LIMITS.min_target, help="skip summaries of fewer words"
    )
    parser.add_argument(
        "--max-target", type=non_negative, default=DEFAULT_LIMITS.max_target, help="skip summaries of more words"
    )
    parser.add_argument(
        "--min-source", type=non_negative, default=DEFAULT_LIMITS.min_source, help="skip descriptions of fewer words"
    )
    parser.add_argument(
        "--max-source", type=non_negative, default=DEFAULT_LIMITS.max_source, help="cut descriptions to as many words"
    )
    parser.add_argument(
        "--add-short",
        action="store_true",
        help="add to the training split, and to no other, symbols whose description is too short or absent",
    )
    parser.add_argument("--workers", type=positive, default=os.cpu_count(), help="processes that parse source files")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    limits = Limits(args.min_target, args.max_target, args.min_source, args.max_source)
    roots = args.root or installed_roots()
    manifest = build(args.out, roots, limits, args.min_pairs, args.held_out, args.seed, args.workers, args.add_short)
    logger.info("%s: %s pairs; skipped: %s", args.out, manifest["pairs"], manifest["skipped"])


if __name__ == "__main__":
    sys.exit(main())
