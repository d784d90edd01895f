"""Line files as subwords, for fairseq-preprocess.

    python -m data_prep.encode CORPUS OUT --bpe gpt2 --gpt2-files FOLDER
    python -m data_prep.encode CORPUS OUT --bpe sentencepiece [--vocabulary 32000 | --model spiece.model]

reads {train,valid,test}.{source,target} of folder CORPUS, as many splits as there are, and writes the same files to OUT
with a space between the pieces; so it does SPLIT.spans.jsonl (data_prep/spans.py), where there is one. manifest.json,
report.md and histogram.png say how long the texts are and what was cut.
`gpt2` is the BPE of fairseq's BART: FOLDER holds encoder.json and vocab.bpe, which are checked by their checksums.
`sentencepiece` takes a model file, as T5 has one, or trains one on the training split, with the mark between sentences
as one piece. Tokens that were added to the vocabulary, in encoder.json or in added_tokens.json beside the model, stay
whole.

A text of more than --max-source or --max-target tokens is cut. Tokens are counted with the end of sentence, which
fairseq-preprocess appends: N - 1 pieces stay. No line is left out, an empty one neither. White space is folded, as
data_prep.prepare has done already. The output does not depend on --workers; an interrupted run begins anew.
"""

import argparse
import json
import os
import sys
from collections import Counter
from itertools import islice, repeat
from pathlib import Path

from tqdm import tqdm

from data_prep import gpt2_bpe, sentencepiece_model
from data_prep.arguments import file, positive, token_limit, vocabulary
from data_prep.errors import command
from data_prep.line_files import BadCorpus, lines_of, splits_of
from data_prep.ordered_map import ordered_map
from data_prep.provenance import sha256_of, versions
from data_prep.spans import SPANS, BadSpans, read_spans
from data_prep.statistics import Lengths, draw_histograms
from data_prep.text import SENTENCE_MARK, SIDES
from data_prep.whole import MANIFEST, refuse_to_replace, whole_folder

MODEL = "sentencepiece.model"

_pieces = None  # in a worker: the function text -> list of pieces


def start_worker(bpe, path):
    """Load the vocabulary, once a process."""
    global _pieces
    _pieces = (gpt2_bpe if bpe == "gpt2" else sentencepiece_model).load(path)


def without_separator(lines):
    """The lines with the separator of sentences left out."""
    return (" ".join(word for word in line.split() if word != SENTENCE_MARK) for line in lines)


def encode_line(task):
    """`(pieces of a text, how many tokens it had, its spans on the pieces)`; `task` is text, limit, spans on words.

    The limit counts the end of sentence as well; 0 is none. Spans may be None.
    """
    line, limit, spans = task
    words = line.split()
    pieces = _pieces(" ".join(words))
    kept = pieces[: limit - 1] if limit else pieces
    if spans is not None:
        spans = spans.moved(len(pieces), lambda count: common(pieces, _pieces(" ".join(words[:count]))))
        spans = spans.first(len(kept))
    return " ".join(map(str, kept)), len(pieces) + 1, spans


def common(pieces, others):
    """With how many equal ones two lists begin: the pieces of a text, and of its first words."""
    pairs = enumerate(zip(pieces, others))
    return next((number for number, (one, other) in pairs if one != other), min(len(pieces), len(others)))


def spans_of(corpus, split, lines):
    """The spans of a split's sources, for each of its `lines`; None for each where there is no file of them.

    Raises:
        BadSpans: the file is damaged, or belongs to other lines.
    """
    path = corpus / f"{split}.{SPANS}"
    if not path.exists():
        return repeat(None, lines)
    found = read_spans(path)
    source = path.with_name(f"{split}.source")
    if len(found) != lines:
        raise BadSpans(f"{path} has {len(found)} lines, but {source.name} {lines}: prepare them anew, or remove it")
    for number, (spans, line) in enumerate(zip(found, lines_of(source)), 1):
        if spans.length != (length := len(line.split())):
            raise BadSpans(
                f"{path}:{number}: of a source of {spans.length:,} words, but that of {source.name} has {length:,}: "
                "prepare them anew, or remove it"
            )
    return found


