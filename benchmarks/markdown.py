"""Parts of the tables of results: a table with what it was measured on, a number, a size."""

import textwrap

WIDTH = 120  # characters of a line of the pages that is no table's


def table(header, lines, remark, first, *details):
    """A table, and under it what it says and what `first`, a row, was measured on."""
    columns = header.count("|") - 1
    measured_on = ", ".join([first["device"], *details, first["date"], f"commit {first['commit'][:7]}"])
    below = textwrap.wrap(f"{remark}; {measured_on}.", WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join([header, "|" + "---|" * columns, *lines, "", *below]) + "\n"


def size(row):
    return " x ".join(str(row["case"][name]) for name in ("batch", "targets", "source"))


def number(value, style):
    return "-" if value is None else format(value, style)
