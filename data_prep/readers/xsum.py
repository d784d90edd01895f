"""XSum: a folder of .summary files (ID.summary), and the JSON file with the ids of every split.

A file has the sections `[SN]URL[SN]`, `[SN]TITLE[SN]`, `[SN]FIRST-SENTENCE[SN]` (the target) and `[SN]RESTBODY[SN]`
(the source). The official files hold some UTF-8 that was read as Latin-1 once (a pound sign after a stray A with
circumflex): it is counted, and mended with --mend-mojibake only, since published scores are over the text as it is.
"""

import re
from pathlib import Path

from data_prep.readers.raw_files import files_below, not_found, not_listed, one_file, read_split_json
from data_prep.record import MalformedRecord, Unit, make_record, read_text
from data_prep.text import lines

MARK = re.compile(r"^\[SN\](URL|TITLE|FIRST-SENTENCE|RESTBODY)\[SN\]", re.MULTILINE)
SECTIONS = ["URL", "TITLE", "FIRST-SENTENCE", "RESTBODY"]


def add_arguments(parser):
    parser.add_argument("--split-file", type=Path, help="JSON file of the splits (default: RAW/*SPLIT*.json)")


def units(raw, options):
    """A unit a document, in the order of the split file; a document that is in two splits comes twice."""
    path = options.split_file or one_file(raw, ["*SPLIT*.json", "*split*.json"], "split file")
    splits = read_split_json(path, options.splits)
    documents = files_below(raw, ".summary")
    for split in options.splits:
        for name in splits[split]:
            if name in documents:
                yield Unit(documents[name], None, name, split, None)
            else:
                yield not_found(path, None, name)
    for name in sorted(documents.keys() - set().union(*splits.values())):
        yield not_listed(documents[name], name)


def parse(unit):
    # ["", name, text, name, text, ...]
    parts = MARK.split("\n".join(lines(read_text(unit.file))))
    if parts[1::2] != SECTIONS:
        raise MalformedRecord(f"the sections are {', '.join(parts[1::2]) or 'none'}, not {', '.join(SECTIONS)}")
    text = dict(zip(parts[1::2], parts[2::2]))
    return make_record(unit, text["RESTBODY"], [text["FIRST-SENTENCE"]])
