"""Parts of the tables of results: a table with what it was measured on, a number, a size."""


def table(header, lines, remark, first, *details):
    """A table, and under it what it says and what `first`, a row, was measured on."""
    columns = header.count("|") - 1
    measured_on = ", ".join([first["device"], *details, first["date"], f"commit {first['commit'][:7]}"])
    return "\n".join([header, "|" + "---|" * columns, *lines, "", f"{remark}; {measured_on}."]) + "\n"


def size(row):
    return " x ".join(str(row["case"][name]) for name in ("batch", "targets", "source"))


def number(value, style):
    return "-" if value is None else format(value, style)
