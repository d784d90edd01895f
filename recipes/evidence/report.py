"""The report of a plan, as far as it got: report.md, report.json, quality_over_cost.png and the hypotheses."""

import gzip
import shlex
from dataclasses import astuple, dataclass, field

import numpy as np

from data_prep.whole import whole_file, write_json, write_text
from recipes.evidence.comparison import difference, estimate
from recipes.evidence.cost import cost
from recipes.evidence.measures import ROUGE, read_cell
from recipes.evidence.picture import draw
from recipes.evidence.plan import START
from recipes.evidence.work import cell_stages, cells_of, value_of

TITLES = ("ROUGE-1", "ROUGE-2", "ROUGE-Lsum")


@dataclass
class Row:
    """A system of the report."""

    name: str
    flags: str
    wanted: tuple[int, ...]  # seeds
    cells: dict = field(default_factory=dict)  # seed -> Measures of finished cells
    missing: list = field(default_factory=list)  # (seed, stages) of those that are not finished
    score: object = None  # Estimate
    against: dict = field(default_factory=dict)  # other system -> Estimate of the difference
    cost: object = None

    def mean(self, attribute):
        """The mean over the finished cells, or None."""
        values = [value for cell in self.cells.values() if (value := getattr(cell, attribute)) is not None]
        return float(np.mean(values)) if values else None


def collect(plan, place):
    """The `Row` of every system and of the start, in the plan's order."""
    rows = {}
    for cell in cells_of(plan, place):
        row = rows.setdefault(cell.system.name, Row(cell.system.name, shlex.join(cell.system.flags), ()))
        row.wanted += (cell.seed,)
        stages = [stage.name for stage in cell_stages(plan, place, cell)]
        found = read_cell(place.cell(cell), cell.name, stages)
        if found.complete:
            row.cells[cell.seed] = found
        else:
            row.missing.append((cell.seed, found.missing))
    sources, targets = sizes(plan, place)
    for row in rows.values():
        words = (*plan.train, *plan.adapt, *shlex.split(row.flags))
        row.cost = None if sources is None else cost(words, sources, targets)
        if row.cells:
            row.score = estimate(_scores(row))
    for row in rows.values():
        for other in plan.against:
            if other != row.name and row.cells and rows[other].cells:
                row.against[other] = _difference(row, rows[other])
    return list(rows.values())


def _scores(row):
    return {seed: cell.rouge for seed, cell in row.cells.items()}


def _difference(row, other):
    if row.name == START:  # one run: beside the mean of the other's
        return None
    return difference(_scores(row), _scores(other))


def sizes(plan, place):
    """`(tokens of every test source, mean tokens of a test target)`; Nones before they are known.

    Sources are cut as `[train]` cuts them.
    """
    paths = [place.out / "encoded" / f"test.{side}" for side in ("source", "target")]
    if not all(path.exists() for path in paths):
        return None, None
    counts = []
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            counts.append(np.array([len(line.split()) + 1 for line in lines]))  # with the end of sentence
    limit = value_of(plan.train, "--max-source-positions", None)
    sources = counts[0] if limit is None else np.minimum(counts[0], int(limit))
    return sources, float(counts[1].mean())


def write(plan, place, command, facts, commands):
    """Write the report to OUT/report; returns `(rows, text of the page)`.

    Args:
        command: the words that carry the plan out.
        facts: what else to say of the run, `{name: text}`.
        commands: of one cell, a list of words each.
    """
    rows = collect(plan, place)
    folder = place.out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    text = page(plan, rows, command, facts, commands)
    write_text(folder / "report.md", text)
    write_json(folder / "report.json", as_json(plan, rows, command, facts))
    complete = {found.name for row in rows for found in row.cells.values()}  # others' decoding may have been cut off
    for cell in cells_of(plan, place):
        if cell.name in complete:
            _keep_hypotheses(place.cell(cell) / "generate/generate-test.txt", folder / f"hypotheses/{cell.name}.txt.gz")
    draw(folder / "quality_over_cost.png", rows, plan.against)  # last: what was measured is on the disk
    return rows, text


