"""A summarization corpus from text every Python installation has: the docstrings' descriptions and summary lines.

What it is: docstrings of the standard library and of the packages installed beside the running interpreter,
read with ``ast`` from their source files (nothing is imported or executed). The target is the docstring's
first paragraph, which PEP 257 asks to be a summary line; the source is the rest, made plain, after a header
that says what it describes::

    function binom test ( x, n, p ) in scipy stats | This is an exact, two-sided test of the null ...

The header stands in the source because the summary of a function is often a paraphrase of its name; what
stands after ``HEADER_END`` is the description alone.

What it is not: a benchmark. Its content depends on what is installed, its texts are short and formulaic, and
similar functions are documented in similar words: modules share phrases although no module is in two splits.
Scores cannot be compared between two installations (``manifest.json`` names the packages and checksums of each).
"""

import argparse
import ast
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import sys
import sysconfig
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data_prep.arguments import non_negative, positive
from data_prep.docstring_text import split_docstring
from data_prep.errors import UserError, command
from data_prep.text import SPLITS
from data_prep.whole import MANIFEST, whole_folder

logger = logging.getLogger(__name__)

HEADER_END = " | "
# Tests document nothing; a vendored copy repeats an installed package.
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "_vendor", "site-packages", "dist-packages", "__pycache__"}
MAX_ARGUMENTS = 8


class TooFewPairs(UserError):
    """The installation does not hold as many pairs as were asked for."""


class Limits(NamedTuple):
    """Lengths in white-space separated words: a pair outside is skipped, a longer description is cut."""

    min_target: int = 4
    max_target: int = 30
    min_source: int = 12
    max_source: int = 120


DEFAULT_LIMITS = Limits()


class Pair(NamedTuple):
    """One documented symbol; ``group`` is the module (at most two name parts) that decides its split."""

    group: str
    header: str
    description: str
    summary: str

    @property
    def source(self):
        """The model's input: header and description, one line."""
        return self.header + HEADER_END + self.description


def words_of(identifier):
    """``_BinomTest.run_all`` -> ``binom test run all``: the words an identifier is made of, as prose writes them."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", identifier)).lower()


def header_of(kind, qualified_name, arguments, module):
    """``function binom test ( x, n, p ) in scipy stats``, or ``module json decoder``."""
    if kind == "module":
        return f"module {words_of(module)}"
    signature = f" ( {', '.join(arguments[:MAX_ARGUMENTS])} )" if arguments else ""
    return f"{kind} {words_of(qualified_name)}{signature} in {words_of(module)}"


def documented_symbols(tree):
    """Yield ``(kind, qualified name, argument names, docstring)`` of the module ``tree`` and all it defines."""

    def visit(node, prefix, inside_class):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                name = prefix + child.name
                yield "class", name, [], ast.get_docstring(child)
                yield from visit(child, name + ".", True)
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                args = [a.arg for a in child.args.posonlyargs + child.args.args + child.args.kwonlyargs]
                args = [a for a in args if a not in ("self", "cls")]
                yield "method" if inside_class else "function", prefix + child.name, args, ast.get_docstring(child)
                yield from visit(child, prefix + child.name + ".", False)
            else:
                yield from visit(child, prefix, inside_class)

    yield "module", "", [], ast.get_docstring(tree)
    yield from visit(tree, "", False)


def is_prose(text):
    """True for text that is mostly words, begins with one, and is written in ASCII."""
    letters = sum(c.isalpha() or c == " " for c in text)
    return text.isascii() and text[:1].isalpha() and letters >= 0.8 * len(text)


def make_pair(symbol, module, limits):
    """``(pair, None)`` for one item of ``documented_symbols``, or ``(None, why it is skipped)``.

    Where only the description is too short or absent it is ``(pair, why)``: header and summary may be of use.
    """
    kind, name, arguments, docstring = symbol
    if not docstring:
        return None, "no docstring"
    summary, description = split_docstring(docstring)
    source_words, target_length = description.split(), len(summary.split())
    if target_length < limits.min_target:
        return None, "summary too short"
    if target_length > limits.max_target:
        return None, "summary too long"
    description = " ".join(source_words[: limits.max_source])
    if not is_prose(summary) or (description and not is_prose(description)):
        return None, "not prose"
    pair = Pair(group_of(module), header_of(kind, name, arguments, module), description, summary)
    if not description:
        return pair, "no description below the summary"
    return pair, None if len(source_words) >= limits.min_source else "description too short"


def group_of(module):
    """The unit of splitting: the first two parts of a module's name (``torch.nn`` of ``torch.nn.modules.linear``).

    One part is too coarse (a handful of packages hold most pairs); a single file is too fine (``numpy.ma.core`` and
    ``numpy.ma.extras`` say the same things).
    """
    return ".".join(module.split(".")[:2])


def read_file(task):
    """``(pairs, pairs of short description, Counter of why symbols were skipped)`` of one source file.

    ``task`` is ``(path, module, limits)``.
    """
    path, module, limits = task
    try:
        text = Path(path).read_bytes()
        if b'"""' not in text and b"'''" not in text:
            return [], [], Counter({"file without docstrings": 1})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escape sequences
            symbols = list(documented_symbols(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        return [], [], Counter({"malformed file": 1})
    results = [make_pair(symbol, module, limits) for symbol in symbols]
    full = [pair for pair, why in results if why is None]
    short = [pair for pair, why in results if pair and why]
    return full, short, Counter(why for _, why in results if why)


def source_files(roots):
    """Yield ``(path, module name)`` of the Python files below each root, in an order that depends on the names only."""
    for root in roots:
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = sorted(s for s in subfolders if s.isidentifier() and s not in SKIPPED_FOLDERS)
            for name in sorted(names):
                if name.endswith(".py"):
                    parts = (Path(folder) / name[:-3]).relative_to(root).parts
                    yield Path(folder) / name, ".".join(parts[:-1] if parts[-1] == "__init__" and parts[1:] else parts)


def read_pairs(roots, limits, workers):
    """``read_file`` of all files below ``roots``, put together in the order of ``source_files``."""
    tasks = [(path, module, limits) for path, module in source_files(roots)]
    pairs, short, skipped = [], [], Counter()
    with ProcessPoolExecutor(workers) as pool:
        results = pool.map(read_file, tasks, chunksize=32)
        for found, found_short, why in tqdm(results, total=len(tasks), desc="docstrings", unit="file", mininterval=1):
            pairs += found
            short += found_short
            skipped += why
    return pairs, short, skipped


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
