"""Lengths: collected in little memory, summarised, and drawn."""

from array import array


class Lengths:
    """Some numbers, of which the summary and the histogram are asked for later; four bytes each."""

    def __init__(self):
        self.values = array("I")

    def add(self, value):
        self.values.append(value)

    def keep(self, flags):
        """Leave out every value whose flag is false."""
        self.values = array("I", (value for value, stays in zip(self.values, flags) if stays))

    def summary(self):
        """`{"mean", "median", "p95", "max"}`; percentiles are values that occur (nearest rank)."""
        ordered = sorted(self.values)
        if not ordered:
            return {"mean": 0, "median": 0, "p95": 0, "max": 0}
        rank = len(ordered) - 1
        return {
            "mean": round(sum(ordered) / len(ordered), 2),
            "median": ordered[rank // 2],
            "p95": ordered[round(rank * 0.95)],
            "max": ordered[-1],
        }


def draw_histograms(path, panels, unit):
    """Write a PNG with one panel a side: `panels` is `{title: {split: Lengths}}`, with logarithmic lengths."""
    # matplotlib takes a second to import, and no worker needs it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(panels), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, splits) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        longest = max((max(lengths.values) for lengths in splits.values() if lengths.values), default=1)
        edges = [max(longest, 2) ** (step / 40) for step in range(41)]
        edges[-1] *= 1.001  # rounding must not put the longest outside
        for split, lengths in splits.items():
            count = len(lengths.values)
            if count:
                axes.hist(lengths.values, edges, weights=[100 / count] * count, histtype="step", label=split)
        axes.set(xscale="log", xlabel=f"{unit} per {title}", ylabel="% of the split")
        axes.legend()
    # no version of matplotlib in the file: the same data give the same bytes
    figure.savefig(path, dpi=120, metadata={"Software": None})
