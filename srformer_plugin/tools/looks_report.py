"""What `where_it_looks` says: in words, as a table, and as a picture."""

from ..attention.method.memory import MEMORIES, RAFMemory
from ..attention.settings import HEPOS

TITLES = {"attention": "attention", "segments": "segments attended to"}


def what_is_read(model) -> str:
    """In words, what the weights of a model's cross-attention are of."""
    settings = getattr(model.decoder, "settings", None)
    if settings is None or settings.is_full:
        return "the whole source"
    if settings.cross_attention == HEPOS:
        return f"every token of the source, each head one of {settings.head_stride}"
    size = settings.segment_size
    if settings.by_content:
        text = f"{settings.segments_per_query} segments of {size} tokens, which every head of a position chooses"
    else:
        text = f"one segment of {size} tokens, which the position in the target decides, not its content"
    memory = MEMORIES[settings.cross_attention]
    if memory is RAFMemory:
        text += "; what the recurrent memory adds of all others has no weights and is not counted"
    elif memory.joins_softmax:
        text += "; and the means of all others, whose weight is spread evenly over their tokens"
    elif memory.needs_clock:
        text += "; and the segment visited before"
    return text


def table(result: dict) -> str:
    """The result as text."""
    counts = result["counts"]
    lines = [
        f"reads {result['reads']}",
        f"{counts['measured']:,} of {counts['examples']:,} examples, on the {result['target']}; nothing is known of "
        f"{counts['without_spans']:,}, and of {counts['cut_off']:,} all that is relevant is cut off, of "
        f"{counts['cut_in_part']:,} a part",
        "",
        f"{'':22}{'share':>8}{'chance':>8}{'ratio':>8}  95%",
    ]
    for kind in filter(result.__contains__, TITLES):
        whole = result[kind]
        for name, row in [(TITLES[kind], whole), *((f"  layer {n}", row) for n, row in enumerate(whole["layers"], 1))]:
            low, high = row["ratio_interval"]
            lines.append(
                f"{name:22}{row['share']:8.1%}{whole['chance']:8.1%}{row['ratio']:8.2f}  {low:.2f} to {high:.2f}"
            )
    return "\n".join(lines)


def draw(path, result: dict) -> None:
    """A picture of the ratios by layer, with their intervals."""
    # matplotlib takes a second to import
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axhline(1, color="grey", linestyle=":", label="chance")
    for kind in filter(result.__contains__, TITLES):
        rows = result[kind]["layers"]
        below = [row["ratio"] - row["ratio_interval"][0] for row in rows]
        above = [row["ratio_interval"][1] - row["ratio"] for row in rows]
        ratios = [row["ratio"] for row in rows]
        # an interval of percentiles need not hold the mean
        errors = [[max(x, 0) for x in below], [max(x, 0) for x in above]]
        axes.errorbar(range(1, len(rows) + 1), ratios, errors, marker="o", capsize=3, label=kind)
    axes.set(xlabel="decoder layer", ylabel="share of what is relevant / chance")
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})
