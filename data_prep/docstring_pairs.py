"""Pairs of a description and a summary line from the docstrings of source files: what a symbol makes of its text.

Files are read with ``ast``; nothing is imported or executed. The target is the docstring's first paragraph, which PEP
257 asks to be a summary line; the source is the rest, made plain, after a header that says what it describes::

    function binom test ( x, n, p ) in scipy stats | This is an exact, two-sided test of the null ...

The header stands in the source because the summary of a function is often a paraphrase of its name; what
stands after ``HEADER_END`` is the description alone.
"""

import ast
import os
import re
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data_prep.docstring_text import split_docstring

HEADER_END = " | "
# Tests document nothing; a vendored copy repeats an installed package.
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "_vendor", "site-packages", "dist-packages", "__pycache__"}
MAX_ARGUMENTS = 8


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
