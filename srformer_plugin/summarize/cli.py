"""Summarise documents with a BART or T5 that is there: a checkpoint folder of fairseq's, or a Hugging Face folder.

    hf download facebook/bart-large-cnn --local-dir bart-large-cnn-hf
    srformer-summarize --model bart-large-cnn-hf report.txt
    cat report.txt | srformer-summarize --model bart-large-cnn-hf
    srformer-summarize --model checkpoints --data data-bin papers.jsonl --field text --json --out summaries.jsonl

Every document becomes one line, in the order of the input. A text file is one document; a .jsonl file has one on every
line. A document that cannot be summarised gets a line on standard error and an empty line (with --json an object with
"error"); the others go on, and the exit status is 2.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

from data_prep.arguments import non_negative, positive
from data_prep.errors import EXIT_STATUS, PREFIX, command
from data_prep.whole import whole_file

from ..errors import ConfigurationError
from .cache import default_folder
from .decoding import Decoding
from .documents import STDIN, Document, read_documents
from .model import DTYPES, MAX_TOKENS, Model, load
from .summary import Summary


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="srformer-summarize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument(
        "files", metavar="FILE", nargs="*", help="text files, or .jsonl files with --field; - or none: standard input"
    )
    top.add_argument(
        "--model", metavar="DIR", required=True,
        help="folder with checkpoint_best.pt, model.pt or checkpoint_last.pt, dictionaries and subword files; or a "
        "Hugging Face folder of BART or T5, which is converted once",
    )  # fmt: skip
    top.add_argument("--field", metavar="NAME", help="field of the objects of .jsonl files that holds the text")
    top.add_argument("--out", metavar="FILE", help="write there, whole or not at all (default: standard output)")
    top.add_argument(
        "--json", action="store_true",
        help="an object a line: file, line, summary, tokens (of the document), summary_tokens, chunked, truncated; or "
        "file, line, error",
    )  # fmt: skip
    search = top.add_argument_group(
        "search",
        "defaults: the model's own, of config.json and generation_config.json; of a fairseq folder, those of BART for "
        "CNN/DailyMail: " + ", ".join(f"{flag} {getattr(Decoding, name)}" for flag, name in _decoding_flags()),
    )
    search.add_argument("--beam", type=positive, metavar="N", help="hypotheses that are kept")
    search.add_argument("--lenpen", type=float, metavar="P", help="above 1 longer summaries win, below 1 shorter ones")
    search.add_argument("--min-len", type=non_negative, metavar="N", help="tokens of the shortest summary")
    search.add_argument("--max-len", type=positive, metavar="N", help="tokens of the longest summary")
    search.add_argument(
        "--no-repeat-ngram-size", type=non_negative, metavar="N",
        help="no sequence of N tokens comes twice in a summary; 0: any may",
    )  # fmt: skip
    run = top.add_argument_group("model and machine")
    run.add_argument("--data", metavar="DIR", help="dictionaries and subword files, where they are not in --model")
    run.add_argument(
        "--prefix", metavar="TEXT", help='text before every document (default: what config.json says: "summarize: ")'
    )
    run.add_argument(
        "--truncate", action="store_true",
        help="read only the beginning of documents that are longer than the model's positions; without it they are "
        "encoded in chunks, and the decoder chooses the segments that it reads",
    )  # fmt: skip
    run.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    run.add_argument("--dtype", choices=DTYPES, help="of the weights (default: float32 on a CPU, else bfloat16)")
    run.add_argument(
        "--max-tokens", type=positive, default=MAX_TOKENS, metavar="N",
        help="source tokens that are read at once, padding counted; longer documents go alone (default: %(default)s)",
    )  # fmt: skip
    run.add_argument("--cache-dir", metavar="DIR", help=f"of converted folders (default: {default_folder()})")
    run.add_argument("--progress", action="store_true", help="show a bar even where standard error is no terminal")
    return top


def _decoding_flags():
    return [(f"--{name.replace('_', '-')}", name) for name in Decoding.__dataclass_fields__]


def run(args) -> int:
    """Do what the arguments say; returns the exit status."""
    files = args.files or [STDIN]
    if files == [STDIN] and not args.files and sys.stdin.isatty():
        raise ConfigurationError("no documents: name files, or give a text on standard input; --help has examples")
    if files.count(STDIN) > 1:
        raise ConfigurationError("standard input can be read once: give - once")
    if args.out is not None and not Path(args.out).absolute().parent.is_dir():
        raise ConfigurationError(f"--out {args.out}: there is no folder {Path(args.out).parent}")
    documents = read_documents(files, args.field, sys.stdin.buffer)
    good = [document for document in documents if document.error is None]
    for document in documents:
        if document.error is not None:
            _complain(document, document.error)
    summaries: list[Summary] = []
    if good:
        model = load_model(args)
        progress = args.progress or sys.stderr.isatty()
        texts = [str(document.text) for document in good]
        summaries = model.summarize_texts(texts, max_tokens=args.max_tokens, progress=progress)
        _say_what_was_long(summaries, model)
    found = dict(zip(map(id, good), summaries))
    pairs = [(document, found.get(id(document), Summary(error=document.error))) for document in documents]
    for document in good:
        if found[id(document)].error is not None:
            _complain(document, found[id(document)].error)
    text = "".join(as_line(document, summary, args.json) + "\n" for document, summary in pairs)
    if args.out is None:
        sys.stdout.write(text)
    else:
        with whole_file(args.out) as file:
            file.write(text)
    return EXIT_STATUS if any(summary.error is not None for _, summary in pairs) else 0


def load_model(args) -> Model:
    """The model that the arguments name."""
    return load(
        args.model, args.device, args.dtype, args.data, args.prefix, args.truncate, args.cache_dir, _note,
        **{name: getattr(args, name) for _, name in _decoding_flags()},
    )  # fmt: skip


def as_line(document: Document, summary: Summary, as_json: bool) -> str:
    """A document's line of output, without its end."""
    if not as_json:
        return summary.text
    if summary.error is not None:
        value = {"error": summary.error}
    else:
        value = {
            "summary": summary.text,
            "tokens": summary.source_tokens,
            "summary_tokens": len(summary.ids),
            "chunked": summary.chunked,
            "truncated": summary.truncated,
        }
    return json.dumps({"file": document.file, "line": document.line, **value}, ensure_ascii=False)


def _say_what_was_long(summaries, model):
    """One line about documents that are longer than the model's positions."""
    for one in ("truncated", "chunked"):
        count = sum(getattr(summary, one) for summary in summaries)
        if count:
            subject = "1 document is" if count == 1 else f"{count:,} documents are"
            what = model.how_long_sources_are_read() if one == "chunked" else "only the beginning is read"
            _note(f"{subject} longer than the model's {model.source_positions:,} positions: {what}")


def _note(line):
    print(f"note: {line}", file=sys.stderr)


def _complain(document, reason):
    print(f"{PREFIX}{document.name}: {reason}", file=sys.stderr)


@command
def main(argv=None):
    """Command line; returns the exit status."""
    args = parser().parse_args(argv)
    for noisy in ("fairseq", "srformer_plugin"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return run(args)
