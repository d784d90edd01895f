"""Put the tables of benchmarks/results/*.json into README.md and docs/*.md: `python -m benchmarks.readme_tables`.

A table stands between `<!-- results: NAME -->` and `<!-- end -->`, NAME being the JSON file's (or "summary", lines of
all of them, or "headline", a few of these); only what is between the marks is replaced. Pictures (benchmarks/plots.py)
are drawn anew where their numbers changed. `--check` changes nothing and fails where a page or a picture and the JSON
disagree.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from benchmarks import plots
from benchmarks.fits import series

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
            f"| {row['ratio']:.{1 if row['peak_mib'] else 2}f} | {_number(row['peak_mib'], ',')} |"
            for row in rows
        ),
        f"Beam {case['beam']}, {case['tokens']} tokens, {case['dtype']}, random weights",
        first,
        f"torch {first['torch']}",
    )


def hypotheses(rows):
    """How often both generators find the same, and their speeds, a line per precision and beam."""
    case, first = rows[0]["case"], rows[0]
    return _table(
        "| dtype | beam | equal | stock equal to itself in float32 | largest difference of a token's score "
        "| --fast-generate, tokens/s | stock, tokens/s | ratio |",
        (
            f"| {row['case']['dtype']} | {row['case']['beam']} | {row['equal']:.1%} "
            f"| {row['stock_equal_to_float32']:.1%} | {row['largest_score_difference']:.1e} "
            f"| {row['ours']:,.0f} | {row['theirs']:,.0f} | {row['ratio']:.1f} |"
            for row in rows
        ),
        f"{case['sources']} sources, length penalty {case['len_penalty']:g}, {case['min_len']} to {case['max_len']} "
        f"tokens, no {case['no_repeat_ngram_size']}-gram twice",
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


def attention_core(rows):
    """Milliseconds of one layer's attention, forward and backward, a line per size, peer and way of launching."""
    first = rows[0]
    return _table(
        "| B x T x N | | SRformer (triton), ms | peer | peer, ms | peer / ours |",
        (
            f"| {_size(row)} | {'CUDA graph' if row['case']['mode'].startswith('graph') else 'eager'} "
            f"| {_number(row['ours'], '.3f')} | {row['peer']} | {_number(row['theirs'], '.3f')} "
            f"| {_number(row['ratio'], '.2f')} |"
            for row in rows
        ),
        f"Forward and backward of one layer's attention core, {first['case']['dtype']}, segments of "
        f"{first['case']['segment']}",
        first,
        f"torch {first['torch']}",
    )


# Modes of the two benchmarks of segments chosen by content, in words
MODES = {
    "both_ms": "training, eager",
    "graph_both_ms": "training, CUDA graph",
    "graph_ms": "one decoding step, CUDA graph",
    "forward": "forward",
    "both": "training",
    "step": "one decoding step",
}


def attention_content(rows):
    """Milliseconds of attention to segments chosen by content, a line per size and way of running it."""
    lines, first = [], rows[0]
    for row in rows:
        case = row["case"]
        targets = f"{case['hypotheses']} hypotheses" if "hypotheses" in case else case["targets"]
        lines.append(
            f"| {case['batch']} x {targets} x {case['source']} | {MODES[case['mode']]} | {_number(row['ours'], '.3f')} "
            f"| {row['peer']} | {_number(row['theirs'], '.3f')} | {_number(row['ratio'], '.2f')} |"
        )
    return _table(
        "| B x T x N | | content, ms | peer | peer, ms | peer / ours |",
        lines,
        f"{first['case']['chosen']} segments of {first['case']['segment']} per query and head, "
        f"{first['case']['dtype']}",
        first,
        f"torch {first['torch']}",
    )


