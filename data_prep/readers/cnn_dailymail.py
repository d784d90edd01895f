"""CNN/DailyMail: folders of .story files, and lists of urls (train, val, test) that define the splits.

A story is named after the SHA-1 of its url. It holds the article's paragraphs, and then, after a line `@highlight`
each, the highlights: the sentences of the target. It may end right after its last highlight without a newline.

Text is kept as it is, cased and not tokenised, but for one thing that all published versions of the corpus do: a line
that does not end in a punctuation mark gets " .", or headlines and highlights would run into the next sentence.
"""

import hashlib
from pathlib import Path

from data_prep.readers.raw_files import SPLIT_NAMES, files_below, not_found, not_listed
from data_prep.record import MalformedRecord, RawDataError, Unit, make_record, read_text
from data_prep.text import SPLITS, binary_lines, lines

HIGHLIGHT = "@highlight"
ENDS = (".", "!", "?", "...", "'", "`", '"', "\u2019", "\u201d", ")", "-RRB-", "-rrb-")


def add_arguments(parser):
    parser.add_argument(
        "--url-lists",
        type=Path,
        metavar="FOLDER",
        help="folder with all_train.txt, all_val.txt, all_test.txt, or with other *train*.txt, *val*.txt, *test*.txt "
        "(default: RAW, or RAW/url_lists)",
    )


def find_lists(raw, folder, splits):
    """`{split: paths of its url lists}`; the lists named `all_*` are preferred, as the others repeat them."""
    folders = [folder] if folder else [raw, raw / "url_lists"]
    for folder in folders:
        found = {}
        for prefix in ("all_", ""):
            for split in splits:
                paths = {p for name in SPLIT_NAMES[split] for p in folder.glob(f"{prefix}*{name}*.txt")}
                if paths and split not in found:
                    found[split] = sorted(paths)
        if found:
            break
    missing = [split for split in splits if split not in found]
    if missing:
        raise RawDataError(
            f"no url list for {', '.join(missing)} in {' or '.join(map(str, folders))}: name its folder with "
            "--url-lists, or choose other splits with --splits"
        )
    return found


def urls_of(path):
    """Yield `(line number, url)` of a list."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(binary_lines(file), 1):
                if line.strip():
                    yield number, line.strip()
    except OSError as error:
        raise RawDataError(f"{path}: {error.strerror}") from error


def units(raw, options):
    """A unit a url, in the order of the lists."""
    stories = files_below(raw, ".story")
    lists = find_lists(raw, options.url_lists, options.splits)
    listed = set()
    for split, paths in lists.items():
        for path in paths:
            for number, url in urls_of(path):
                name = hashlib.sha1(url).hexdigest()
                listed.add(name)
                if name in stories:
                    yield Unit(stories[name], None, name, split, None)
                else:
                    yield not_found(path, number, name)
    # a story of a split that was not asked for is in a list that was not read
    if set(options.splits) == set(SPLITS):
        for name in sorted(stories.keys() - listed):
            yield not_listed(stories[name], name)


def parse(unit):
    article, highlights = [], []
    in_highlight = False
    for line in lines(read_text(unit.file)):
        line = line.strip()
        if line == HIGHLIGHT:
            in_highlight = True
        elif line and in_highlight:
            highlights.append(with_period(line))
        elif line:
            article.append(with_period(line))
    if not in_highlight:
        raise MalformedRecord(f"no {HIGHLIGHT} line: is the file cut off?")
    return make_record(unit, " ".join(article), highlights)


def with_period(line):
    return line if line.endswith(ENDS) else line + " ."
