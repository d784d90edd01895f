"""Pictures of benchmarks/results/*.json; `python -m benchmarks.readme_tables` draws those whose numbers changed.

A picture holds, in its PNG text, a hash of the files it was drawn from, so that one that is out of date is noticed.
"""

import hashlib
import json
import struct
from pathlib import Path

from benchmarks.fits import series
from benchmarks.ratios import ratio

KEY = "benchmarks.results"  # of the PNG text that holds the hash
# pass in scaling.json -> its title
PASSES = {
    "forward": "attention core, forward",
    "both": "attention core, forward + backward",
    "step": "one decoding step",
}


def scaling(figure, results):
    """Time and memory over the source's length, a line per system, with its exponent."""
    found = series(results["scaling"])
    panels = figure.subplots(2, len(PASSES), sharex=True)
    for column, (kind, title) in enumerate(PASSES.items()):
        for (system, measured), rows in found.items():
            if measured != kind:
                continue
            lengths = [row["case"]["source"] for row in rows]
            label = system if rows[0]["exponent"] is None else f"{system}: N^{rows[0]['exponent']:.2f}"
            panels[0, column].loglog(lengths, [row["ours"] for row in rows], "o-", label=label, markersize=3)
            if rows[0]["mib"] is not None:
                panels[1, column].loglog(lengths, [row["mib"] for row in rows], "o-", label=system, markersize=3)
        panels[0, column].set_xscale("log", base=2)
        panels[0, column].set(title=title, ylabel="ms")
        if panels[0, column].lines:
            panels[0, column].legend(fontsize=7)
        memory = "kept of the source, MiB" if kind == "step" else "peak, MiB"
        panels[1, column].set(xlabel="source tokens N", ylabel=memory)
    figure.set_size_inches(14, 7)


def ratios(figure, results):
    """How many times as fast as stock bart_base every system is, a group of bars per size."""
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for panel, (name, rows) in zip(panels, results.items()):
        sizes = list(dict.fromkeys(_size(row) for row in rows))
        systems = list(dict.fromkeys(row["case"]["system"] for row in rows))
        width = 0.8 / len(systems)
        for number, system in enumerate(systems):
            shown = {_size(row): ratio(row) for row in rows if row["case"]["system"] == system and ratio(row)}
            places = [sizes.index(size) + number * width for size in shown]
            panel.bar(places, list(shown.values()), width, label=system)
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set_xticks([place + 0.4 - width / 2 for place in range(len(sizes))], sizes)
        panel.set(title=name.replace("_", " "), ylabel=f"times as fast as {rows[0]['peer']}")
        panel.set_ylim(top=1.5 * panel.dataLim.y1)  # room for the names
        panel.legend(fontsize=7)
    figure.set_size_inches(7 * len(results), 4.5)


def distributed(figure, results):
    """Articles a second over the number of processes, a line per model and source; dotted: as many times one's."""
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for panel, (name, rows) in zip(panels, results.items()):
        for arch, source in dict.fromkeys((row["case"]["arch"], row["case"]["source"]) for row in rows):
            shown = [row for row in rows if (row["case"]["arch"], row["case"]["source"]) == (arch, source)]
            counts = [row["case"]["processes"] for row in shown]
            (line,) = panel.loglog(counts, [row["ours"] for row in shown], "o-", label=f"{arch}, N = {source:,}")
            panel.loglog(counts, [n * row["theirs"] for n, row in zip(counts, shown)], ":", color=line.get_color())
        counts = sorted({row["case"]["processes"] for row in rows})
        panel.set_xscale("log", base=2)
        panel.set_xticks(counts, counts)
        panel.set(title=f"{name.replace('_', ' ')}: {rows[0]['device']}", xlabel="processes", ylabel="articles/s")
        panel.legend(fontsize=7)
    figure.set_size_inches(7 * len(results), 4.5)


def _size(row):
    size = " x ".join(str(row["case"][name]) for name in ("batch", "targets", "source") if name in row["case"])
    return f"{size}, {row['case']['time']}" if "time" in row["case"] else size


# picture -> (function, JSON files it may show: those that there are)
PICTURES = {
    "scaling.png": (scaling, ["scaling"]),
    "distributed.png": (distributed, ["distributed", "distributed_cpu"]),
    "ratios.png": (ratios, ["training_step", "decoding"]),
}


def digest(paths: list[Path]) -> str:
    """SHA-256 of files, names included."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def drawn_from(path: Path) -> str | None:
    """The hash that a PNG says it was drawn from; None: no such picture, or it says nothing."""
    if not path.exists():
        return None
    data, place = path.read_bytes(), 8
    while place + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        key, _, value = data[place + 8 : place + 8 + length].partition(b"\0")
        if kind == b"tEXt" and key.decode("latin-1") == KEY:
            return value.decode("latin-1")
        place += 12 + length
    return None


def outdated(folder: Path) -> list[str]:
    """The pictures of `folder` that do not show its JSON files."""
    found = []
    for name, (_, sources) in PICTURES.items():
        paths = [folder / f"{source}.json" for source in sources if (folder / f"{source}.json").exists()]
        expected = digest(paths) if paths else None
        if drawn_from(folder / name) != expected:
            found.append(name)
    return found


def draw(name: str, folder: Path) -> None:
    """Draw a picture of `PICTURES` from the JSON files of `folder` into it; the same files give the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plot, sources = PICTURES[name]
    paths = {source: folder / f"{source}.json" for source in sources if (folder / f"{source}.json").exists()}
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    plot(figure, {source: json.loads(path.read_text(encoding="utf-8")) for source, path in paths.items()})
    figure.savefig(folder / name, dpi=110, metadata={"Software": None, KEY: digest(list(paths.values()))})
