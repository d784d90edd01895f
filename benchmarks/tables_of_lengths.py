"""Tables with a column for every length of the source, made of the rows of a JSON file."""

from benchmarks import plots
from benchmarks.fits import series
from benchmarks.markdown import number, table
from benchmarks.ratios import ratio


def _header(first_columns, lengths):
    return first_columns + "".join(f" N = {length:,} |" for length in lengths)


def scaling(rows):
    """Milliseconds at every source length, and how many times as fast as the peer; a line per pass and system."""
    first = rows[0]
    lengths = sorted({row["case"]["source"] for row in rows})
    lines = []
    for kind, title in plots.PASSES.items():
        for (system, measured), group in series(rows).items():
            if measured == kind:
                cells = {row["case"]["source"]: f"{row['ours']:.3g} ({number(ratio(row), '.2f')})" for row in group}
                numbers = " | ".join(cells.get(length, "-") for length in lengths)
                lines.append(f"| {title} | {system} | {number(group[0]['exponent'], '.2f')} | {numbers} |")
    return table(
        _header("| | system | a of N^a |", lengths),
        lines,
        f"Milliseconds (in brackets: time of {first['peer']} / this one's); one sentence, {first['case']['targets']} "
        f"target positions, {first['case']['dtype']}; a from N = {first['exponent_from']:,} on",
        first,
        f"torch {first['torch']}",
    )


ENCODER_PASSES = {"forward": "forward", "both": "forward + backward"}


def encoders(rows):
    """Milliseconds of an encoder at every source length, and how many times as fast as the stock one; LED's too.

    A line per system and pass, and where there are such numbers others for the ratio to LED's time and for the memory.
    """
    first = rows[0]
    lengths = sorted({row["case"]["source"] for row in rows})
    lines = []
    for (system, measured), group in series(rows).items():
        named = f"| {system} | {ENCODER_PASSES[measured]}"
        cells = [f"{row['ours']:,.{_digits(row)}f} ({number(ratio(row), '.2f')})" if row["ours"] else row["not_timed"]
                 for row in group]  # fmt: skip
        lines.append(f"{named} | {number(group[0]['exponent'], '.2f')} | {' | '.join(cells)} |")
        if any(row.get("ratio_led") for row in group):
            cells = [number(row["ratio_led"], ".2f") for row in group]
            lines.append(f"{named}: LED's time / its | | {' | '.join(cells)} |")
        if any(row["mib"] for row in group):
            cells = [number(row["mib"], ",.0f") + f" ({number(row['mib_led'], '.2f')})" for row in group]
            lines.append(f"{named}: MiB (LED's / its) | | {' | '.join(cells)} |")
    memory = ", MiB beside weights and source" if any(row["mib"] for row in rows) else ""
    return table(
        _header("| encoder | | a of N^a |", lengths),
        lines,
        f"Milliseconds (in brackets: time of {first['peer']} / this one's){memory}; one sentence, "
        f"{first['case']['dtype']}; a from N = {first['exponent_from']:,} on",
        first,
        f"torch {first['torch']}",
    )


def _digits(row):
    """Of a time, decimal places: those that a short one needs."""
    return 0 if row["ours"] >= 50 else 1


def long_document(rows):
    """Seconds at every length of a document and how many times as fast as the peer; a line per pass.

    Under the time of a whole call the peak of the memory, or of a CPU, which others may use, the load.
    """
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
        elif kind == "whole" and any("load" in row for row in group):
            loads = {row["case"]["source"]: row.get("load") for row in group}
            shown = " | ".join(number(loads.get(length), ".1f") for length in lengths)
            lines.append(f"| {system} | load average, its own threads among it | - | {shown} |")
    ours = next(row for row in rows if row["case"]["system"] != row["peer"])
    fitted = f"; a from N = {ours['exponent_from']:,} on" if ours["exponent"] is not None else ""
    return table(
        _header("| system | | a of N^a |", lengths),
        lines,
        f"In brackets the time of {ours['peer']} / this one's; one document, beam {ours['case']['beam']}, "
        f"{ours['case']['tokens']} tokens, {ours['case']['dtype']}, random weights{fitted}",
        ours,
        f"torch {ours['torch']}",
    )


def _seconds(row):
    if not row["ours"]:
        return row["not_timed"]
    return f"{row['ours']:.3g}" + (f" ({ratio(row):.2f})" if ratio(row) else "")
