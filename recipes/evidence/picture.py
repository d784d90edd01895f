"""Quality over cost: a PNG with ROUGE-1 over the operations of the cross-attention."""

import logging

from data_prep.whole import whole_file


def draw(path, rows, against):
    """Draw systems that have scores; whiskers are the 95% interval over texts. Those of `against` are filled.

    Nothing is written if there are none.
    """
    rows = [row for row in rows if row.score is not None and row.cost is not None]
    if not rows:
        return
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # importing fairseq lets everything through
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shares = [row.cost.operations for row in rows]
    middle = (min(shares) * max(shares)) ** 0.5
    for row in rows:
        mean, (low, high) = row.score.mean[0], row.score.over_texts[:, 0]
        axes.errorbar(
            row.cost.operations,
            mean,
            [[mean - low], [high - mean]],
            marker="o",
            capsize=2,
            lw=1,
            color="black" if row.name in against else "tab:blue",
            mfc=None if row.name in against else "white",
        )
        side = "right" if row.cost.operations > middle else "left"  # names stay inside the frame
        axes.annotate(
            row.name,
            (row.cost.operations, mean),
            xytext=(5 if side == "left" else -5, 4),
            textcoords="offset points",
            ha=side,
            fontsize="small",
        )
    axes.set(xscale="log", xlabel="operations of the cross-attention, share of full attention's", ylabel="ROUGE-1")
    axes.grid(alpha=0.3)
    with whole_file(path, "wb") as file:
        figure.savefig(file, dpi=120, metadata={"Software": None})