def encode(corpus, out, bpe, vocabulary_path, limits, workers=1, train_size=0, separator=True, fold_case=False):
    """Encode folder `corpus` into folder `out`; returns the manifest.

    `vocabulary_path` is the folder of GPT-2's two files, or a SentencePiece model; if it is None a model of
    `train_size` pieces is trained on the training split, with `fold_case` on its small letters, and written to `out`.
    `limits`: tokens, `{"source": n, "target": n}`, 0 for none.
    Without `separator` the marks between the sentences of targets are left out.
    Raises BadCorpus, BadSpans, WrongVocabulary, and UserError where `out` is `corpus`; `out` is then as it was before.
    """
    refuse_to_replace("OUT", out, [corpus])
    splits = splits_of(corpus)
    if vocabulary_path is not None:
        # here as well, for a clear error: that of a worker's start is not passed on
        start_worker(bpe, vocabulary_path)
    elif "train" not in splits:
        raise BadCorpus(f"{corpus} has no train.source to train SentencePiece on; name a model with --model")
    with whole_folder(out) as folder:
        if vocabulary_path is None:
            vocabulary_path = folder / MODEL
            files = [corpus / f"train.{side}" for side in SIDES]
            sentencepiece_model.train(files, vocabulary_path, train_size, [SENTENCE_MARK], fold_case)
        counts = {split: Counter() for split in splits}
        lengths = {side: {split: Lengths() for split in splits} for side in SIDES}
        files = [(split, side) for split in splits for side in SIDES]
        # one map over all files: the workers load their vocabulary once
        kept = {"source": iter, "target": iter if separator else without_separator}
        spans = {(split, "source"): spans_of(corpus, split, splits[split]) for split in splits}
        tasks = (
            (line, limits[side], known)
            for split, side in files
            for line, known in zip(
                kept[side](lines_of(corpus / f"{split}.{side}")), spans.get((split, side), repeat(None))
            )
        )
        results = ordered_map(encode_line, tasks, workers, 100, start_worker, (bpe, vocabulary_path))
        for split, side in files:
            name, limit = f"{split}.{side}", limits[side]
            progress = tqdm(islice(results, splits[split]), name, splits[split], unit="line", mininterval=1)
            relevant = []
            with open(folder / name, "w", encoding="utf-8", newline="\n") as encoded:
                for pieces, tokens, known in progress:
                    encoded.write(pieces + "\n")
                    lengths[side][split].add(tokens)
                    if not pieces:
                        counts[split][f"empty {side}"] += 1
                    if limit and tokens > limit:
                        counts[split][f"truncated {side}"] += 1
                        counts[split][f"tokens cut from {side}"] += tokens - limit
                    if known is not None:
                        relevant.append(known.to_json() + "\n")
            if relevant:
                (folder / f"{split}.{SPANS}").write_text("".join(relevant), encoding="utf-8")
            counts[split]["lines"] = splits[split]
        manifest = {
            "bpe": bpe,
            "vocabulary_sha256": checksums(vocabulary_path),
            "corpus_sha256": {
                name: sha256_of(corpus / name)
                for split in splits
                for name in (f"{split}.source", f"{split}.target", f"{split}.{SPANS}")
                if (corpus / name).exists()
            },
            "counts": {split: dict(sorted(counts[split].items())) for split in splits},
            "tokens": {side: {split: lengths[side][split].summary() for split in splits} for side in SIDES},
            "options": {
                "max_source": limits["source"],
                "max_target": limits["target"],
                "vocabulary": train_size,
                "separator": separator,
                "fold_case": fold_case,
            },
            "versions": versions("tiktoken", "sentencepiece"),
        }
        draw_histograms(folder / "histogram.png", lengths, "tokens")
        (folder / "report.md").write_text(report(manifest), encoding="utf-8")
        manifest["sha256"] = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def checksums(path):
    files = [path / name for name in gpt2_bpe.SHA256] if path.is_dir() else [path]
    return {file.name: sha256_of(file) for file in files}


