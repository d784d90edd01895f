"""Everything that is said about one or more systems: scores, intervals, text statistics, comparison, table."""

import json
import math

import numpy as np

from data_prep.text import without_marks

from .rouge import ROUGE_TYPES, score_texts, signature
from .statistics import SAMPLES, SEED, bootstrap_means, interval, paired_p_values
from .text_statistics import describe_all, mean_statistics

# names of sacrebleu's scores -> tokenizer of its BLEU; those that need no other package
BLEU_TOKENIZERS = {"bleu": "13a", "bleu-zh": "zh", "bleu-char": "char", "bleu-intl": "intl"}
ALSO = ("chrf", *BLEU_TOKENIZERS)
LABELS = dict(zip(ROUGE_TYPES, ("ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE-Lsum")))
PAIRS_PER_WORKER = 20_000  # about what one process scores while another one starts
WIDEST = 40  # characters to which a column of a table is filled up; longer cells stand out


def evaluate(systems, references, sources=None, also=(), samples=SAMPLES, seed=SEED, workers=1):
    """Score systems on the same references.

    Args:
        systems: {name: list of hypotheses}, in the order of the references.
        references, sources: lists of texts; sources may be None.
        also: names of `ALSO`, scores of sacrebleu.
        samples, seed: of the bootstrap.
        workers: processes for ROUGE.

    Returns:
        (result, examples). `result` for one system: a dictionary with `system`, `texts`, the `ROUGE_TYPES` (mean F1),
        `interval`, `precision`, `recall` (by type), `statistics`, `reference_statistics`, `signature`, `also`. For
        many: the `ROUGE_TYPES` and `signature` of the first, `systems` (a list of such dictionaries) and `comparison`
        (each system beside the first: `difference`, `interval`, `p_value` by type). Scores are in percent.
        `examples`: a list with a dictionary for each text of each system.

    Raises:
        ValueError: lists of different lengths, or empty ones.
    """
    scores = {name: 100 * score_texts(texts, references, workers) for name, texts in systems.items()}
    f1 = np.concatenate([s[:, :, 2] for s in scores.values()], axis=1)
    means = bootstrap_means(f1, samples, seed)
    of_references = mean_statistics(describe_all(references, sources))
    rows, examples = [], []
    for number, (name, texts) in enumerate(systems.items()):
        columns = slice(number * len(ROUGE_TYPES), (number + 1) * len(ROUGE_TYPES))
        precision, recall, fmeasure = scores[name].mean(axis=0).T.tolist()
        described = describe_all(texts, sources)
        rows.append(
            {
                "system": name,
                "texts": len(texts),
                **dict(zip(ROUGE_TYPES, fmeasure)),
                "interval": _by_type(interval(means[:, columns]).T),
                "precision": dict(zip(ROUGE_TYPES, precision)),
                "recall": dict(zip(ROUGE_TYPES, recall)),
                "statistics": mean_statistics(described),
                "reference_statistics": of_references,
                "signature": signature(samples, seed),
                "also": {metric: sacrebleu_score(metric, texts, references) for metric in also},
            }
        )
        for index, (values, one) in enumerate(zip(scores[name][:, :, 2].tolist(), described)):
            examples.append({"index": index, "system": name, **dict(zip(ROUGE_TYPES, values)), **one})
    if len(rows) == 1:
        return rows[0], examples
    first = {key: rows[0][key] for key in (*ROUGE_TYPES, "signature")}
    return {**first, "systems": rows, "comparison": compare(list(systems), f1, means)}, examples


def compare(names, f1, means):
    """Each system beside the first: a list of {system, baseline, difference, interval, p_value}, those three by type.

    `f1` [texts, systems * types] and its `bootstrap_means` have the types of a system side by side.
    """
    width = len(ROUGE_TYPES)
    compared = []
    for number, name in enumerate(names[1:], 1):
        columns = slice(number * width, (number + 1) * width)
        differences = f1[:, columns] - f1[:, :width]
        resampled = means[:, columns] - means[:, :width]  # the mean of differences is the difference of means
        compared.append(
            {
                "system": name,
                "baseline": names[0],
                "difference": _by_type(differences.mean(axis=0)),
                "interval": _by_type(interval(resampled).T),
                "p_value": _by_type(paired_p_values(differences, resampled)),
            }
        )
    return compared


def _by_type(values):
    return dict(zip(ROUGE_TYPES, values.tolist()))


def sacrebleu_score(metric, hypotheses, references):
    """{score, signature} of one of `ALSO`, of whole texts without sentence marks."""
    from sacrebleu.metrics import BLEU, CHRF

    scorer = CHRF() if metric == "chrf" else BLEU(tokenize=BLEU_TOKENIZERS[metric])
    score = scorer.corpus_score([*map(without_marks, hypotheses)], [[*map(without_marks, references)]])
    return {"score": score.score, "signature": str(scorer.get_signature())}


def to_json(value, **options):
    """JSON of results, null in place of NaN."""

    def clean(value):
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    return json.dumps(clean(value), ensure_ascii=False, allow_nan=False, **options)


def table(result):
    """Markdown tables of what `evaluate` returns, with the signatures.

    Rows of several results may stand in one: scores of sacrebleu that not all have are left out, a missing statistic is
    "-".
    """
    rows = result.get("systems", [result])
    also = [metric for metric in rows[0]["also"] if all(metric in row["also"] for row in rows)]
    lines = markdown_table(
        ["system", *LABELS.values(), *also],
        [
            [row["system"], *(_with_interval(row[name], row["interval"][name]) for name in ROUGE_TYPES)]
            + [f"{row['also'][metric]['score']:.2f}" for metric in also]
            for row in rows
        ],
    )
    lines += ["", f"Mean F1 of {rows[0]['texts']:,} texts in percent, with 95% bootstrap intervals.", ""]
    described = [(row["system"], row["statistics"]) for row in rows]
    described.append(("(reference)", rows[0]["reference_statistics"]))
    names = list(dict.fromkeys(name for _, values in described for name in values))
    lines += markdown_table(
        ["texts", *(name.replace("_", " ") + ("-grams" if name[-1].isdigit() else "") for name in names)],
        [[system, *(_statistic(name, values.get(name, math.nan)) for name in names)] for system, values in described],
    )
    for one in result.get("comparison", []):
        cells = [
            [
                LABELS[name],
                _with_interval(one["difference"][name], one["interval"][name], "+.2f"),
                f"{one['p_value'][name]:.4f}",
            ]
            for name in ROUGE_TYPES
        ]
        head = [f"{one['system']} - {one['baseline']}", "difference", "p (paired bootstrap)"]
        lines += ["", *markdown_table(head, cells)]
    lines += ["", f"ROUGE {rows[0]['signature']}"]
    lines += [f"{metric} {rows[0]['also'][metric]['signature']}" for metric in also]
    return "\n".join(lines)


def _with_interval(value, ends, form=".2f"):
    low, high = (format(end, form) for end in ends)
    return f"{value:{form}} ({low} to {high})"


def _statistic(name, value):
    if math.isnan(value):
        return "-"
    if name == "empty":
        return str(value)
    return f"{100 * value:.1f}%" if name.startswith(("repeated", "novel")) else f"{value:.1f}"


def markdown_table(head, rows):
    """Lines of a Markdown table whose columns are aligned as plain text, too."""
    widths = [min(WIDEST, max(len(row[column]) for row in [head, *rows])) for column in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in [head, *rows]]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
