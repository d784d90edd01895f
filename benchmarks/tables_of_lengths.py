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


def long_document(rows):
    """Seconds at every length of a document and how many times as fast as the peer, and the peak; a line per pass."""
    lengths = sorted({row["case"]["source"] for row in rows})
    lines = []
    for (system, kind), group in series(rows).items():
        cells = {row["case"]["source"]: _seconds(row) for row in group}
        shown = " | ".join(cells.get(length, "-") for length in lengths)
        lines.append(f"| {system} | {kind}, s | {number(group[0]['exponent'], '.2f')} | {shown} |")
        peaks = {row["case"]["source"]: row["peak_mib"] for row in group}
        if kind == "whole" and any(peaks.values()):
            shown = " | ".join(number(peaks.get(length), ",") for length in lengths)
            lines.append(f"| {system} | peak, MiB | - | {shown} |")
    ours = next(row for row in rows if row["case"]["system"] != row["peer"])
    fitted = f"; a from N = {ours['exponent_from']:,} on" if ours["exponent"] is not None else ""
    return table(
        "| system | | a of N^a |" + "".join(f" N = {length:,} |" for length in lengths),
        lines,
        f"In brackets the time of {ours['peer']} / this one's; one document, beam {ours['case']['beam']}, "
        f"{ours['case']['tokens']} tokens, {ours['case']['dtype']}, random weights{fitted}",
        ours,
        f"torch {ours['torch']}",
    )


def _seconds(row):
    if not row["ours"]:
        return row["not_timed"]
    return f"{row['ours']:.3g}" + (f" ({row['ratio']:.2f})" if row["ratio"] else "")
