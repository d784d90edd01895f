"""The plan of a recipe's script: the stages that its lines declare, read from standard input.

recipes/recipe.sh writes records of words, each word ended by a zero byte; a record begins with how many words it has:

    book KEY=VALUE...     out, again, changed, remedy, clean; or options, the JSON that recipes.command_line has printed
    stage NAME TITLE [--folder F] [--after NAME]... [--always] [--resumable] [--at-once N]
    counts WORD...        more words that the last stage is known by
    run WORD...           a command of the last stage; words between [ and ] do not count
    run-as LABEL WORD...  the same, of a stage whose commands run at once
"""

import argparse

from recipes.books.stage import Command, Stage


def records(data):
    """The lists of words in ``data``, bytes as above."""
    words = data.decode("utf-8", "surrogateescape").split("\0")[:-1]
    found, place = [], 0
    while place < len(words):
        count = int(words[place])
        found.append(words[place + 1 : place + 1 + count])
        place += 1 + count
    return found


def _stage(words):
    parser = argparse.ArgumentParser(prog="stage", allow_abbrev=False)
    parser.add_argument("name")
    parser.add_argument("title")
    parser.add_argument("--folder")
    parser.add_argument("--after", nargs="+")
    parser.add_argument("--always", action="store_true")
    parser.add_argument("--resumable", action="store_true")
    parser.add_argument("--at-once", type=int, default=1)
    return Stage(commands=[], **vars(parser.parse_args(words)))


def read_plan(data):
    """``(values of the book, stages)`` of the bytes that a script has written."""
    book, stages = {}, []
    for kind, *words in records(data):
        if kind == "book":
            book |= dict(word.partition("=")[::2] for word in words)
        elif kind == "stage":
            stages.append(_stage(words))
        elif kind == "counts":
            stages[-1].counts += words
        elif kind == "run":
            stages[-1].commands.append(Command.marked(words))
        elif kind == "run-as":
            stages[-1].commands.append(Command.marked(words[1:], words[0]))
        else:
            raise ValueError(f"a plan has no {kind!r}")
    return book, stages
