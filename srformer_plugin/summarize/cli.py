"""Summarise documents with a BART, LED or T5 that is there: a checkpoint folder of fairseq's, or a Hugging Face folder.

    hf download facebook/bart-large-cnn --local-dir bart-large-cnn-hf
    srformer-summarize --model bart-large-cnn-hf report.txt
    cat report.txt | srformer-summarize --model bart-large-cnn-hf
    srformer-summarize --model bart-large-cnn-hf report.txt --explain report.html
    tail -f meeting.txt | srformer-summarize --model bart-large-cnn-hf --follow
    srformer-summarize --model checkpoints --data data-bin papers.jsonl --field text --json --out summaries.jsonl

Every document becomes one line, in the order of the input. A text file is one document; a .jsonl file has one on every
line. A document that cannot be summarised gets a line on standard error and an empty line (with --json an object with
"error"); the others go on, and the exit status is 2.
"""

import argparse
import contextlib
import io
import json
import os
import sys
from pathlib import Path

from data_prep.arguments import non_negative, positive
from data_prep.errors import EXIT_STATUS, PREFIX, command
from data_prep.whole import refuse_to_replace, write_text

from ..errors import ConfigurationError
from ..quiet import warnings_only
from .decoding import MOST_HYPOTHESES, Decoding
from .documents import STDIN, Document, read_documents
from .explain import explain
from .follow import follow, growing
from .model import DTYPES, MAX_TOKENS, Model, load
from .page import page
from .summary import Summary

EVERY, PAUSE = 500, 5.0  # of --follow: words, seconds


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="srformer-summarize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument(
        "files", metavar="FILE", nargs="*", help="text files, or .jsonl files with --field; - or none: standard input"
    )
    top.add_argument(
        "--model",
        metavar="DIR",
        required=True,
        help="folder with checkpoint_best.pt, model.pt or checkpoint_last.pt, dictionaries and subword files; or a "
        "Hugging Face folder of BART, LED or T5, which is converted once",
    )
    top.add_argument("--field", metavar="NAME", help="field of the objects of .jsonl files that holds the text")
    top.add_argument("--out", metavar="FILE", help="write there, whole or not at all (default: standard output)")
    top.add_argument(
        "--json",
        action="store_true",
        help="an object a line: file, line, summary, tokens (of the document), summary_tokens, chunked, truncated; or "
        "file, line, error",
    )
    top.add_argument(
        "--explain",
        metavar="PAGE.html",
        help="also write a page that shows which parts of the one document each word of the summary was read from",
    )
    grown = top.add_argument_group("a file or pipe that grows")
    grown.add_argument(
        "--follow",
        action="store_true",
        help="summarise one file, or standard input, again and again as it grows, until it ends or Ctrl-C; --out then "
        "holds the last summary",
    )
    grown.add_argument(
        "--every",
        type=positive,
        default=EVERY,
        metavar="N",
        help="new words before the next summary (default: %(default)s)",
    )
    grown.add_argument(
        "--pause",
        type=float,
        default=PAUSE,
        metavar="S",
        help="seconds without new words after which those before are summarised (default: %(default)s)",
    )
    search = top.add_argument_group(
        "search",
        "defaults: the model's own, of config.json and generation_config.json; of a fairseq folder, those of BART for "
        "CNN/DailyMail: " + ", ".join(f"{flag} {getattr(Decoding, name)}" for flag, name in _decoding_flags()),
    )
    search.add_argument(
        "--beam", type=positive, metavar="N", help=f"hypotheses that are kept, at most {MOST_HYPOTHESES}"
    )
    search.add_argument("--lenpen", type=float, metavar="P", help="above 1 longer summaries win, below 1 shorter ones")
    search.add_argument("--min-len", type=non_negative, metavar="N", help="tokens of the shortest summary")
    search.add_argument("--max-len", type=positive, metavar="N", help="tokens of the longest summary")
    search.add_argument(
        "--no-repeat-ngram-size",
        type=non_negative,
        metavar="N",
        help="no sequence of N tokens comes twice in a summary; 0: any may",
    )
    run = top.add_argument_group("model and machine")
    run.add_argument("--data", metavar="DIR", help="dictionaries and subword files, where they are not in --model")
    run.add_argument(
        "--prefix", metavar="TEXT", help='text before every document (default: what config.json says: "summarize: ")'
    )
    run.add_argument(
        "--truncate",
        action="store_true",
        help="read only the beginning of documents that are longer than the model's positions; without it they are "
        "encoded in chunks, and the decoder chooses the segments that it reads",
    )
    run.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    run.add_argument("--dtype", choices=DTYPES, help="of the weights (default: float32 on a CPU, else bfloat16)")
    run.add_argument(
        "--max-tokens",
        type=positive,
        default=MAX_TOKENS,
        metavar="N",
        help="source tokens that are read at once, padding counted; longer documents go alone (default: %(default)s)",
    )
    run.add_argument(
        "--cache-dir", metavar="DIR", help="of converted folders (default: srformer in $XDG_CACHE_HOME or ~/.cache)"
    )
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
    outputs = {flag: path for flag, path in (("--out", args.out), ("--explain", args.explain)) if path is not None}
    for flag, path in outputs.items():
        _check_output(flag, path)
        refuse_to_replace(flag, path, [file for file in files if file != STDIN])
    if len(outputs) == 2 and len(set(map(os.path.realpath, outputs.values()))) == 1:
        raise ConfigurationError(f"--out and --explain are both {args.out}: name two files")
    _check_single(args, files)
    if args.follow:
        return _follow(args, files[0])
    documents = read_documents(files, args.field, sys.stdin.buffer)
    if args.explain is not None and len(documents) != 1:
        raise ConfigurationError(f"--explain shows one document, and there are {len(documents):,}")
    good = [document for document in documents if document.error is None]
    for document in documents:
        if document.error is not None:
            _complain(document, document.error)
    summaries: list[Summary] = []
    if good:
        model = load_model(args)
        summaries = _summarize(args, model, good)
        _say_what_was_long(summaries, model)
    found = dict(zip(map(id, good), summaries))
    pairs = [(document, found.get(id(document), Summary(error=document.error))) for document in documents]
    for document in good:
        if found[id(document)].error is not None:
            _complain(document, found[id(document)].error)
    text = "".join(as_line(document, summary, args.json) + "\n" for document, summary in pairs)
    _write(args.out, text)
    return EXIT_STATUS if any(summary.error is not None for _, summary in pairs) else 0


