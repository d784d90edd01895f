"""SRformer beside its peers in a few lines, made of the rows of all benchmarks."""

from benchmarks.markdown import size
from benchmarks.ratios import ratio, times_as_fast

# Of the lines of `summary`, those that README shows: what, and beside what.
HEADLINE = (
    ("attention core, 4 x 512 x 16384, forward + backward as a CUDA graph", "sdpa default"),
    ("training step, 64 x 128 x 1,024 (triton, fused_adam, fused loss)", "bart_base"),
    ("the same, 64 x 128 x 1,024", "bart_base, fused_adam"),
    ("fairseq-train, 64 articles of 1,024 tokens (fused_adam, fused loss)", "bart_base, fused_adam"),
    ("training step, 4 x 512 x 16,384 (chunked, content, fused_adam)", "bart_base"),
    ("beam search with --fast-generate, 32 x 1,024", "bart_base, stock generator"),
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
        faster = times_as_fast(row["unit"], row["ours"], theirs)
        unit = "million operations" if row["unit"] == "operations" else row["unit"]
        ours, theirs = (x / 1e6 if row["unit"] == "operations" else x for x in (row["ours"], theirs))
        ours, theirs = (f"{x:,.0f}" if x >= 1000 else f"{x:.4g}" for x in (ours, theirs))
        lines.append(f"| {what} | {ours} {unit} | {theirs}, {peer or row['peer']} | {faster:.2f} |")

    if "operations" in results:
        row = results["operations"][0]
        add(f"attention core, T {row['case']['targets']}, N {row['case']['source']:,}", row)
    for row in results.get("attention_core", []):
        if row["case"]["mode"] == "graph_both_ms" and row["peer"] == "sdpa default" and row["ours"]:
            add(f"attention core, {size(row)}, forward + backward as a CUDA graph", row)
    for case, rows in _by_size(results.get("training_step", [])).items():
        for kind, clock in (("wall", ""), ("device", ", the device's time")):
            timed = {row["case"]["system"]: row for row in rows if row["case"]["time"] == kind and row["ours"]}
            # with our optimizer where that was timed; beside stock, and beside what has all of ours but the attention
            for ending, other in (
                ("fused_adam, fused loss", "bart_base, fused_adam"),  # as recipes train
                ("fused_adam", "bart_base, fused_adam"),
                ("", "full attention"),
            ):
                ours = (x for x in timed if x.startswith("srformer"))
                names = [x for x in ours if ", ".join(x.split(", ")[2:]) == ending]  # behind model and backend
                if names:
                    best = min(names, key=lambda name: timed[name]["ours"])
                    add(f"training step, {case} ({best.split(', ', 1)[1]}){clock}", timed[best])
                    if other in timed:
                        shown = "full attention of this package" if other == "full attention" else other
                        add(f"the same, {case}", timed[best], shown, timed[other]["ours"])
                    break
    for case, rows in _by_size(results.get("training_long", [])).items():
        for row in rows:
            if row["case"]["system"].startswith("chunked") and row["case"]["time"] == "wall" and ratio(row):
                add(f"training step, {case} ({row['case']['system']})", row)
    for case, rows in _by_articles(results.get("training_profile", [])).items():
        found = {row["case"]["system"]: row for row in rows}
        for peer in ("bart_base", "bart_base, fused_adam"):
            for system in found:
                if system.startswith("srformer") and peer in found:
                    add(f"fairseq-train, {case} ({system.split(', ', 1)[1]})", found[system], peer, found[peer]["ours"])
    for name, system, chosen in (
        ("decoding", "srformer_bart_base", ""),
        ("decoding_content", "content", ", segments chosen by content"),
    ):
        for case, rows in _by_size(results.get(name, [])).items():
            found = {row["case"]["system"]: row for row in rows}
            ours, full = (found.get(f"{which}, --fast-generate") for which in (system, "full attention"))
            if ours and ours["theirs"]:
                add(f"beam search with --fast-generate{chosen}, {case}", ours)
            if ours and full:
                add(f"the same{chosen}, {case}", ours, full["case"]["system"], full["ours"])
    for name, what in (("bpe_encoding", "GPT-2 BPE"), ("rouge_scoring", "ROUGE")):
        if name in results:
            row = results[name][-1]
            add(f"{what} of {row['case']['pairs']:,} pairs, {row['case']['workers']} processes", row)
    return "\n".join(["| what | SRformer, this package | beside | ratio |", "|---|---|---|---|", *lines, ""])


def _by_size(rows):
    found = {}
    for row in rows:
        case = row["case"]
        size = " x ".join(f"{case[name]:,}" for name in ("batch", "targets", "source") if name in case)
        found.setdefault(size, []).append(row)
    return found


def _by_articles(rows):
    """Whole updates of one process by the host's clock: articles and tokens -> rows."""
    found = {}
    for row in rows:
        case = row["case"]
        if case["time"] == "host" and case["processes"] == 1:
            found.setdefault(f"{case['batch']} articles of {case['source']:,} tokens", []).append(row)
    return found
