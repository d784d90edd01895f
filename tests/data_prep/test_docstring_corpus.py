"""The docstring corpus, built from a small package tree on disk."""

import ast
import hashlib
import json
import re

import pytest

from data_prep import docstring_corpus, docstring_pairs, whole
from data_prep.docstring_corpus import TooFewPairs, build
from data_prep.docstring_pairs import Limits
from data_prep.docstring_text import split_docstring
from data_prep.errors import EXIT_STATUS
from data_prep.text import SPLITS

DESCRIPTION = "It reads the {0} word by word, counts what it has seen, and gives the {0} back to the caller unchanged."


def module_text(name, functions=3):
    """Source text of a module whose functions are all documented in different words."""
    parts = [f'"""Tools of the {name} module."""\n']
    for number in range(functions):
        topic = f"{name} number {number}"
        parts.append(
            f"def read_{name}_{number}(self, path):\n"
            f'    """Return the {topic} of a path.\n\n    {DESCRIPTION.format(topic)}\n    """\n'
        )
    return "\n".join(parts)


@pytest.fixture
def tree(tmp_path):
    """A folder with forty documented modules of three pairs each in four packages."""
    root = tmp_path / "site"
    for package in ("alpha", "beta", "gamma", "delta"):
        (root / package).mkdir(parents=True)
        for number in range(10):
            # letters only: the words of an identifier are split at digits
            name = package + "abcdefghij"[number]
            (root / package / f"{name}.py").write_text(module_text(name))
    return root


def run(tree, out, **options):
    return build(out, [tree], **{"min_pairs": 1, "held_out": 12, "workers": 2, **options})


def lines(path):
    return path.read_text().splitlines()


def one_pair(code, module="pkg.mod", limits=docstring_pairs.DEFAULT_LIMITS):
    """The last symbol of ``code`` as a pair, and why it was skipped."""
    symbol = list(docstring_pairs.documented_symbols(ast.parse(code)))[-1]
    return docstring_pairs.make_pair(symbol, module, limits)


def why_skipped(code):
    return one_pair(code)[1]


def test_target_is_the_first_paragraph_and_source_the_rest():
    summary, description = split_docstring("Open a\n    file.\n\n    The first.\n\n    The second\n    one.\n    ")
    assert summary == "Open a file."
    assert description == "The first. The second one."


def test_source_begins_with_what_is_described():
    pair, _ = one_pair(
        "class TestCase:\n  def run_all(self, tests, *, fast=False):\n"
        f'    """Run every test of the case.\n\n    {DESCRIPTION.format("case")}"""\n',
        module="unittest.case",
    )
    assert pair.summary == "Run every test of the case."
    assert pair.source == ("method test case run all ( tests, fast ) in unittest case | " + DESCRIPTION.format("case"))


@pytest.mark.parametrize(
    ("markup", "prose"),
    [
        ("Text.\n\n>>> f(1)\nprinted\n\nMore.", "Text. More."),
        ("Like this::\n\n    code = 1\n\nMore.", "Like this: More."),
        ("Text.\n\n.. versionadded:: 3.1\n   Not before.\n\nMore.", "Text. More."),
        (".. note::\n   Keep this.\n", "Keep this."),
        (":func:`~a.b.c` and :class:`a.D` and ``e`` and *f*", "c and a.D and e and f"),
        (":func:`open` is called", "open is called"),
        ("Parameters\n----------\nx : array_like, shape (n,)\n    The input.\n", "x: The input."),
        ("Args:\n    x (int): The input.\n", "x (int): The input."),
        (":param int x: The input.\n:type y: str\n:returns: A sum.", "x: The input. returns: A sum."),
        ("Text.\n\nExamples\n--------\nIt is used so.\n\nNotes\n-----\nSlow.", "Text. Slow."),
        ("Text.\n\nExamples:\n    It is used so.\n", "Text."),
        ("See https://example.org/page for\t more", "See for more"),
        ("The `text <target>`_ stays [1]_", "The text stays"),
    ],
)
def test_description_keeps_prose_and_drops_markup(markup, prose):
    assert split_docstring("Summary.\n\n" + markup)[1] == prose


@pytest.mark.parametrize(
    ("docstring", "why"),
    [
        ("Only a summary of it all.", "no description below the summary"),
        ("Short one.\n\n" + DESCRIPTION, "summary too short"),
        ("word " * 31 + "\n\n" + DESCRIPTION, "summary too long"),
        ("Return the sum of it.\n\nToo few words.", "description too short"),
        ("{1: 2} maps a to b.\n\n" + DESCRIPTION, "not prose"),
        ("Gibt die Größe von etwas.\n\n" + DESCRIPTION, "not prose"),
    ],
)
def test_a_pair_outside_the_limits_is_skipped_with_its_reason(docstring, why):
    assert why_skipped(f'"""{docstring}"""') == why


def test_a_long_description_is_cut():
    pair, _ = one_pair(f'"""Return the sum of it.\n\n{"word " * 50}"""', limits=Limits(max_source=20))
    assert pair.description == " ".join(["word"] * 20)


def test_files_are_parallel_and_hold_one_text_a_line(tree, tmp_path):
    manifest = run(tree, tmp_path / "out")
    for split in SPLITS:
        sources, targets = (lines(tmp_path / "out" / f"{split}.{side}") for side in ("source", "target"))
        assert len(sources) == len(targets) == manifest["pairs"][split] > 0
        for source, target in zip(sources, targets):
            topic = target.removeprefix("Return the ").removesuffix(" of a path.")
            assert source.endswith("| " + DESCRIPTION.format(topic))
    assert sum(manifest["pairs"].values()) == 120