def report(manifest):
    """Markdown: lengths in tokens, and what was cut."""
    splits = list(manifest["counts"])
    lines = ["| | " + " | ".join(splits) + " |", "|---|" + "---|" * len(splits)]
    lines.append("| lines | " + " | ".join(str(manifest["counts"][split]["lines"]) for split in splits) + " |")
    for side in SIDES:
        tokens, limit = manifest["tokens"][side], manifest["options"][f"max_{side}"]
        cells = [f"{tokens[s]['median']}, {tokens[s]['p95']}, {tokens[s]['max']}" for s in splits]
        lines.append(f"| {side} tokens: median, p95, max | " + " | ".join(cells) + " |")
        for what, title in (("truncated", f"longer than {limit} and cut"), ("empty", "empty, and kept")):
            cells = [manifest["counts"][split].get(f"{what} {side}", 0) for split in splits]
            shares = [f"{n} ({100 * n / max(manifest['counts'][s]['lines'], 1):.1f}%)" for n, s in zip(cells, splits)]
            if what == "empty" or limit:
                lines.append(f"| {side}s {title} | " + " | ".join(shares) + " |")
        cells = [manifest["counts"][split].get(f"tokens cut from {side}", 0) for split in splits]
        if limit:
            lines.append(f"| tokens cut from {side}s | " + " | ".join(map(str, cells)) + " |")
    lines += ["", f"Vocabulary: {manifest['bpe']}. Lengths count the end of sentence and are those before the cut.", ""]
    return "\n".join([*lines, "![lengths](histogram.png)", ""])


def parse_arguments(argv=None):
    """The options of the command line, checked as far as they can be without the corpus."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.encode",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # plans read its flags, too
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="folder with {train,valid,test}.{source,target}")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--bpe", choices=["gpt2", "sentencepiece"], required=True)
    parser.add_argument(
        "--gpt2-files", type=Path, metavar="FOLDER", help="gpt2: folder with encoder.json and vocab.bpe"
    )
    parser.add_argument(
        "--own-vocabulary",
        action="store_true",
        help="gpt2: the two files are not GPT-2's: do not check their checksums",
    )
    parser.add_argument("--model", type=file, help="sentencepiece: a model file (default: train one)")
    parser.add_argument(
        "--vocabulary",
        type=vocabulary,
        default=32000,
        help="sentencepiece: pieces of a trained model, or as many as the text is enough for (default: 32000)",
    )
    parser.add_argument(
        "--fold-case", action="store_true", help="sentencepiece: a trained model makes capital letters small"
    )
    for side in SIDES:
        parser.add_argument(
            f"--max-{side}",
            type=token_limit,
            default=1024,
            metavar="TOKENS",
            help=f"cut longer {side}s to this, the end of sentence included; 0: never (default: 1024)",
        )
    parser.add_argument(
        "--leave-out-separator",
        action="store_true",
        help=f"leave {SENTENCE_MARK!r} out of the targets; the lines of CORPUS keep it, for scoring",
    )
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="processes (default: one a core)")
    options = parser.parse_args(argv)
    if options.bpe == "gpt2" and not options.gpt2_files:
        parser.error("--bpe gpt2 needs --gpt2-files")
    if options.bpe == "gpt2" and not options.own_vocabulary:
        gpt2_bpe.check_files(options.gpt2_files)
    return options


@command
def main(argv=None):
    """Command line; returns the exit status."""
    options = parse_arguments(argv)
    manifest = encode(
        options.corpus,
        options.out,
        options.bpe,
        options.gpt2_files if options.bpe == "gpt2" else options.model,
        {side: getattr(options, f"max_{side}") for side in SIDES},
        options.workers,
        options.vocabulary if options.bpe == "sentencepiece" and not options.model else 0,
        not options.leave_out_separator,
        options.fold_case,
    )
    print(report(manifest))


if __name__ == "__main__":
    sys.exit(main())
