"""A stage, its commands, and what it is known by."""

import difflib
import hashlib
import json
from dataclasses import dataclass, field


@dataclass
class Command:
    """A program with its arguments.

    ``free`` holds the numbers of the words that change no result: how many processes do the work, and where. A stage
    with other free words is the same stage. ``label`` names the command where several run at once.
    """

    words: list[str]
    free: frozenset[int] = frozenset()
    label: str = ""

    @classmethod
    def marked(cls, words, label=""):
        """From words in which ``[`` and ``]``, each a word of its own, enclose the free ones."""
        kept, free, inside = [], set(), False
        for word in words:
            if word in ("[", "]"):
                if inside != (word == "]"):
                    raise ValueError(f"brackets do not match in the command {' '.join(words)}")
                inside = not inside
                continue
            if inside:
                free.add(len(kept))
            kept.append(word)
        if inside:
            raise ValueError(f"brackets do not match in the command {' '.join(words)}")
        return cls(kept, frozenset(free), label)

    def counted(self):
        """The words that make the result."""
        return [word for number, word in enumerate(self.words) if number not in self.free]


@dataclass
class Stage:
    """Commands that run one after the other, or ``at_once`` of them at a time, and write below one folder."""

    name: str
    commands: list[Command]
    title: str = ""  # says to the user what it does
    folder: str | None = None  # below the output folder; the name unless given, "" for none
    after: list[str] | None = None  # stages whose identity is part of this one's; None: the one before
    counts: list[str] = field(default_factory=list)  # more words that it is known by
    always: bool = False  # runs every time, and no later stage depends on it
    resumable: bool = False  # its files are worth keeping even if it has not finished
    at_once: int = 1
    settings: dict[str, str] = field(default_factory=dict)  # what settings.json says that it ran with

    def __post_init__(self):
        if self.folder is None:
            self.folder = "" if self.always else self.name

    def text(self, places):
        """The words it is known by, a list for each command; folders of ``places`` ``{path: name}`` by their names."""
        lists = [command.counted() for command in self.commands]
        lists += [self.counts] if self.counts else []
        return [[_placed(word, places) for word in words] for words in lists]


def _placed(word, places):
    for path, name in places.items():
        word = word.replace(path, name)
    return word


def identities(stages, places, known=()):
    """``{name: identity}``: what each stage is known by, with the identities of the stages it comes after.

    ``known`` has those of stages that were done elsewhere. Raises ValueError for a name that is not there.
    """
    found, before = dict(known), None
    for stage in stages:
        after = stage.after if stage.after is not None else [before] if before else []
        unknown = [name for name in after if name not in found]
        if unknown:
            raise ValueError(f"stage {stage.name} comes after {unknown[0]}, which no stage before it is called")
        text = [stage.name, stage.text(places), [found[name] for name in after]]
        found[stage.name] = hashlib.sha256(json.dumps(text).encode()).hexdigest()
        if not stage.always:
            before = stage.name
    return found


def needs(stages):
    """``{name: names of all stages that must have run before it}``."""
    found, before = {}, None
    for stage in stages:
        after = stage.after if stage.after is not None else [before] if before else []
        found[stage.name] = set(after).union(*(found.get(name, set()) for name in after))
        if not stage.always:
            before = stage.name
    return found


def differences(before, now):
    """Lines that say which flags differ between two lists of commands."""
    old, new = _flags(before), _flags(now)
    lines = []
    for kind, start, end, other_start, other_end in difflib.SequenceMatcher(None, old, new, False).get_opcodes():
        if kind != "equal":
            lines += [f"  before: {flag}" for flag in old[start:end]]
            lines += [f"  now:    {flag}" for flag in new[other_start:other_end]]
    return lines


def _flags(lists):
    """Every flag with its values."""
    flags = []
    for words in lists:
        start = True
        for word in words:
            if start or word.startswith("--"):
                flags.append([])
            start = False
            flags[-1].append(word)
    return [" ".join(words) for words in flags]
