"""Score what ``fairseq-generate`` wrote: table, learning curves, examples and ``results.json`` of the demo.

    python -m recipes.report.demo --source test.source --reference test.target --out DIR \\
        --system SRformer srformer/generate-test.txt srformer/train.log

Scores are those of `srformer-score`: mean ROUGE F1 times 100, with a 95% bootstrap interval of ROUGE-1; and chrF
(sacrebleu). Each has its signature.
"""

import argparse
import json
from pathlib import Path

from sacrebleu.metrics import CHRF

from data_prep.docstring_pairs import HEADER_END
from data_prep.text import split_sentences
from recipes.report import learning_curves
from recipes.report.examples import examples
from recipes.report.training_log import read_training_log
from srformer_plugin.scoring import rouge
from srformer_plugin.scoring.files import read_hypotheses, read_lines
from srformer_plugin.scoring.statistics import SAMPLES, SEED, bootstrap_means, interval

ROUGE_TYPES = ("rouge1", "rouge2", "rougeLsum")


def header(source):
    """The part of a source before ``HEADER_END``: which symbol is described."""
    return source.partition(HEADER_END)[0]


def first_sentence(source):
    """The first sentence of the description in ``source``, that is, after its header."""
    return split_sentences(source.partition(HEADER_END)[2] or source)[0]


def score(hypotheses, references):
    """Scores of parallel lists of texts.

    Keys: rouge1, rouge2, rougeLsum, rouge1_interval (low, high), chrf; all from 0 to 100; and chrf_signature.
    """
    by_text = 100 * rouge.score_texts(hypotheses, references)[:, :, 2]
    means = dict(zip(rouge.ROUGE_TYPES, by_text.mean(axis=0).tolist()))
    low_high = interval(bootstrap_means(by_text))[:, rouge.ROUGE_TYPES.index("rouge1")]
    chrf = CHRF(lowercase=True)  # the demo's subwords have no capital letters
    return {
        **{name: means[name] for name in ROUGE_TYPES},
        "rouge1_interval": low_high.tolist(),
        "chrf": chrf.corpus_score(hypotheses, [references]).score,
        "chrf_signature": str(chrf.get_signature()),
    }


def table(scores):
    """The scores of ``{system: score(...)}`` as a Markdown table, with the versions and signature they depend on."""
    width = max(map(len, scores))
    rows = [
        f"| {'system':<{width}} | ROUGE-1 | 95% interval   | ROUGE-2 | ROUGE-Lsum | chrF  |",
        f"|{'-' * (width + 2)}|---------|----------------|---------|------------|-------|",
    ]
    for system, s in scores.items():
        low, high = s["rouge1_interval"]
        rows.append(
            f"| {system:<{width}} | {s['rouge1']:7.2f} | {low:6.2f} - {high:5.2f} | {s['rouge2']:7.2f} "
            f"| {s['rougeLsum']:10.2f} | {s['chrf']:5.2f} |"
        )
    signature = next(iter(scores.values()))["chrf_signature"]
    return "\n".join([*rows, "", f"ROUGE: {rouge.signature(SAMPLES, SEED)}; chrF: {signature}"])


def page_of_examples(sources, references, hypotheses, count=10):
    """Markdown: ``count`` texts at equal distances in the test split, each with every system's hypothesis."""
    blocks = examples({"source": sources, "reference": references, **hypotheses}, count)
    title = f"{min(count, len(sources))} texts at equal distances in the test split, not chosen by hand."
    return "\n\n".join(["# Examples", title, *blocks]) + "\n"


def report(source, reference, systems, out):
    """Score ``systems``, triples of name, generated file and training log; write the report's files to ``out``.

    Returns the table. Raises ScoringError if a sentence is without hypothesis.
    """
    sources, references = read_lines(source), read_lines(reference)
    hypotheses = {name: read_hypotheses(path, len(references)) for name, path, _ in systems}
    logs = {name: read_training_log(log) for name, _, log in systems}
    baselines = {
        "source's first sentence": [first_sentence(text) for text in sources],
        "source's header (name)": [header(text) for text in sources],
    }
    scores = {name: score(texts, references) for name, texts in {**hypotheses, **baselines}.items()}
    out.mkdir(parents=True, exist_ok=True)
    learning_curves.draw(logs, out / "learning_curves.png")
    (out / "examples.md").write_text(page_of_examples(sources, references, hypotheses), encoding="utf-8")
    training = {
        name: {"updates": max(log.train, default=0), "seconds": log.seconds, "valid_loss": _last(log.valid)}
        for name, log in logs.items()
    }
    results = {
        "texts": len(references),
        "rouge_signature": rouge.signature(SAMPLES, SEED),
        "scores": scores,
        "training": training,
    }
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (out / "table.md").write_text(table(scores) + "\n", encoding="utf-8")
    return table(scores)


def _last(curve):
    return curve[max(curve)] if curve else None


def main(argv=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="sources of the test split, one a line")
    parser.add_argument("--reference", required=True, help="their reference summaries, one a line")
    parser.add_argument(
        "--system",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "GENERATED", "LOG"),
        help="a system's name, its generate-test.txt and its training log; repeatable",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for results.json, table.md, examples.md and the plot"
    )
    args = parser.parse_args(argv)
    print(report(args.source, args.reference, args.system, args.out))


if __name__ == "__main__":
    main()