def training_step(rows):
    """Milliseconds and memory of a training step, a line per batch shape, system and clock; where it goes, if known."""
    first = rows[0]
    parts = list(dict.fromkeys(part for row in rows for part in row["ranges_ms"] or {}))
    lines = []
    for row in rows:
        shares = row["ranges_ms"] or {}
        cells = [
            _size(row),
            row["case"]["system"],
            row["case"]["time"],
            _number(row["ours"], ".1f"),
            _number(row["ratio"], ".2f"),
            _number(row["peak_mib"], ",") if row["ours"] else row["not_timed"],
            *(_number(shares.get(part), ".1f") for part in parts),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return _table(
        "| B x T x N | system | time | ms per step | stock / ours | peak MiB |" + "".join(f" {x}, ms |" for x in parts),
        lines,
        f"{first['case']['precision']}, random weights; `wall` by the clock, `device` what the device is busy",
        first,
        f"torch {first['torch']}",
    )


def scaling(rows):
    """Milliseconds at every source length, and how many times as fast as the peer; a line per pass and system."""
    first = rows[0]
    lengths = sorted({row["case"]["source"] for row in rows})
    lines = []
    for kind, title in plots.PASSES.items():
        for (system, measured), group in series(rows).items():
            if measured == kind:
                cells = {row["case"]["source"]: f"{row['ours']:.3g} ({_number(row['ratio'], '.2f')})" for row in group}
                numbers = " | ".join(cells.get(length, "-") for length in lengths)
                lines.append(f"| {title} | {system} | {_number(group[0]['exponent'], '.2f')} | {numbers} |")
    return _table(
        "| | system | a of N^a |" + "".join(f" N = {length:,} |" for length in lengths),
        lines,
        f"Milliseconds (in brackets: time of {first['peer']} / this one's); one sentence, {first['case']['targets']} "
        f"target positions, {first['case']['dtype']}; a from N = {first['exponent_from']:,} on",
        first,
        f"torch {first['torch']}",
    )


ENCODER_PASSES = {"forward": "forward", "both": "forward + backward"}


def encoders(rows):
    """Milliseconds of an encoder at every source length, and how many times as fast as the stock one."""
    first = rows[0]
    lengths = sorted({row["case"]["source"] for row in rows})
    lines = []
    for (system, measured), group in series(rows).items():
        cells = " | ".join(f"{row['ours']:,.0f} ({_number(row['ratio'], '.2f')})" for row in group)
        exponent = _number(group[0]["exponent"], ".2f")
        lines.append(f"| {system} | {ENCODER_PASSES[measured]} | {exponent} | {cells} |")
    return _table(
        "| --encoder-attention | | a of N^a |" + "".join(f" N = {length:,} |" for length in lengths),
        lines,
        f"Milliseconds (in brackets: time of {first['peer']} / this one's); one sentence, {first['case']['dtype']}; a "
        f"from N = {first['exponent_from']:,} on",
        first,
        f"torch {first['torch']}",
    )


def operations(rows):
    """Operations of the attention core beside full attention's, a line per size and segment size."""
    lines = []
    for row in rows:
        case = row["case"]
        clip = f"{case['clip']:g}" if case["clip"] else "none"
        lines.append(
            f"| {case['targets']} | {case['source']:,} | {case['segment']} | {clip} | {row['ours'] / 1e6:,.0f} "
            f"| {row['theirs'] / 1e6:,.0f} | {row['ratio']:.2f} | {row['saved_percent']:.1f}% "
            f"| {row['saved_percent_with_projections']:.1f}% |"
        )
    return _table(
        "| T | N | segment | clip | SRformer, million | full attention, million | full / SRformer | fewer "
        "| fewer with the projections |",
        lines,
        f"Forward, one sentence, {rows[0]['case']['heads']} heads of {rows[0]['case']['head_dim']}; counted, not timed",
        rows[0],
        f"torch {rows[0]['torch']}",
    )


def _size(row):
    return " x ".join(str(row["case"][name]) for name in ("batch", "targets", "source"))


def _number(value, style):
    return "-" if value is None else format(value, style)


# Of the lines of `summary`, those that README shows: what, and beside what.
HEADLINE = (
    ("attention core, T 128, N 1,024", "full attention"),
    ("attention core, 4 x 512 x 16384, forward + backward as a CUDA graph", "sdpa default"),
    ("training step, 1 x 512 x 16,384 (triton, fused_adam)", "bart_base"),
    ("the same, 1 x 512 x 16,384", "bart_base, fused_adam"),
    ("beam search with --fast-generate, 32 x 1,024", "bart_base, stock generator"),
    ("the same, 32 x 1,024", "full attention, --fast-generate"),
    ("beam search with --fast-generate, 4 x 16,384", "bart_base, stock generator"),
    ("the same, 4 x 16,384", "full attention, --fast-generate"),
)


def headline(results):
    """The few lines of README."""
    head, rule, *lines = summary(results).rstrip("\n").split("\n")
    shown = [line for what, beside in HEADLINE for line in lines if f"| {what} |" in line and f", {beside} |" in line]
    return "\n".join([head, rule, *shown, ""])


def summary(results):
    """SRformer beside its peers, in every benchmark that has results."""
    lines = []

    def add(what, row, peer=None, theirs=None):
        theirs = row["theirs"] if theirs is None else theirs
        faster = row["unit"] in ("tokens/s", "pairs/s")  # more is better
        ratio = row["ours"] / theirs if faster else theirs / row["ours"]
        ratio = row["ratio"] if theirs == row["theirs"] else ratio  # of times that were not rounded
        unit = "million operations" if row["unit"] == "operations" else row["unit"]
        ours, theirs = (x / 1e6 if row["unit"] == "operations" else x for x in (row["ours"], theirs))
        ours, theirs = (f"{x:,.0f}" if x >= 1000 else f"{x:.4g}" for x in (ours, theirs))
        lines.append(f"| {what} | {ours} {unit} | {theirs}, {peer or row['peer']} | {ratio:.2f} |")

    if "operations" in results:
        row = results["operations"][0]
        add(f"attention core, T {row['case']['targets']}, N {row['case']['source']:,}", row)
    for row in results.get("attention_core", []):
        if row["case"]["mode"] == "graph_both_ms" and row["peer"] == "sdpa default" and row["ours"]:
            add(f"attention core, {_size(row)}, forward + backward as a CUDA graph", row)
    for case, rows in _by_size(results.get("training_step", [])).items():
        for kind, clock in (("wall", ""), ("device", ", the device's time")):
            timed = {row["case"]["system"]: row for row in rows if row["case"]["time"] == kind and row["ours"]}
            # with our optimizer where that was timed; beside stock, and beside what has all of ours but the attention
            for fused, other in ((True, "bart_base, fused_adam"), (False, "full attention")):
                names = [x for x in timed if x.startswith("srformer") and x.endswith("fused_adam") == fused]
                if names:
                    best = min(names, key=lambda name: timed[name]["ours"])
                    add(f"training step, {case} ({best.split(', ', 1)[1]}){clock}", timed[best])
                    if other in timed:
                        shown = "full attention of this package" if other == "full attention" else other
                        add(f"the same, {case}", timed[best], shown, timed[other]["ours"])
                    break
    for row in results.get("training_updates", []):
        if row["case"]["model"] == "srformer_bart_base" and row["case"]["precision"] == "bf16":
            add(f"fairseq-train, {row['case']['batch']} x {row['case']['source']}", row)
    for case, rows in _by_size(results.get("decoding", [])).items():
        found = {row["case"]["system"]: row for row in rows}
        ours = found.get("srformer_bart_base, --fast-generate")
        if ours:
            add(f"beam search with --fast-generate, {case}", ours)
            full = found.get("full attention, --fast-generate")
            if full:
                add(f"the same, {case}", ours, "full attention, --fast-generate", full["ours"])
    for name, what in (("bpe_encoding", "GPT-2 BPE"), ("rouge_scoring", "ROUGE")):
        if name in results:
            row = results[name][-1]
            add(f"{what} of {row['case']['pairs']:,} pairs, {row['case']['workers']} processes", row)
    return "\n".join(["| what | SRformer, this package | beside | times as fast |", "|---|---|---|---|", *lines, ""])


def _by_size(rows):
    found = {}
    for row in rows:
        case = row["case"]
        size = " x ".join(f"{case[name]:,}" for name in ("batch", "targets", "source") if name in case)
        found.setdefault(size, []).append(row)
    return found


TABLES = {
    "hypotheses": hypotheses,
    "attention_core": attention_core,
    "attention_content": attention_content,
    "attention_content_cpu": attention_content,
    "training_step": training_step,
    "encoders": encoders,
    "encoders_cpu": encoders,
    "scaling": scaling,
    "scaling_cpu": scaling,
    "operations": operations,
    "rouge_scoring": rouge_scoring,
    "decoding": decoding,
    "decoding_cpu": decoding,
    "bpe_encoding": bpe_encoding,
    "training_updates": training_updates,
    "training_updates_t5": training_updates,
}
OF_ALL = {"headline": headline, "summary": summary}


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
        if name not in TABLES:
            raise SystemExit(f"no table {name!r}; known: {', '.join([*OF_ALL, *TABLES])}")
        rows = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        return match.group(1) + TABLES[name](rows) + match.group(3)

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
