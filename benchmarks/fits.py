"""Exponents of growth: the slope of log cost over log size."""

import math
from collections import defaultdict


def fit_exponent(sizes, costs):
    """Exponent a of the least-squares fit cost = c size^a; None for fewer than two sizes.

    >>> round(fit_exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    if len(set(x)) < 2:
        return None
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)


def series(rows):
    """(system, pass) -> its rows of `scaling.json` by ascending source length."""
    found = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["case"]["source"]):
        found[row["case"]["system"], row["case"]["pass"]].append(row)
    return found


def add_exponents(rows):
    """Put "exponent" into rows of `scaling.json`: of a system's time for a pass, over the longer half of the sources.

    Short sources are left out of the fit: they cost what launches and fixed parts cost, whatever N is. So is what
    was not timed.
    """
    for group in series(rows).values():
        timed = [row for row in group if row["ours"]]
        longer = timed[len(timed) // 2 :] if len(timed) > 2 else timed
        exponent = fit_exponent([row["case"]["source"] for row in longer], [row["ours"] for row in longer])
        for row in group:
            row["exponent"] = exponent and round(exponent, 2)
            row["exponent_from"] = longer[0]["case"]["source"] if longer else None
