"""ROUGE-1/2/L/Lsum of a test set: `srformer_plugin.scoring` beside a plain loop over rouge-score.

    python -m benchmarks.rouge_scoring HYP REF --pairs 11490 --json benchmarks/results/rouge_scoring.json

HYP and REF are line files, repeated to the size of the test set. Every way of scoring is a program of its own, timed
from its start to its end, imports included. Scores that differ anywhere from rouge-score's are an error: no time is
reported for them.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.rows import provenance, this_cpu, write_rows

PEER = "rouge-score loop"
TYPES = ["rouge1", "rouge2", "rougeL", "rougeLsum"]


def read_pairs(hypotheses, references, count):
    """`count` pairs of the two line files, from the start again where they end."""
    files = (Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n") for path in (hypotheses, references))
    pairs = list(zip(*files, strict=True))
    return [pairs[number % len(pairs)] for number in range(count)]


def score_with_peer(pairs):
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(TYPES, use_stemmer=True)
    texts = ([re.sub(r"(?<=[.!?])\s+", "\n", text) for text in pair] for pair in pairs)
    scores = (scorer.score(reference, hypothesis) for hypothesis, reference in texts)
    return np.array([[tuple(score[name]) for name in TYPES] for score in scores])


def score_with_ours(pairs, workers):
    from srformer_plugin.scoring.rouge import score_texts

    return score_texts(*zip(*pairs), workers=workers)


def run(options, workers, repeats):
    """Median wall time in seconds of the program that scores in one way (0 workers: the peer), and its scores."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scores.npy"
        for _ in range(repeats):
            start = time.perf_counter()
            subprocess.run(
                [
                    sys.executable, "-m", "benchmarks.rouge_scoring", options.hypotheses, options.references,
                    "--pairs", str(options.pairs), "--score", str(workers), str(out),
                ],
                check=True, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds), np.load(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hypotheses", metavar="HYP")
    parser.add_argument("references", metavar="REF")
    parser.add_argument("--pairs", type=int, default=11490, help="the size of CNN/DailyMail's test set")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="processes, one row for each")
    parser.add_argument("--repeats", type=int, default=1, help="runs of which the median counts")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--score", nargs=2, help=argparse.SUPPRESS)  # what the timed program does
    options = parser.parse_args()
    if options.score:
        pairs, workers = read_pairs(options.hypotheses, options.references, options.pairs), int(options.score[0])
        np.save(options.score[1], score_with_ours(pairs, workers) if workers else score_with_peer(pairs))
        return

    measured_on = provenance(this_cpu())
    theirs, expected = run(options, 0, options.repeats)
    print(f"{PEER:26} {theirs:8.1f} s", flush=True)
    rows = []
    for workers in options.workers:
        ours, scores = run(options, workers, options.repeats)
        if not np.array_equal(scores, expected):
            raise SystemExit(f"{workers} workers: {(scores != expected).any(axis=(1, 2)).sum()} pairs score otherwise")
        print(f"srformer_plugin, {workers} workers {ours:8.1f} s   {theirs / ours:.1f} times as fast", flush=True)
        rows.append(
            {
                "benchmark": "rouge_scoring",
                "case": {"pairs": options.pairs, "workers": workers},
                "peer": PEER,
                "ours": ours,
                "theirs": theirs,
                "unit": "s",
                "ratio": theirs / ours,
                **measured_on,
            }
        )
    write_rows(rows, options.json)


if __name__ == "__main__":
    main()