def _check_output(flag, path):
    """Refuse, before the model is loaded, what could not be written."""
    if not Path(path).absolute().parent.is_dir():
        raise ConfigurationError(f"{flag} {path}: there is no folder {Path(path).parent}")
    if Path(path).is_dir():
        raise ConfigurationError(f"{flag} {path} is a folder: name a file")
    special = os.path.exists(path) and not os.path.isfile(path)  # a pipe, /dev/null
    if not os.access(path if special else os.path.dirname(os.path.realpath(path)), os.W_OK):
        raise ConfigurationError(f"{flag} {path} cannot be written: name another file")


def _check_single(args, files):
    """Refuse what does not go with --follow, and other values of its options."""
    if not args.pause >= 0:
        raise ConfigurationError(f"--pause {args.pause} must be at least 0")
    if not args.follow:
        return
    if len(files) != 1:
        raise ConfigurationError(f"--follow takes one file, and there are {len(files)}")
    for flag, given in (("--field", args.field), ("--explain", args.explain)):
        if given is not None:
            raise ConfigurationError(f"--follow does not go with {flag}: it reads one text")


def _follow(args, file):
    """Summarise a file as it grows; an interruption is how that ends."""
    if file != STDIN and not Path(file).exists():
        raise ConfigurationError(f"{file}: No such file or directory")
    model = load_model(args)
    stream = model.open_stream()

    def show():
        summary = stream.summary()
        line = as_line(Document(file), summary, args.json, words=stream.words) + "\n"
        _write(args.out, line)
        sys.stdout.flush()

    with contextlib.suppress(KeyboardInterrupt):
        follow(growing(file), stream, show, args.every, args.pause)
    return 0


def _summarize(args, model, documents):
    """The summaries of good documents, and the page of the one that is to be explained."""
    texts = [str(document.text) for document in documents]
    if args.explain is None:
        progress = args.progress or sys.stderr.isatty()
        return model.summarize_texts(texts, max_tokens=args.max_tokens, progress=progress)
    found = explain(model, texts[0])
    write_text(args.explain, page(found, documents[0].name))
    return [found.summary]


def _write(out, text):
    if out is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as --out is, whatever the locale
        sys.stdout.write(text)
    else:
        write_text(out, text)


def load_model(args) -> Model:
    """The model that the arguments name."""
    return load(
        args.model,
        args.device,
        args.dtype,
        args.data,
        args.prefix,
        args.truncate,
        args.cache_dir,
        _note,
        **{name: getattr(args, name) for _, name in _decoding_flags()},
    )


def as_line(document: Document, summary: Summary, as_json: bool, **others) -> str:
    """A document's line of output, without its end; `others` are fields of the object besides."""
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
    line = json.dumps({"file": document.file, "line": document.line, **value, **others}, ensure_ascii=False)
    # bytes of a file's name that are no UTF-8 are half surrogates here, which JSON can escape and UTF-8 cannot hold
    return line.encode(errors="backslashreplace").decode()


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
    with warnings_only():
        return run(args)