def _keep_hypotheses(path, kept):
    """The hypotheses of fairseq-generate's output, a line each in the test set's order, compressed; no data."""
    found = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("D-"):
                key, _, text = line.rstrip("\n").split("\t", 2)
                found[int(key[2:])] = text
    kept.parent.mkdir(exist_ok=True)
    with whole_file(kept, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as out:
        out.write("".join(f"{found[number]}\n" for number in sorted(found)).encode())


# ---- the page ----


def page(plan, rows, command, facts, commands):
    """The report as Markdown."""
    lines = [f"# {plan.title}", ""]
    if plan.expected:
        lines += [f"Expected: {plan.expected}", ""]
    finished, wanted = sum(len(row.cells) for row in rows), sum(len(row.wanted) for row in rows)
    lines += _missing(rows, finished, wanted)
    lines += ["## Scores", "", *_scores_table(rows), ""]
    for other in plan.against:
        lines += [f"## Beside {other}", "", *_difference_table(rows, other), ""]
    lines += ["## Loss, cost and speed", "", *_cost_table(rows), "", *_notes(rows, facts), ""]
    if any(row.score is not None and row.cost is not None for row in rows):
        lines += ["![quality over cost](quality_over_cost.png)", ""]
    lines += ["## How it was made", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += ["```", shlex.join(command), "```", ""]
    lines += ["| system | flags | seeds |", "|---|---|---|"]
    lines += [
        f"| {row.name} | `{row.flags}` | {', '.join(map(str, row.wanted))} |" for row in rows if row.name != START
    ]
    if commands:
        lines += ["", "One run, in full (the others differ in these flags and the seed):", "", "```"]
        lines += [shlex.join(words) for words in commands]
        lines += ["```"]
    return "\n".join([*lines, ""])


def _missing(rows, finished, wanted):
    if finished == wanted:
        return [f"All {wanted} runs have finished.", ""]
    lines = [f"**Not finished**: {finished} of {wanted} runs. Missing:", ""]
    for row in rows:
        for seed, stages in row.missing:
            lines.append(f"- {row.name}{f', seed {seed}' if seed else ''}: {', '.join(stages)}")
    return [*lines, ""]


def _scores_table(rows):
    lines = [f"| system | seeds | {' | '.join(TITLES)} | interval over texts | over seeds |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        if row.score is None:
            lines.append(f"| {row.name} | 0 of {len(row.wanted)} | | | | | |")
            continue
        score = row.score
        means = " | ".join(f"{value:.2f}" for value in score.mean)
        seeds = f"{len(row.cells)} of {len(row.wanted)}" if row.missing else f"{len(row.cells)}"
        lines.append(
            f"| {row.name} | {seeds} | {means} | {_range(score.over_texts, 0)} | {_range(score.over_seeds, 0)} |"
        )
    return lines


def _difference_table(rows, other):
    lines = [f"| system | seeds | {' | '.join(TITLES)} | ROUGE-1 in percent | interval over texts | p | over seeds |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    base = next(row for row in rows if row.name == other)
    for row in rows:
        found = row.against.get(other)
        if found is None:
            continue
        means = " | ".join(f"{value:+.2f}" for value in found.mean)
        share = f"{100 * found.mean[0] / base.score.mean[0]:+.1f}%" if base.score.mean[0] else ""  # of 0: no share
        lines.append(
            f"| {row.name} | {len(found.seeds)} | {means} | {share} | {_range(found.over_texts, 0, '+')} | "
            f"{found.p_values[0]:.3f} | {_range(found.over_seeds, 0, '+')} |"
        )
    return lines if len(lines) > 2 else ["Nothing to compare yet."]


def _cost_table(rows):
    titles = ("system", "loss, nats a token", "keys attended", "operations", "source projections",
              "decoding, tokens/s", "training, s")  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        shares = (None,) * 3 if row.cost is None else astuple(row.cost)
        cells = [
            _number(row.mean("loss"), ".3f"),
            *(_number(share, ".3f") for share in shares),
            _number(row.mean("tokens_per_second"), ",.0f"),
            _number(row.mean("seconds"), ",.0f"),
        ]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return lines


def _notes(rows, facts):
    signatures = sorted({cell.signature for row in rows for cell in row.cells.values() if cell.signature})
    notes = [
        "Keys attended and operations are shares of full attention's to the sources as [train] cuts them, of the "
        "cross-attention alone, counted by formula (recipes/evidence/cost.py); operations leave out projections, and "
        "source projections are the share of those of keys and values. The loss is the validation split's at "
        "the end of training, without label smoothing. Intervals are of 95% and of ROUGE-1: over texts by the "
        "bootstrap, of the mean over seeds; over seeds by Student's t. Differences are paired by text and by seed; p "
        "is of the paired bootstrap over texts."
    ]
    if int(facts.get("runs at once", "1")) > 1:
        notes.append("Speeds were measured while other runs shared the device, so they are no peers of other tables.")
    if signatures:
        notes += ["", *(f"ROUGE: `{signature}`" for signature in signatures)]
    return notes


def _range(ends, column, sign=""):
    return "" if ends is None else f"{ends[0][column]:{sign}.2f} to {ends[1][column]:{sign}.2f}"


def _number(value, form):
    return "" if value is None else format(value, form)


# ---- for programs ----


def as_json(plan, rows, command, facts):
    """Everything of the page as plain data."""
    return {
        "title": plan.title,
        "command": list(command),
        "facts": facts,
        "plan": plan.text,
        "finished": sum(len(row.cells) for row in rows),
        "wanted": sum(len(row.wanted) for row in rows),
        "systems": [_row_json(row) for row in rows],
    }


def _row_json(row):
    return {
        "system": row.name,
        "flags": row.flags,
        "seeds": list(row.wanted),
        "missing": [{"seed": seed, "stages": stages} for seed, stages in row.missing],
        "score": _estimate_json(row.score),
        "against": {other: _estimate_json(found) for other, found in row.against.items()},
        "keys": None if row.cost is None else row.cost.keys,
        "operations": None if row.cost is None else row.cost.operations,
        "projections": None if row.cost is None else row.cost.projections,
        "runs": [
            {
                "seed": seed,
                "loss": cell.loss,
                "training_seconds": cell.seconds,
                "tokens_per_second": cell.tokens_per_second,
                "hypothesis_tokens": cell.target_tokens,
                "rouge": _by_type(cell.rouge.mean(axis=0)),
                "signature": cell.signature,
            }
            for seed, cell in row.cells.items()
        ],
    }


def _estimate_json(found):
    if found is None:
        return None
    result = {"seeds": list(found.seeds), "mean": _by_type(found.mean), "over_texts": _by_type(found.over_texts.T)}
    result["over_seeds"] = None if found.over_seeds is None else _by_type(found.over_seeds.T)
    if found.p_values is not None:
        result["p_values"] = _by_type(found.p_values)
    return result


def _by_type(values):
    return {kind: np.round(value, 6).tolist() for kind, value in zip(ROUGE, values)}
