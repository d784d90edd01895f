"""The page that `recipes.report` writes, a function for each of its sections."""

import shlex
from statistics import mean, stdev

from data_prep.text import SIDES, SPLITS, without_marks
from recipes.report.examples import examples
from srformer_plugin.scoring.evaluate import LABELS, markdown_table, table
from srformer_plugin.scoring.rouge import ROUGE_TYPES

LONGEST_SAMPLE = 600  # characters of a text that is shown


def page(experiments, groups, same_but_for_seed, baselines, comparison, warnings, samples, repeat):
    """The whole report, Markdown. `repeat` is the command that makes it again."""
    names = ", ".join(one.name for one in experiments)
    sections = [
        [f"# {names}"],
        [f"**Warning:** {warning}." for warning in warnings],
        missing(experiments),
        scores(experiments, baselines, comparison),
        seeds(same_but_for_seed),
        training(experiments),
        data(experiments),
        settings(experiments),
        shown_samples(groups, samples),
        commands(experiments, repeat),
    ]
    return "\n\n".join(block for section in sections for block in section) + "\n"


def _table(head, rows):
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in [head, *rows]]
    return "\n".join(markdown_table(cells[0], cells[1:]))


def missing(experiments):
    """What experiments do not have, and how to get it."""
    lines = [f"- {one.name}: {sentence}" for one in experiments for sentence in one.missing]
    return ["## Not finished", "\n".join(lines)] if lines else []


def scores(experiments, baselines, comparison):
    """One table of scores over all experiments, one of statistics, and the comparisons."""
    rows = [{**one.score, "system": one.name} for one in experiments if one.score is not None] + baselines
    splits = " and ".join(dict.fromkeys(one.split for one in experiments))
    return [f"## ROUGE of the {splits} set", table({"systems": rows, "comparison": comparison})] if rows else []


def seeds(groups):
    """Mean and spread of the experiments that differ by their seed only."""
    blocks = []
    for group in groups:
        rows = []
        for kind in ROUGE_TYPES:
            values = [one.score[kind] for one in group]
            ends = f"{min(values):.2f} to {max(values):.2f}"
            rows.append([LABELS[kind], f"{mean(values):.2f}", f"{stdev(values):.2f}", ends])
        listed = ", ".join(f"{one.name} ({one.settings.get('seed')})" for one in group)
        blocks += [f"The same but for the seed: {listed}.", _table(["", "mean", "standard deviation", "range"], rows)]
    return ["## Over seeds", *blocks] if blocks else []


def training(experiments):
    """How long trainings took and where their losses ended, and the picture of their course."""
    rows = []
    for one in experiments:
        if one.log is None:
            continue
        found = one.log.summary()
        best = found["best_valid_loss"]
        rows.append(
            [
                one.name,
                f"{found['updates']:,}" + ("" if found["finished"] else " (not finished)"),
                _time(found["wall_seconds"]),
                "-" if found["updates_per_second"] is None else f"{found['updates_per_second']:.2f}",
                "-" if found["last_valid_loss"] is None else f"{found['last_valid_loss']:.3f}",
                "-" if best is None else f"{best:.3f} ({found['best_valid_update']:,})",
            ]
        )
    if not rows:
        return []
    head = ["experiment", "updates", "wall time", "updates/s", "last validation loss", "lowest (at update)"]
    note = (
        "Losses are in bits per target token, without label smoothing. Wall time is that of all runs of a training, "
        "validation included; updates/s is the median of the log's intervals, without validation."
    )
    return ["## Training", "![learning curves](learning_curves.png)", _table(head, rows), note]


def _time(seconds):
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def data(experiments):
    """Counts and lengths from the manifests; experiments with the same data share their lines."""
    same = {}
    for one in experiments:
        rows = _data_rows(one)
        if rows:
            same.setdefault(str(rows), (rows, []))[1].append(one.name)
    if not same:
        return []
    kinds = [f"{side} {unit}" for unit in ("words", "tokens", "cut") for side in SIDES]
    blocks = ["## Data"]
    for rows, names in same.values():
        blocks += [f"{', '.join(names)}:", _table(["split", "texts", *kinds], rows)]
    blocks.append(
        "Lengths are median and 95th percentile before any cut; tokens count the end of sentence; "
        '"cut" is how many texts have more tokens than are kept.'
    )
    return blocks


