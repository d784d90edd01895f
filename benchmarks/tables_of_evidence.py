"""What a plan of experiments found (recipes/compare.sh), in a few lines: its report.json."""

from statistics import fmean


def quality(report, peer):
    """Scores, loss and cost of the systems that have been run; ROUGE-1 beside that of system `peer` too."""
    lines = []
    for row in report["systems"]:
        if not (score := row["score"]):
            continue
        beside = row["against"].get(peer) or {}
        losses = [run["loss"] for run in row["runs"] if run["loss"] is not None]
        cells = [
            row["system"],
            str(len(score["seeds"])),
            f"{row['keys']:.2f}",
            f"{row['operations']:.2f}",
            f"{fmean(losses):.3f}",
            _interval(score, "{:.2f}"),
            _interval(beside, "{:+.2f}") if beside.get("over_texts") else "",  # with seeds in common
        ]
        lines.append(f"| {' | '.join(cells)} |")
    heads = ("system", "seeds", "keys attended", "operations", "loss", "ROUGE-1", f"ROUGE-1 beside {peer}, paired")
    return "\n".join([f"| {' | '.join(heads)} |", "|---|---|---|---|---|---|---|", *lines, ""])


def _interval(estimate, form):
    low, high = (form.format(x) for x in estimate["over_texts"]["rouge1"])
    return f"{form.format(estimate['mean']['rouge1'])} ({low} to {high})"
