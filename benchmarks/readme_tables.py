"""Put the tables of benchmarks/results/*.json into README.md and docs/*.md: `python -m benchmarks.readme_tables`.

A table stands between `<!-- results: NAME -->` and `<!-- end -->`, NAME being the JSON file's (or "summary", lines of
all of them, "headline", a few of these, or a report of recipes/compare.sh); only what is between the marks is replaced,
and says so where there is no such file yet. Pictures (benchmarks/plots.py) are drawn anew where their numbers changed.
`--check` changes nothing and fails where a page or a picture and the JSON disagree.
"""

import argparse
import json
import re
import sys
from functools import partial
from pathlib import Path

from benchmarks import plots, summaries, tables, tables_of_evidence, tables_of_lengths

ROOT = Path(__file__).resolve().parent.parent
MARKED = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


TABLES = {
    "hypotheses": tables.hypotheses,
    "attention_core": tables.attention_core,
    "attention_content": tables.attention_content,
    "attention_content_cpu": tables.attention_content,
    "training_step": tables.training_step,
    "training_long": tables.training_step,
    "encoders": tables_of_lengths.encoders,
    "encoders_cpu": tables_of_lengths.encoders,
    "long_document": tables_of_lengths.long_document,
    "long_document_cpu": tables_of_lengths.long_document,
    "scaling": tables_of_lengths.scaling,
    "scaling_cpu": tables_of_lengths.scaling,
    "operations": tables.operations,
    "host_operations": tables.host_operations,
    "distributed": tables.distributed,
    "distributed_cpu": tables.distributed,
    "rouge_scoring": tables.rouge_scoring,
    "decoding": tables.decoding,
    "decoding_content": tables.decoding,
    "decoding_cpu": tables.decoding,
    "bpe_encoding": tables.bpe_encoding,
    "training_profile": tables.training_profile,
    "training_profile_2": tables.training_profile,
    "training_updates": tables.training_updates,
    "vocabulary_loss": tables.vocabulary_loss,
    "vocabulary_loss_cpu": tables.vocabulary_loss,
}
# A plan's name -> the system that the others stand beside
BESIDE = {"content": "full", "switch": "full", "paper": "segmented s=16", "long": "full", "lengths": "chunked 1024"}
REPORTS = {
    f"evidence_{name}": (f"evidence/{name}/report.json", partial(tables_of_evidence.quality, peer=peer))
    for name, peer in BESIDE.items()
}
OF_ALL = {"headline": summaries.headline, "summary": summaries.summary}


def pages():
    """The files that may show tables: README.md and the pages of docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def render(text, results):
    """`text` with every marked table made anew from the JSON files of folder `results`."""

    def table(match):
        name = match.group(2)
        if name in OF_ALL:
            files = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in results.glob("*.json")}
            return match.group(1) + OF_ALL[name](files) + match.group(3)
        if name not in {**TABLES, **REPORTS}:
            raise SystemExit(f"no table {name!r}; known: {', '.join([*OF_ALL, *REPORTS, *TABLES])}")
        file, make = REPORTS.get(name) or (f"{name}.json", TABLES[name])
        path = results / file
        if not path.exists():
            return f"{match.group(1)}Not measured yet.\n{match.group(3)}"
        rows = json.loads(path.read_text(encoding="utf-8"))
        return match.group(1) + make(rows) + match.group(3)

    return MARKED.sub(table, text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where a page is not up to date")
    options = parser.parse_args()
    results = ROOT / "benchmarks" / "results"
    for name in plots.outdated(results):
        if options.check:
            sys.exit(f"{name} does not show benchmarks/results: run python -m benchmarks.readme_tables")
        plots.draw(name, results)
    for page in pages():
        old = page.read_text(encoding="utf-8")
        new = render(old, results)
        if old != new and options.check:
            sys.exit(f"{page.name} does not show benchmarks/results: run python -m benchmarks.readme_tables")
        if old != new:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
