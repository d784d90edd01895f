"""How many times as fast a system is as another than its row's peer, by the rows of one run."""

import json
from collections.abc import Callable

MORE_IS_BETTER = ("tokens/s", "pairs/s", "articles/s")
# a generator's name at the end of a system's -> full attention with the same generator
FULL_WITH = {
    "stock generator": "bart_base, stock generator",
    "--fast-generate": "full attention, --fast-generate",
}


def times_as_fast(unit: str, ours: float, theirs: float) -> float:
    """Above 1 where `ours` is the better number of this unit."""
    return ours / theirs if unit in MORE_IS_BETTER else theirs / ours


def ratio(row: dict) -> float | None:
    """How many times as fast a row's system is as its peer, not rounded; None where one of them has no number."""
    ours, theirs = row["ours"], row["theirs"]
    return times_as_fast(row["unit"], ours, theirs) if ours and theirs else None


def add_ratio(rows: list[dict], field: str, other: Callable[[str], str | None], of: str = "ours") -> list[dict]:
    """Put `field` into rows: how many times as fast each is as system `other(its own)` in the same case.

    `of` names another number of a row than its time, of which less is better as well. None where a system has no number
    there, or there is no such system. Returns `rows`.
    """
    measured = {_case(row, row["case"]["system"]): row[of] for row in rows}
    for row in rows:
        ours, theirs = row[of], measured.get(_case(row, other(row["case"]["system"])))
        row[field] = times_as_fast(row["unit"], ours, theirs) if ours and theirs else None
    return rows


def add_ratio_to_full(rows: list[dict]) -> list[dict]:
    """Put "ratio_full" into rows of `decoding.json`: beside full attention with the same generator."""
    return add_ratio(rows, "ratio_full", lambda system: FULL_WITH.get(system.rsplit(", ", 1)[-1]))


def _case(row, system):
    return json.dumps({**row["case"], "system": system}, sort_keys=True)
