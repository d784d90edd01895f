"""Put the tables of benchmarks/results/*.json into README.md and docs/*.md: `python -m benchmarks.readme_tables`.

A table stands between `<!-- results: NAME -->` and `<!-- end -->`, NAME being the JSON file's; only what is between
the marks is replaced. `--check` changes nothing and fails where a page and the JSON disagree.
"""

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARKED = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def _table(header, lines, remark, first, *details):
    """A table, and under it what it says and what `first`, a row, was measured on."""
    columns = header.count("|") - 1
    measured_on = ", ".join([first["device"], *details, first["date"], f"commit {first['commit'][:7]}"])
    return "\n".join([header, "|" + "---|" * columns, *lines, "", f"{remark}; {measured_on}."]) + "\n"


def training_updates(rows):
    """Milliseconds per update and the losses, a line per model and precision."""
    case, first = rows[0]["case"], rows[0]
    return _table(
        "| precision | model | ms per update | stock time / ours | loss at 10 and at the last update |",
        (
            f"| {row['case']['precision']} | {row['case']['model']} | {row['ours']:.0f} | {row['ratio']:.2f} "
            f"| {row['run']['first_loss']:.2f} -> {row['run']['last_loss']:.2f} |"
            for row in rows
        ),
        f"{case['updates']} updates of {case['batch']} x {case['source']} source tokens; median after the first 50",
        first,
        f"torch {first['torch']}",
    )


def decoding(rows):
    """Tokens a second and memory, a line per batch shape and system."""
    case, first = rows[0]["case"], rows[0]
    return _table(
        "| sentences x source | system | tokens/s | ours / stock | peak MiB |",
        (
            f"| {row['case']['batch']} x {row['case']['source']} | {row['case']['system']} | {row['ours']:,.0f} "
            f"| {row['ratio']:.1f} | {row['peak_mib']:,} |"
            for row in rows
        ),
        f"Beam {case['beam']}, {case['tokens']} tokens, {case['dtype']}, random weights",
        first,
        f"torch {first['torch']}",
    )


def bpe_encoding(rows):
    """Pairs a second of two encoders that give the same numbers."""
    first = rows[0]
    return _table(
        "| pairs | MB | data_prep.encode, pairs/s | fairseq's encoder, pairs/s | ratio |",
        (
            f"| {row['case']['pairs']:,} | {row['case']['megabytes']:.0f} | {row['ours']:,.0f} "
            f"| {row['theirs']:,.0f} | {row['ratio']:.1f} |"
            for row in rows
        ),
        f"Articles with their summaries, whole programs, {first['case']['workers']} processes; the outputs are equal",
        first,
        f"tiktoken {first['tiktoken']}",
    )


def rouge_scoring(rows):
    """Seconds for a test set, a line for each number of processes."""
    return _table(
        "| processes | srformer_plugin.scoring, s | rouge-score loop, s | ratio |",
        (
            f"| {row['case']['workers']} | {row['ours']:.1f} | {row['theirs']:.1f} | {row['ratio']:.1f} |"
            for row in rows
        ),
        f"ROUGE-1/2/L/Lsum of {rows[0]['case']['pairs']:,} pairs, whole programs; the scores are equal",
        rows[0],
    )


TABLES = {
    "rouge_scoring": rouge_scoring,
    "decoding": decoding,
    "bpe_encoding": bpe_encoding,
    "training_updates": training_updates,
    "training_updates_t5": training_updates,
}


def pages():
    """The files that may show tables: README.md and the pages of docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def render(text, results):
    """`text` with every marked table made anew from the JSON files of folder `results`."""

    def table(match):
        name = match.group(2)
        if name not in TABLES:
            raise SystemExit(f"no table {name!r}; known: {', '.join(TABLES)}")
        rows = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        return match.group(1) + TABLES[name](rows) + match.group(3)

    return MARKED.sub(table, text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where a page is not up to date")
    options = parser.parse_args()
    for page in pages():
        old = page.read_text(encoding="utf-8")
        new = render(old, ROOT / "benchmarks" / "results")
        if old != new and options.check:
            sys.exit(f"{page.name} does not show benchmarks/results: run python -m benchmarks.readme_tables")
        if old != new:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
