"""The picture of one or more trainings."""

from itertools import cycle

import matplotlib

from srformer_plugin.scoring.evaluate import LABELS

matplotlib.set_loglevel("warning")  # importing fairseq sets the root logger to DEBUG
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402 (its import logs, too)
from matplotlib.figure import Figure  # noqa: E402

SPLITS = {"train": {"lw": 0.8, "alpha": 0.6}, "valid": {"lw": 2, "marker": "o", "ms": 4}}
ROUGE = {"rouge1": "-", "rouge2": "--", "rougeLsum": ":"}


def draw(logs, path):
    """Draw losses, and ROUGE where there is any, against updates for ``{name: TrainingLog}``.

    A training loss is a thin line, a validation loss a thick one with points. The same logs give the same bytes.
    """
    panels = 2 if any(log.rouge for log in logs.values()) else 1
    figure = Figure(figsize=(7 * panels, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    loss, *rouge = figure.subplots(1, panels, squeeze=False)[0]
    for name, color, log in zip(logs, cycle(f"C{number}" for number in range(10)), logs.values()):
        for split, style in SPLITS.items():
            _line(loss, getattr(log, split), color=color, label=f"{name}, {split}", **style)
        for kind, style in ROUGE.items():
            if kind in log.rouge:
                style = {"ls": style, "marker": "o", "ms": 4, "label": f"{name}, {LABELS[kind]}"}
                _line(rouge[0], log.rouge[kind], color=color, **style)
    loss.set(xlabel="updates", ylabel="loss (bits per target token)", title="Learning curves")
    if rouge:
        rouge[0].set(xlabel="updates", ylabel="F1 (%)", title="ROUGE of the validation set")
    for axes in (loss, *rouge):
        axes.grid(alpha=0.3)
        axes.legend()
    # no version of matplotlib in the file
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _line(axes, curve, **style):
    updates = sorted(curve)
    if updates:
        axes.plot(updates, [curve[update] for update in updates], **style)
