"""MediaSum: news_dialogue.json, one JSON list of interviews (4 GB, read as a stream), and the JSON file of the splits.

An interview has `id`, `summary`, `utt` (utterances), `speaker` (who said each) and fields that are not used. The source
is `SPEAKER: utterance` for each. Where `utt` and `speaker` differ in length nobody knows who said what: all
utterances are kept, without speakers, and the interview is counted.

An interview of the wrong shape is skipped; broken JSON is fatal, since nothing marks where the next one begins.
"""

import codecs
from pathlib import Path

from data_prep.readers.raw_files import not_found, not_listed, one_file, read_split_json
from data_prep.record import RawDataError, Unit, make_record, member
from data_prep.text import lines

LENGTHS_DIFFER = "utterances and speakers differ in number: speakers left out"


def add_arguments(parser):
    parser.add_argument("--split-file", type=Path, help="JSON file of the splits (default: RAW/*split*.json)")


def units(raw, options):
    """A unit an interview and split; `line` is its number in the list, from 1."""
    path = one_file(raw, ["news_dialogue*.json"], "dialogue file")
    splits_path = options.split_file or one_file(raw, ["*split*.json"], "split file")
    splits = read_split_json(splits_path, options.splits)
    splits_of = {}
    for split, names in splits.items():
        for name in names:
            splits_of.setdefault(name, []).append(split)
    found = set()
    for number, interview in enumerate(elements(path), 1):
        identifier = interview.get("id") if isinstance(interview, dict) else None
        if not isinstance(identifier, str):
            # to be counted once: the splits of an interview without a name are unknown
            yield Unit(str(path), number, "", options.splits[0], interview)
            continue
        found.add(identifier)
        for split in splits_of.get(identifier, ()):
            if split in options.splits:
                yield Unit(str(path), number, identifier, split, interview)
        if identifier not in splits_of:
            yield not_listed(path, identifier)._replace(line=number)
    for split in options.splits:
        for name in splits[split]:
            if name not in found:
                yield not_found(splits_path, None, name)


def elements(path):
    """Yield the elements of the JSON list in a file, without ever holding more than one of them."""
    try:
        import ijson
    except ImportError as error:
        raise RawDataError("reading MediaSum needs ijson: pip install ijson") from error
    with open(path, "rb") as file:
        start = file.read(64)
        skipped = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
        if start[skipped:].lstrip()[:1] != b"[":
            raise RawDataError(f"{path}: not a JSON list")
        file.seek(skipped)
        number = 0
        try:
            for element in ijson.items(file, "item", use_float=True):
                number += 1
                yield element
        except (ijson.JSONError, ValueError, ArithmeticError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RawDataError(f"{path}: cut off or damaged after {number} interviews: {reason}") from error


def parse(unit):
    interview = unit.payload
    member(interview, "id", str)
    utterances, speakers = member(interview, "utt", list), member(interview, "speaker", list)
    summary = member(interview, "summary", str)
    if len(utterances) != len(speakers):
        return make_record(unit, " ".join(utterances), lines(summary), [LENGTHS_DIFFER])
    turns = (f"{speaker}: {utterance}" for speaker, utterance in zip(speakers, utterances))
    return make_record(unit, " ".join(turns), lines(summary))
