"""Draw the picture of the method: `python -m docs.draw_method` writes docs/method.png.

Which position attends to which segment is taken from the schedule itself.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from srformer_plugin.attention.method.reference import segment_of_position

SEGMENTS, SEGMENT_SIZE, TARGETS = 4, 4, 8
COLOURS = ["#4C72B0", "#55A868", "#DD8452", "#8172B3"]
GREY = "#555555"


matplotlib.set_loglevel("warning")  # importing fairseq sets the root logger to DEBUG


def box(axes, x, y, width, text, colour, height=0.62, alpha=0.25):
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0.02,rounding_size=0.08",
            ec=colour,
            fc=(*matplotlib.colors.to_rgb(colour), alpha),
            lw=1.4,
        )
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def arrow(axes, start, end, colour, style="-|>", curve=0.0, width=1.4):
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=style,
            mutation_scale=11,
            color=colour,
            lw=width,
            connectionstyle=f"arc3,rad={curve}",
            shrinkA=1,
            shrinkB=1,
        )
    )


def main():
    figure, axes = plt.subplots(figsize=(10, 5.2))
    axes.set_xlim(-2.9, SEGMENTS * SEGMENT_SIZE + 0.6)
    axes.set_ylim(-0.55, 6.6)
    axes.axis("off")

    for row, label in (
        (0.0, "source,\nin segments"),
        (2.0, "key-value products\nof the other segments"),
        (3.5, "RAF neuron,\none step a segment"),
        (5.6, "target\npositions"),
    ):
        axes.text(-2.85, row + 0.3, label, ha="left", va="center", fontsize=9.5, color=GREY)

    for j in range(SEGMENTS):
        x = j * SEGMENT_SIZE + 0.3
        for n in range(SEGMENT_SIZE):
            axes.add_patch(Rectangle((x + n * 0.8, 0), 0.72, 0.6, fc=COLOURS[j], ec="white", alpha=0.85))
        axes.text(x + 1.55, -0.35, f"segment {j}", ha="center", fontsize=9, color=COLOURS[j])
        box(axes, x + 0.45, 2.0, 2.2, f"$C_{j} = \\varphi(S) - \\varphi(S_{j})$", COLOURS[j])
        box(axes, x + 0.45, 3.5, 2.2, f"$U_{j}$, fires $P_{j}$", COLOURS[j])
        arrow(axes, (x + 1.55, 0.65), (x + 1.55, 1.97), GREY, width=1)
        arrow(axes, (x + 1.55, 2.68), (x + 1.55, 3.47), COLOURS[j])
        if j:
            arrow(axes, (x - SEGMENT_SIZE + 2.7, 3.8), (x + 0.42, 3.8), GREY)
            axes.text(x - 0.62, 3.93, "leak", ha="center", fontsize=8, color=GREY)

    step = SEGMENTS * SEGMENT_SIZE / TARGETS
    for t in range(TARGETS):
        j = segment_of_position(t, SEGMENTS, TARGETS)
        centre = t * step + step / 2 - 0.15
        box(axes, centre - 0.75, 5.6, 1.5, f"$q_{t}$", COLOURS[j], alpha=0.5)
        origin = j * SEGMENT_SIZE + 1.85
        side = 1.38 if t % 2 else -1.38
        arrow(axes, (origin + side, 0.65), (centre + side * 0.45, 5.57), COLOURS[j], curve=0.0, width=2)
        arrow(axes, (origin + side * 0.25, 4.15), (centre - side * 0.15, 5.57), COLOURS[j], style="->", width=1)

    axes.text(
        7.6,
        6.42,
        "a position attends by softmax to one segment (thick) and reads what the neuron carries of all others (thin)",
        ha="center",
        fontsize=10,
    )
    figure.tight_layout(pad=0.3)
    figure.savefig(Path(__file__).with_name("method.png"), dpi=130)


if __name__ == "__main__":
    main()
