"""The report of `data_prep.prepare`: what is in the corpus, and what is not and why."""

from data_prep.text import SIDES

# Counts in the order in which a reader of the report wants them.
ROWS = [
    ("read", "records read"),
    ("empty source", "left out: empty source"),
    ("empty target", "left out: empty target"),
    ("duplicate", "duplicates in the split"),
    ("overlap", "left out: document of a held-out split"),
    ("truncated source", "truncated source"),
    ("truncated target", "truncated target"),
    ("written", "**written**"),
]


def report(manifest):
    """Markdown of a manifest."""
    splits = list(manifest["counts"])
    lines = [f"# {manifest['format']}", "", "| | " + " | ".join(splits) + " |", "|---|" + "---|" * len(splits)]
    for key, title in ROWS:
        cells = [manifest["counts"][split].get(key, 0) for split in splits]
        lines.append(f"| {title} | " + " | ".join(map(str, cells)) + " |")
    for side in SIDES:
        lengths = manifest["words"][side]
        cells = [f"{lengths[s]['median']}, {lengths[s]['p95']}, {lengths[s]['max']}" for s in splits]
        lines.append(f"| {side} words: median, p95, max | " + " | ".join(cells) + " |")
    cells = [f"{manifest['target_sentences'][split]['mean']:.2f}" for split in splits]
    lines.append("| sentences per target, mean | " + " | ".join(cells) + " |")
    removed = manifest["options"]["duplicates"]
    lines += [
        "",
        f"Duplicates are removed from: {removed}. Lengths are those before truncation.",
        "",
        "![lengths](histogram.png)",
        "",
        "## Documents in two splits",
        "",
    ]
    lines += [f"- {pair}: {count}" for pair, count in manifest["overlaps"].items()] or ["- one split only"]
    if manifest["options"]["remove_overlap"]:
        lines.append("\nThose of train are removed.")
    lines += ["", f"## Malformed records: {manifest['malformed']}", ""]
    lines += [f"- {example}" for example in manifest["malformed_examples"]]
    if manifest["malformed"] > len(manifest["malformed_examples"]):
        lines.append("- ... (all of them: malformed.jsonl)")
    if manifest["lines"]:
        heads = ["lines", "header", "blank", "records", "in_records", "malformed"]
        titles = " | ".join(heads).replace("in_records", "lines of them")
        lines += ["", "## Lines of the raw files", "", f"| | {titles} |"]
        lines.append("|---|" + "---|" * len(heads))
        for file, counts in manifest["lines"].items():
            lines.append(f"| {file} | " + " | ".join(str(counts[head]) for head in heads) + " |")
    if manifest["notes"]:
        lines += ["", "## Kept, and worth knowing", ""]
        lines += [f"- {note}: {count} documents" for note, count in manifest["notes"].items()]
    return "\n".join(lines) + "\n"
