"""Tables with a column for every length of the source, made of the rows of a JSON file."""

from benchmarks import plots
from benchmarks.fits import series
from benchmarks.markdown import number, table


def scaling(rows):
    """Milliseconds at every source length, and how many times as fast as the peer; a line per pass and system."""
    first = rows[0]
    lengths = sorted({row["case"]["source"] for row in rows})
    lines = []
    for kind, title in plots.PASSES.items():
        for (system, measured), group in series(rows).items():
            if measured == kind:
                cells = {row["case"]["source"]: f"{row['ours']:.3g} ({number(row['ratio'], '.2f')})" for row in group}
                numbers = " | ".join(cells.get(length, "-") for length in lengths)
                lines.append(f"| {title} | {system} | {number(group[0]['exponent'], '.2f')} | {numbers} |")
    return table(
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
        cells = " | ".join(f"{row['ours']:,.0f} ({number(row['ratio'], '.2f')})" for row in group)
        exponent = number(group[0]["exponent"], ".2f")
        lines.append(f"| {system} | {ENCODER_PASSES[measured]} | {exponent} | {cells} |")
    return table(
        "| --encoder-attention | | a of N^a |" + "".join(f" N = {length:,} |" for length in lengths),
        lines,
        f"Milliseconds (in brackets: time of {first['peer']} / this one's); one sentence, {first['case']['dtype']}; a "
        f"from N = {first['exponent_from']:,} on",
        first,
        f"torch {first['torch']}",
    )
