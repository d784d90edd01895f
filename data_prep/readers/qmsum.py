"""QMSum: train.jsonl, val.jsonl, test.jsonl with a meeting a line; every query of a meeting becomes a document.

Fields of a meeting: `meeting_transcripts` (turns, with `speaker` and `content`), `specific_query_list` and
`general_query_list` (`query` and `answer`; the specific ones also `relevant_text_span`, pairs of turns, counted from 0,
both included). The source is the question, --separator, and `SPEAKER: content` for every turn; the target the answer.
With `--separator "</q>" --leave-out-marks` the lines are those of the public files of query and meeting.

SPLIT.spans.jsonl says which words of every source are those of the relevant turns (data_prep/spans.py).

A meeting that cannot be read is one malformed record, and so is a query of a meeting that can. A query whose relevant
turns are not in the transcript is kept without them, and counted.
"""

import re
from itertools import accumulate, chain

from data_prep.arguments import word
from data_prep.readers.raw_files import files_by_split
from data_prep.readers.scientific_papers import json_lines
from data_prep.record import FileLines, Malformed, MalformedRecord, Unit, make_record, member, parse_json
from data_prep.spans import Spans, joined
from data_prep.text import SENTENCE_MARK, lines

TRANSCRIPT_MARK = re.compile(r"\{[a-z]+\}")
KINDS = ("specific", "general")
NO_SUCH_TURNS = "relevant turns that are not in the transcript: left out of the spans"


def add_arguments(parser):
    parser.add_argument("--queries", choices=["all", *KINDS], default="all", help="which queries (default: all)")
    parser.add_argument(
        "--separator",
        type=word,
        default=SENTENCE_MARK,
        metavar="WORD",
        help="stands behind the question. For --encoder-prefix-symbol it must be one subword, which the default is in "
        'every SentencePiece model that data_prep.encode trains; GPT-2\'s BPE has "|" (default: %(default)s)',
    )
    parser.add_argument(
        "--leave-out-marks",
        action="store_true",
        help="leave out of turns what transcribers put in braces: {vocalsound}, {disfmarker}, {pause}, ...",
    )


def units(raw, options):
    kinds = KINDS if options.queries == "all" else (options.queries,)
    for split, paths in files_by_split(raw, (".jsonl",), options.splits).items():
        for path in paths:
            queries = malformed = 0
            for item in json_lines(path):
                if isinstance(item, FileLines):
                    yield item._replace(records=queries, in_records=item.in_records - malformed, malformed=malformed)
                    continue
                number, line = item
                try:
                    turns, asked = meeting_of(line, kinds, options.leave_out_marks)
                except MalformedRecord as error:
                    malformed += 1
                    yield Malformed(str(path), number, "", str(error))
                    continue
                for name, query in asked:
                    queries += 1
                    payload = (turns, query, options.separator)
                    yield Unit(str(path), number, f"meeting {number}, {name}", split, payload)


def meeting_of(line, kinds, leave_out_marks):
    """(turns, `[(name, query), ...]`) of a line: turns as lists of words, queries as they are."""
    meeting = parse_json(line)
    turns = []
    for number, turn in enumerate(_items(meeting, "meeting_transcripts")):
        try:
            speaker, content = member(turn, "speaker", str), member(turn, "content", str)
        except MalformedRecord as error:
            raise MalformedRecord(f"turn {number}: {error}") from error
        if leave_out_marks:
            content = TRANSCRIPT_MARK.sub("", content)
        turns.append(f"{speaker}: {content}".split())
    if not turns:
        raise MalformedRecord("no turns")
    asked = [
        (f"{kind} query {number}", query)
        for kind in kinds
        for number, query in enumerate(_items(meeting, f"{kind}_query_list"), 1)
    ]
    return turns, asked


def _items(meeting, name):
    """The list `meeting[name]`, of anything."""
    if isinstance(meeting, dict) and isinstance(meeting.get(name), list):
        return meeting[name]
    return member(meeting, name, list)


def parse(unit):
    turns, query, separator = unit.payload
    question = [*member(query, "query", str).split(), separator]
    answer = member(query, "answer", str)
    if len(question) == 1:
        raise MalformedRecord("field 'query' is blank")
    if separator in question[:-1]:
        raise MalformedRecord(f"the query holds the separator {separator!r}: choose another with --separator")
    ends = list(accumulate(map(len, turns), initial=len(question)))  # turn n: words ends[n] to ends[n + 1]
    relevant, notes = [], []
    for first, last in _turns_of_spans(query):
        if 0 <= first <= last < len(turns):
            relevant.append((ends[first], ends[last + 1]))
        else:
            notes = [NO_SUCH_TURNS]
    words = [*question, *chain.from_iterable(turns)]
    record = make_record(unit, " ".join(words), lines(answer), notes)
    return record._replace(spans=Spans(record.id, len(words), joined(relevant)))


def _turns_of_spans(query):
    """`[(first, last), ...]` of a query; numbers may be texts, as they are in the official files."""
    pairs = _items(query, "relevant_text_span") if "relevant_text_span" in query else []
    try:
        return [(int(str(first)), int(str(last))) for first, last in pairs]
    except (TypeError, ValueError):
        raise MalformedRecord("field 'relevant_text_span' holds something that is no pair of numbers") from None
