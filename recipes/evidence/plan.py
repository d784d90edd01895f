"""A plan of experiments, as a TOML file says it.

    title = "..."                 # of the report
    expected = "..."              # what should come out, in words; optional

    [data]
    format = "lines"              # of the raw files, as of data_prep.prepare
    encode = "--bpe sentencepiece --vocabulary 16000 --max-source 640 --max-target 96"
    binarise = ""                 # more flags of fairseq-preprocess; optional

    [train]                       # flags of fairseq-train: for the start and for every system
    flags = "--arch srformer_bart --optimizer fused_adam ..."

    [start]                       # the common start, with full attention; --init FILE takes its place
    updates = 5000
    flags = "--lr 7e-4 ..."
    short = [64, 160]             # first epochs, of copying examples alone, of sources cut to so many tokens
    passes = 8                    # then epochs with copying examples; those after them have none
    share = 0.6                   # of copying examples in these (srformer_plugin.tools.marked_sentences)

    [adapt]
    updates = 600                 # of every system, from the start
    flags = "--lr 2e-4 ..."

    [decode]
    flags = "--beam 4 ..."        # of fairseq-generate

    [report]
    against = ["full", "segmented"]   # systems that all others are compared with

    [[system]]                    # in the order in which they run
    name = "full"
    flags = "--cross-attention full"
    seeds = [1, 2, 3]
    updates = 300                 # another number than [adapt]'s; optional

Flags are split as a shell splits words.
"""

import re
import shlex
from dataclasses import dataclass, field

import tomllib

from data_prep.errors import UserError

START = "start"  # the name of the start itself in the report


class PlanError(UserError):
    """A plan that cannot be carried out. The message is one line that names the file and the key."""


@dataclass(frozen=True)
class System:
    """A kind of attention, and the seeds with which it is to be adapted."""

    name: str
    flags: tuple[str, ...]
    seeds: tuple[int, ...]
    updates: int


@dataclass(frozen=True)
class Cell:
    """One run: a system with a seed. The start itself is a cell of no updates."""

    system: System
    seed: int

    @property
    def name(self):
        """The name of its folder."""
        return START if self.system.updates == 0 else f"{slug(self.system.name)}.{self.seed}"


@dataclass(frozen=True)
class Plan:
    """Everything a plan says; flags are lists of words."""

    title: str
    expected: str
    data: dict
    train: tuple[str, ...]
    start: dict | None  # updates, flags, short, passes, share; None if the plan has none, and needs --init
    adapt: tuple[str, ...]
    decode: tuple[str, ...]
    against: tuple[str, ...]
    systems: tuple[System, ...]
    text: str = field(repr=False, default="")

    @property
    def cells(self):
        """All runs in order: the start, then system by system."""
        start = System(START, ("--cross-attention", "full"), (0,), 0)
        return [Cell(start, 0), *(Cell(system, seed) for system in self.systems for seed in system.seeds)]


def slug(name):
    """A name as a folder can be called."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


# table -> {key: (type, default)}; a default of ... is one that must be given
TABLES = {
    "": {"title": (str, ...), "expected": (str, "")},
    "data": {"format": (str, "lines"), "encode": (str, ...), "binarise": (str, "")},
    "train": {"flags": (str, ...)},
    "start": {
        "updates": (int, ...),
        "flags": (str, ""),
        "passes": (int, 0),
        "share": (float, 0.6),
        "short": (list, []),
    },
    "adapt": {"updates": (int, ...), "flags": (str, "")},
    "decode": {"flags": (str, ...)},
    "report": {"against": (list, [])},
    "system": {"name": (str, ...), "flags": (str, ...), "seeds": (list, [1]), "updates": (int, None)},
}


def read_plan(path):
    """The `Plan` in a file.

    Raises:
        PlanError: the file cannot be read, or something in it is missing, unknown, or of another kind.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # no UTF-8, no TOML
        raise PlanError(f"{path}: not TOML: {error}") from error
    try:
        return _plan(content, text)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def _plan(content, text):
    tables = {name: content.pop(name, {} if name != "system" else []) for name in TABLES if name}
    has_start = tables["start"] != {}
    top = _table("", content)
    tables = {
        name: _table(name, table) if name != "system" else [_table(name, one) for one in _list(name, table)]
        for name, table in tables.items()
        if name != "start" or has_start
    }
    default_updates = tables["adapt"]["updates"]
    systems = tuple(
        System(
            one["name"],
            _words("system", one["flags"]),
            tuple(_seeds(one)),
            _positive("system.updates", default_updates if one["updates"] is None else one["updates"]),
        )
        for one in tables["system"]
    )
    _check_names(systems, tables["report"]["against"])
    start = tables.get("start")
    if start:
        _positive("start.updates", start["updates"])
        if start["passes"] < 0 or not 0 <= start["share"] <= 1:
            raise PlanError("start.passes must be at least 0 and start.share between 0 and 1")
        if start["short"] and not start["passes"]:
            raise PlanError("start.short needs start.passes of at least 1")
        for length in start["short"]:
            _positive("start.short", length)
        start["flags"] = _words("start", start["flags"])
    data = {
        name: _words(f"data.{name}", value) if name != "format" else value for name, value in tables["data"].items()
    }
    return Plan(
        top["title"],
        top["expected"],
        data,
        _words("train", tables["train"]["flags"]),
        start,
        _words("adapt", tables["adapt"]["flags"]),
        _words("decode", tables["decode"]["flags"]),
        tuple(tables["report"]["against"]),
        systems,
        text,
    )


def _table(name, table):
    """The keys of a table, checked, with defaults in place."""
    where = f"{name}." if name else ""
    if not isinstance(table, dict):
        raise PlanError(f"{name} is not a table: write [{name}]")
    known = TABLES[name]
    if unknown := sorted(table.keys() - known.keys()):
        raise PlanError(f"{where}{unknown[0]} is not known; known here: {', '.join(known)}")
    found = {}
    for key, (kind, default) in known.items():
        if key not in table:
            if default is ...:
                raise PlanError(f"{where}{key} is missing")
            found[key] = default
            continue
        value = table[key]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise PlanError(f"{where}{key} = {value!r} is not a {kind.__name__}")
        found[key] = value
    return found


def _list(name, value):
    if not isinstance(value, list) or not value:
        raise PlanError(f"there is no [[{name}]]")
    return value


def _words(where, text):
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise PlanError(f"{where}: {error}: {text!r}") from error


def _positive(where, value):
    if type(value) is not int or value < 1:
        raise PlanError(f"{where} = {value!r} is not a whole number above 0")
    return value


def _seeds(system):
    seeds = system["seeds"]
    if not seeds or any(type(seed) is not int or seed < 1 for seed in seeds) or len(set(seeds)) != len(seeds):
        raise PlanError(f"system {system['name']!r}: seeds = {seeds!r} is not a list of different numbers above 0")
    return seeds


def _check_names(systems, against):
    seen = {START: START}
    for system in systems:
        name = slug(system.name)
        if not name or name in seen:
            raise PlanError(f"the name {system.name!r} of a system is empty, or too like {seen.get(name, '')!r}")
        seen[name] = system.name
    if missing := [name for name in against if name not in {system.name for system in systems}]:
        raise PlanError(f"report.against: there is no system {missing[0]!r}")