def test_no_module_is_in_two_splits(tree, tmp_path):
    manifest = run(tree, tmp_path / "out")
    modules = manifest["modules"]
    assert sum(len(modules[split]) for split in SPLITS) == len(set().union(*modules.values())) == 40
    for split in SPLITS:
        # the target names its module: the manifest says what the files hold
        found = {line.split()[2] for line in lines(tmp_path / "out" / f"{split}.target")}
        assert found == {module.split(".")[1] for module in modules[split]}


def test_held_out_splits_have_about_the_size_asked_for(tree, tmp_path):
    pairs = run(tree, tmp_path / "out", held_out=20)["pairs"]
    assert 20 <= pairs["valid"] < 25
    assert 20 <= pairs["test"] < 25


def test_a_large_module_goes_to_train_under_every_seed(tree, tmp_path):
    (tree / "alpha" / "large.py").write_text(module_text("large", functions=200))
    pairs, _, _ = docstring_pairs.read_pairs([tree], docstring_pairs.DEFAULT_LIMITS, workers=1)
    for seed in range(60):
        splits = docstring_corpus.split_by_module(pairs, seed, held_out=12)
        assert sum(pair.group == "alpha.large" for pair in splits["train"]) == 200
        assert 12 <= len(splits["test"]) < 15


def test_equal_summaries_and_equal_descriptions_are_kept_once(tree, tmp_path):
    same_summary = '"""Return the alphaa number 0 of a PATH!\n\n' + DESCRIPTION.format("other") + '"""'
    same_description = '"""Say something else about it.\n\n' + DESCRIPTION.format("betaa number 0").upper() + '"""'
    (tree / "gamma" / "summary.py").write_text(same_summary)
    (tree / "gamma" / "description.py").write_text(same_description)
    manifest = run(tree, tmp_path / "out")
    assert manifest["skipped"]["duplicate"] == 2
    assert sum(manifest["pairs"].values()) == 120


def test_short_pairs_join_training_only_and_never_from_a_held_out_module(tree, tmp_path):
    for path in tree.rglob("*.py"):
        path.write_text(path.read_text() + f'def short():\n    """Make the {path.stem} shorter now."""\n')
    without = run(tree, tmp_path / "without")
    manifest = run(tree, tmp_path / "out", add_short=True)
    assert manifest["pairs"] == without["pairs"]
    targets = {split: lines(tmp_path / "out" / f"{split}.target") for split in SPLITS}
    shorter = {line.split()[2] for line in targets["train"] if line.startswith("Make")}
    assert shorter == {module.split(".")[1] for module in manifest["modules"]["train"]}
    added = len(targets["train"]) - manifest["pairs"]["train"]
    assert added == manifest["short_pairs_added_to_train"] == 2 * len(shorter)  # a module's own docstring is short too
    assert len(lines(tmp_path / "out" / "train.source")) == len(targets["train"])
    assert not any(line.startswith("Make") for line in targets["valid"] + targets["test"])


def test_the_same_installation_and_seed_give_the_same_files(tree, tmp_path):
    first = run(tree, tmp_path / "first", workers=1)
    second = run(tree, tmp_path / "second", workers=2)
    assert first == second
    for name, digest in first["sha256"].items():
        assert hashlib.sha256((tmp_path / "second" / name).read_bytes()).hexdigest() == digest


def test_another_seed_holds_out_other_modules(tree, tmp_path):
    assert run(tree, tmp_path / "1")["modules"]["test"] != run(tree, tmp_path / "2", seed=2)["modules"]["test"]


@pytest.mark.parametrize("content", [b'"""Open', b'x = """\x00"""', b'"""\xff\xfe"""', b"# coding: nonsense\n'''x'''"])
def test_a_malformed_file_is_counted_and_harms_nothing(tree, tmp_path, content):
    (tree / "beta" / "broken.py").write_bytes(content)
    manifest = run(tree, tmp_path / "out")
    assert manifest["skipped"]["malformed file"] == 1
    assert sum(manifest["pairs"].values()) == 120


def test_sources_are_never_executed(tree, tmp_path):
    trap = tmp_path / "executed"
    (tree / "alpha" / "trap.py").write_text(f'"""Trap."""\nopen({str(trap)!r}, "w")\n')
    run(tree, tmp_path / "out")
    assert not trap.exists()


def test_test_suites_and_vendored_copies_are_not_read(tree, tmp_path):
    for folder in ("tests", "_vendor"):
        (tree / "alpha" / folder).mkdir()
        (tree / "alpha" / folder / "more.py").write_text(module_text("more"))
    assert sum(run(tree, tmp_path / "out")["pairs"].values()) == 120


def test_too_few_pairs_is_an_error_that_says_what_to_do(tree, tmp_path, capsys):
    with pytest.raises(TooFewPairs):
        run(tree, tmp_path / "out", min_pairs=121)
    assert not (tmp_path / "out").exists()
    arguments = ["--out", str(tmp_path / "out"), "--root", str(tree), "--min-pairs", "121"]
    assert docstring_corpus.main(arguments) == EXIT_STATUS
    assert re.search("\nerror: 120 pairs found .* --min-pairs 121: .*\n$", capsys.readouterr().err)


def test_an_interrupted_write_leaves_no_manifest_and_no_half_file(tree, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(tree, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    moved = []

    def interrupted(source, destination):
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(source.rename(destination))

    monkeypatch.setattr(whole.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tree, out)
    found = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(found) == 2
    assert found.items() <= before.items()
    assert "manifest.json" not in found


def test_the_manifest_on_disk_says_what_was_done(tree, tmp_path):
    manifest = run(tree, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    assert manifest["options"]["seed"] == 1
    assert manifest["pairs_per_package"]["train"].keys() <= {"alpha", "beta", "gamma", "delta"}
