"""arXiv or PubMed: train.txt, val.txt, test.txt with one JSON object a line.

Fields: `article_id`, `article_text` (sentences), `abstract_text` (sentences between <S> and </S>), `section_names`,
`sections` (a list of sentences each), `labels` (always null). The source is `article_text`, as in published work;
with --section-names it is the sections with their names before them, which hold slightly different text.
"""

import re

from data_prep.readers.raw_files import files_by_split
from data_prep.record import FileLines, MalformedRecord, Unit, make_record, member, parse_json
from data_prep.text import binary_lines

TAG = re.compile(r"</?S>")


def add_arguments(parser):
    parser.add_argument("--section-names", action="store_true", help="source: the sections, each after its name")


def units(raw, options):
    for split, paths in files_by_split(raw, (".txt", ".jsonl"), options.splits).items():
        for path in paths:
            for item in json_lines(path):
                if isinstance(item, FileLines):
                    yield item
                else:
                    number, line = item
                    yield Unit(str(path), number, "", split, (line, options.section_names))


def json_lines(path):
    """Yield `(line number, bytes)` of the lines of a file that are not blank, and its `FileLines` at the end."""
    number = blank = 0
    with open(path, "rb") as file:
        for number, line in enumerate(binary_lines(file), 1):
            if line.strip():
                yield number, line
            else:
                blank += 1
    yield FileLines(str(path), number, 0, blank, number - blank, number - blank, 0)


def parse(unit):
    line, with_names = unit.payload
    paper = parse_json(line)
    unit = unit._replace(id=member(paper, "article_id", str))
    abstract = member(paper, "abstract_text", list)
    sentences = [part for sentence in abstract for part in TAG.split(sentence)]
    if not with_names:
        return make_record(unit, " ".join(member(paper, "article_text", list)), sentences)
    names, sections = member(paper, "section_names", list), paper.get("sections")
    if not isinstance(sections, list) or len(names) != len(sections):
        raise MalformedRecord("section_names and sections differ in length")
    texts = [text for name, section in zip(names, sections) for text in [name, *member({name: section}, name, list)]]
    return make_record(unit, " ".join(texts), sentences)
