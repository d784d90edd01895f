"""From the official raw files of a corpus to line files.

    python -m data_prep.prepare FORMAT RAW OUT [options]

writes to OUT: {train,valid,test}.{source,target}, one document a line with its white space folded, the sentences of a
target joined by " <q> "; of formats that know it, SPLIT.spans.jsonl, what is relevant in every source
(data_prep/spans.py); manifest.json (counts, lengths, checksums, options, versions), report.md with histogram.png,
and malformed.jsonl with the file, line and reason of every record that could not be read.

A malformed record is skipped and counted; where a file has a record a line, every line is accounted for. It is an error
if more than the share --max-malformed of a corpus is malformed, or if a split comes out empty. The output does not
depend on --workers. It is written atomically: OUT has a manifest.json only when everything else is complete, and an
interrupted run begins anew.
"""

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from tqdm import tqdm

from data_prep.arguments import non_negative, positive, share
from data_prep.corpus_writer import CorpusWriter
from data_prep.errors import UserError, command
from data_prep.mojibake import mend
from data_prep.ordered_map import ordered_map
from data_prep.prepare_report import report
from data_prep.provenance import sha256_of, versions
from data_prep.readers import READERS
from data_prep.record import FileLines, Malformed, RawDataError, Record, parse_unit
from data_prep.statistics import draw_histograms
from data_prep.text import SENTENCE_MARK, SIDES, SPLITS
from data_prep.whole import MANIFEST, refuse_to_replace, whole_folder

MOJIBAKE = "UTF-8 that was read as Latin-1 (mojibake)"
REMOVED_FROM = {"train": ("train",), "all": SPLITS, "none": ()}
# Packages whose versions may change what is read.
READING_PACKAGES = ("ijson", "pyarrow")


class TooManyMalformed(UserError):
    """More records could not be read than the user allows."""


def parse_one(reader_name, mend_mojibake, unit):
    """What the workers do: the unit's Record or Malformed."""
    result = parse_unit(READERS[reader_name].parse, unit)
    if not isinstance(result, Record):
        return result
    mended = result._replace(source=mend(result.source), target=tuple(map(mend, result.target)))
    if mended[:4] == result[:4]:
        return result
    if result.spans is not None and mend_mojibake:
        words = result.source.split()  # one that is mended may become two
        mended = mended._replace(
            spans=result.spans.moved(len(mended.source.split()), lambda n: len(mend(" ".join(words[:n])).split()))
        )
    return (mended if mend_mojibake else result)._replace(notes=(*result.notes, MOJIBAKE))


def prepare(reader_name, raw, out, options, workers=1):
    """Read the corpus in folder `raw`, write folder `out`, and return the manifest. `options`: as of `parser`.

    Raises RawDataError, TooManyMalformed, and UserError where `out` is `raw`; `out` is then as it was before.
    """
    refuse_to_replace("OUT", out, [raw])
    reader = READERS[reader_name]
    with whole_folder(out) as folder:
        writer = CorpusWriter(
            folder, options.splits, REMOVED_FROM[options.duplicates], options.max_source_words, options.max_target_words
        )
        try:
            examples, malformed, lines = write_records(writer, reader, reader_name, raw, folder, options, workers)
        finally:
            writer.close()
        check_shares(writer, malformed, examples, options)
        overlaps = writer.overlaps()
        if options.remove_overlap and "train" in options.splits:
            writer.remove_overlap()
        empty = [split for split in options.splits if not writer.counts[split]["written"]]
        if empty:
            raise RawDataError(f"{raw}: no usable record for {', '.join(empty)} ({describe(writer, empty)})")
        manifest = {
            "format": reader_name,
            "sentence_separator": SENTENCE_MARK,
            "counts": {split: dict(writer.counts[split]) for split in options.splits},
            "malformed": malformed,
            "malformed_examples": examples,
            "lines": lines,
            "overlaps": overlaps,
            "notes": dict(sorted(writer.notes.items())),
            "words": {
                side: {split: lengths.summary() for split, lengths in writer.lengths[side].items()} for side in SIDES
            },
            "target_sentences": {split: lengths.summary() for split, lengths in writer.sentences.items()},
            "options": options_of(options),
            "versions": versions(*READING_PACKAGES),
        }
        draw_histograms(folder / "histogram.png", writer.lengths, "words")
        (folder / "report.md").write_text(report(manifest), encoding="utf-8")
        manifest["sha256"] = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def write_records(writer, reader, reader_name, raw, folder, options, workers):
    """Pass every record to `writer`; returns the first malformed ones as text, their number, and `{file: lines}`."""
    examples, malformed, lines = [], 0, {}
    results = ordered_map(partial(parse_one, reader_name, options.mend_mojibake), reader.units(raw, options), workers)
    with open(folder / "malformed.jsonl", "w", encoding="utf-8", errors="backslashreplace") as log:
        for result in tqdm(results, desc=reader_name, unit="doc", mininterval=1):
            if isinstance(result, Malformed):
                malformed += result.lines
                result = result._replace(file=below(raw, result.file))
                log.write(json.dumps(result._asdict()) + "\n")
                if len(examples) < 20:
                    examples.append(str(result).encode(errors="backslashreplace").decode())
            elif isinstance(result, FileLines):
                lines[below(raw, result.file)] = {name: n for name, n in result._asdict().items() if name != "file"}
            else:
                writer.add(result)
    return examples, malformed, lines


