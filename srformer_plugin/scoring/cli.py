"""Score summaries against references: ROUGE-1/2/L/Lsum with intervals, lengths, novelty, repetition, comparison.

    srformer-score HYP REF
    srformer-score generate-test.txt test.target --source test.source --also chrf,bleu
    srformer-score baseline.txt test.target --system ours ours.txt --json

HYP holds a summary a line, or is what fairseq-generate wrote. Sentences end at "<q>" or, in a text without, after . ? !
and a space. Scores are mean F1 in percent. Systems after the first are compared with it.
"""

import argparse
import os
import sys
from pathlib import Path

from data_prep.arguments import non_negative, positive, resamplings
from data_prep.errors import UserError, command
from data_prep.whole import refuse_to_replace, write_text

from .evaluate import ALSO, PAIRS_PER_WORKER, evaluate, table, to_json
from .files import ScoringError, read_hypotheses, read_lines
from .statistics import SAMPLES, SEED
from .unseen import unseen_warning


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        prog="srformer-score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("hypotheses", metavar="HYP", help="the first system: a line file or fairseq-generate's output")
    parser.add_argument("references", metavar="REF", help="reference summaries, one a line")
    parser.add_argument(
        "--system",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "FILE"),
        help="one more system, compared with the first; repeatable",
    )
    parser.add_argument("--source", help="what was summarized, one document a line: adds novel n-grams, compression")
    parser.add_argument(
        "--also", type=_metrics, default=(), help=f"comma-separated scores of sacrebleu: {', '.join(ALSO)}"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--save", metavar="FOLDER", help="also write what --json prints, score.json, and score.txt")
    parser.add_argument("--per-example", metavar="FILE", help="write a JSON line for each text of each system")
    parser.add_argument("--bootstrap-samples", type=resamplings, default=SAMPLES, metavar="N")
    parser.add_argument("--seed", type=non_negative, default=SEED, help="of the bootstrap")
    parser.add_argument("--workers", type=positive, help="processes (default: one for every 20,000 pairs)")
    return parser.parse_args(argv)


def _metrics(text):
    names = tuple(text.split(","))
    if not set(names) <= set(ALSO):
        raise argparse.ArgumentTypeError(f"{text!r} is not a comma-separated list of {', '.join(ALSO)}")
    return names


def run(options):
    """Score as the options say and return what to print.

    Raises:
        ScoringError: the files do not fit.
        UserError: a file that would be written is one that is read, or written as well.
    """
    _check_written(options)
    references = read_lines(options.references)
    if not any(line.strip() for line in references):
        raise ScoringError(f"{options.references} is empty")
    systems = {}
    for name, path in [(Path(options.hypotheses).name, options.hypotheses), *options.system]:
        if name in systems:
            raise ScoringError(f"two systems are called {name!r}")
        systems[name] = read_hypotheses(path, len(references))
    sources = read_lines(options.source) if options.source else None
    if sources is not None and len(sources) != len(references):
        raise ScoringError(f"{options.source} has {len(sources):,} lines, but there are {len(references):,} references")
    result, examples = evaluate(
        systems,
        references,
        sources,
        options.also,
        options.bootstrap_samples,
        options.seed,
        options.workers or min(os.cpu_count() or 1, 1 + len(references) // PAIRS_PER_WORKER),
    )
    warning = unseen_warning([text for texts in systems.values() for text in texts], references)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    if options.per_example:
        _write(options.per_example, "".join(to_json(example) + "\n" for example in examples))
    if options.save:
        _make_folder(options.save)
        for path, text in zip(_saved(options), (to_json(result, indent=1), table(result))):
            _write(path, text + "\n")
    return to_json(result, indent=1) if options.json else table(result)


def _saved(options):
    """The files of --save."""
    return [Path(options.save) / name for name in ("score.json", "score.txt")] if options.save else []


def _check_written(options):
    read = [options.references, options.hypotheses, options.source, *(path for _, path in options.system)]
    read = [path for path in read if path]
    for path in _saved(options):
        refuse_to_replace("--save", path, read)
    if options.per_example:
        refuse_to_replace("--per-example", options.per_example, read)
        if os.path.realpath(options.per_example) in map(os.path.realpath, _saved(options)):
            raise UserError(f"--per-example {options.per_example} is a file of --save: give it another name")


def _make_folder(path):
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScoringError(f"cannot make the folder {path}: {error.strerror}") from error


def _write(path, text):
    try:
        write_text(path, text)
    except OSError as error:
        raise ScoringError(f"cannot write {path}: {error.strerror}") from error


@command
def main(argv=None):
    """Command line; returns the exit status."""
    print(run(parse_arguments(argv)))