def _data_rows(experiment):
    """A row for each split of an experiment; "-" where no manifest says."""
    corpus, encoded = experiment.corpus or {}, experiment.encoded or {}
    counts = {split: (encoded.get("counts", {}).get(split), corpus.get("counts", {}).get(split)) for split in SPLITS}

    def length(manifest, what, side, split):
        summary = manifest.get(what, {}).get(side, {}).get(split)
        return "-" if summary is None else f"{summary['median']:,}, {summary['p95']:,}"

    rows = []
    for split, (of_encoded, of_corpus) in counts.items():
        if of_encoded is None and of_corpus is None:
            continue
        texts = of_corpus.get("written", 0) if of_corpus else of_encoded.get("lines", 0)
        lengths = [length(corpus, "words", side, split) for side in SIDES]
        lengths += [length(encoded, "tokens", side, split) for side in SIDES]
        cuts = [f"{of_encoded.get(f'truncated {side}', 0):,}" if of_encoded else "-" for side in SIDES]
        rows.append([split, f"{texts:,}", *lengths, *cuts])
    return rows


def settings(experiments):
    """What differs between the experiments, then what they have in common."""
    experiments = [one for one in experiments if one.settings]
    columns = [_facts(one) for one in experiments]
    names = list(dict.fromkeys(name for column in columns for name in column))
    values = {name: [column.get(name, "-") for column in columns] for name in names}
    differing = [[name, *found] for name, found in values.items() if len(set(found)) > 1]
    common = [[name, found[0]] for name, found in values.items() if len(set(found)) == 1]
    blocks = []
    if differing:
        blocks += ["What differs:", _table(["setting", *(one.name for one in experiments)], differing)]
    if common:
        blocks += ["What is common:" if len(experiments) > 1 else "", _table(["setting", "value"], common)]
    return ["## Settings", *(block for block in blocks if block)] if blocks else []


def _facts(experiment):
    """`{name: text}` of an experiment's settings.json, but for its command."""
    found = experiment.settings
    facts = {"recipe": found.get("recipe"), "seed": found.get("seed")}
    facts["commit"] = found["commit"][:10] if found.get("commit") else None
    facts["uncommitted changes"] = {True: "yes", False: "no"}.get(found.get("dirty"))
    facts |= {f"`--{name}`": value for name, value in experiment.plain_settings().items()}
    facts |= {f"version of {name}": value for name, value in (found.get("versions") or {}).items()}
    return {name: str(value) for name, value in facts.items() if value is not None}


def shown_samples(groups, count):
    """Texts of the test set at equal distances, the reference above every experiment's summary."""
    blocks = []
    for group in groups:
        columns = {one.name: one.hypotheses for one in group if one.hypotheses is not None}
        if columns:
            columns = {"reference": group[0].references, **columns}
            shown = {name: [*map(without_marks, texts)] for name, texts in columns.items()}
            blocks += examples(shown, count, "###", LONGEST_SAMPLE)
    if not blocks:
        return []
    return ["## Samples", "Texts at equal distances in the set, by line from 0, not chosen by hand.", *blocks]


def commands(experiments, repeat):
    """What to type to get the same again."""
    lines = []
    for one in experiments:
        found = one.settings
        if not found.get("command"):
            continue
        dirty = ", with changes that are in no commit" if found.get("dirty") else ""
        lines.append(f"# {one.name}{dirty}")
        if found.get("commit"):
            lines.append(shlex.join(["git", "checkout", found["commit"]]))
        lines.append(shlex.join(map(str, found["command"])))
    return ["## To repeat it", "\n".join(["```", *lines, "# this report", repeat, "```"])]