def below(raw, file):
    """`file` as a path below folder `raw`, so that the output does not depend on where that lies."""
    try:
        return Path(file).relative_to(raw).as_posix()
    except ValueError:
        return file


def check_shares(writer, malformed, examples, options):
    total = malformed + sum(counts["read"] for counts in writer.counts.values())
    if total and malformed > options.max_malformed * total:
        raise TooManyMalformed(
            f"{malformed} of {total} records are malformed, more than --max-malformed {options.max_malformed:g} of "
            "them; the first:\n  " + "\n  ".join(examples[:5])
        )


def describe(writer, splits):
    counts = sum((writer.counts[split] for split in splits), start=type(writer.counts[splits[0]])())
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "none found"


def options_of(options):
    """The options that decide what is written: not where it lies, nor how many processes write it."""
    left_out = ("format", "raw", "out", "workers")
    return {
        name: value.name if isinstance(value, Path) else value
        for name, value in sorted(vars(options).items())
        if name not in left_out
    }


def add_options(parser):
    """The options that all formats have."""
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder with the raw files")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="splits to write (default: all)"
    )
    parser.add_argument(
        "--duplicates",
        choices=list(REMOVED_FROM),
        default="train",
        help="from which splits pairs of equal source and target are removed but for the first; they are counted in "
        "every split. Published scores are over test sets with their duplicates (default: %(default)s)",
    )
    parser.add_argument(
        "--remove-overlap",
        action="store_true",
        help="remove from train the documents that are in valid or test as well",
    )
    parser.add_argument(
        "--max-malformed",
        type=share,
        default=0.01,
        metavar="SHARE",
        help="more than this share of malformed records is an error (default: %(default)s)",
    )
    for side in SIDES:
        parser.add_argument(
            f"--max-{side}-words", type=non_negative, default=0, help=f"cut longer {side}s; 0: never (default: never)"
        )
    parser.add_argument(
        "--mend-mojibake", action="store_true", help="mend UTF-8 that was read as Latin-1; it is counted in any case"
    )
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="processes (default: one a core)")


def parser():
    """The command line: a sub-command a format, with the reader's own options."""
    result = argparse.ArgumentParser(
        prog="python -m data_prep.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    formats = result.add_subparsers(dest="format", metavar="FORMAT", required=True)
    for name, reader in READERS.items():
        first_line = reader.__doc__.partition("\n")[0]
        sub = formats.add_parser(
            name,
            help=first_line,
            description=reader.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_options(sub)
        getattr(reader, "add_arguments", lambda sub: None)(sub)
    return result


def default_options(reader_name, **changes):
    """The options of a format with their defaults, but for `changes`: for callers that have no command line."""
    required = [f"--{name.replace('_', '-')}={changes.get(name)}" for name in ("source_field", "target_field")]
    arguments = [reader_name, ".", ".", *(required if reader_name == "fields" else [])]
    return SimpleNamespace(**{**vars(parser().parse_args(arguments)), **changes})


@command
def main(argv=None):
    """Command line; returns the exit status."""
    options = parser().parse_args(argv)
    # in the order of SPLITS, whatever the order on the command line
    options.splits = [split for split in SPLITS if split in options.splits]
    print(report(prepare(options.format, options.raw, options.out, options, options.workers)))


if __name__ == "__main__":
    sys.exit(main())
