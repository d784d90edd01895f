"""The text of a docstring: its summary line, and its description as one line of plain prose.

Docstrings come in reStructuredText, numpydoc and Google style at once, so this is not a parser of any of them: it
drops what is not prose (doctests, code, formulas, directives, underlines), keeps the words of what is (roles,
parameter descriptions) and folds white space.
"""

import inspect
import re

from data_prep.text import lines as lines_of

# Directives whose body is prose; the body of any other directive is dropped with it.
PROSE_DIRECTIVES = {
    *("note", "tip", "hint", "topic", "rubric"),
    *("warning", "important", "attention", "caution", "admonition"),
}
# Sections that are dropped as a whole: they are code, links or lists of names.
DROPPED_SECTIONS = {"examples", "example", "references", "see also", "usage", "doctest", "doctests", "authors", "tests"}
# Headings that are dropped, while what is below them is kept.
KEPT_SECTIONS = {
    *("parameters", "other parameters", "keyword args", "keyword arguments", "args", "arguments", "attributes"),
    *("returns", "return", "return value", "yields", "receives", "raises", "warns", "warnings", "warning"),
    *("notes", "note", "explanation", "description", "methods", "inputs", "outputs", "shape"),
}

_DIRECTIVE = re.compile(r"^\.\.\s+(?:([\w:-]+?)::|_|\[|\|)?")
_UNDERLINE = re.compile(r"^([=\-~^\"'`#*+.])\1{2,}$")
_NUMPYDOC_ENTRY = re.compile(r"^([*\w, ]{1,60}?)\s+:(\s.*)?$")
_FIELD = re.compile(r"^:(\w+)(?:\s+([^:`]*))?:(?!`)\s*")
_INLINE = [
    (re.compile(r"https?://\S+"), " "),
    (re.compile(r":math:`[^`]*`|\$\$?[^$]{1,200}\$\$?"), " "),
    (re.compile(r":[\w:+.-]+:`([^`<]+?)\s*<[^`>]*>`"), r"\1"),
    (re.compile(r":[\w:+.-]+:`~(?:[^`]*\.)?([^`.]+)`"), r"\1"),
    (re.compile(r":[\w:+.-]+:`!?\.?([^`]*)`"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?"), r"\1"),
    (re.compile(r"`+([^`]+)`+_{0,2}"), r"\1"),
    (re.compile(r"\[\d+\]_|\|"), " "),
    (re.compile(r"(?<![\w*])\*{1,2}([^\s*](?:[^*]*[^\s*])?)\*{1,2}(?![\w*])"), r"\1"),
    (re.compile(r"\s+"), " "),
]


def plain(text):
    """Inline markup of ``text`` removed, its words kept, white space folded; one line."""
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return text.strip()


def split_docstring(docstring):
    """``(summary, description)`` of a docstring: its first paragraph (PEP 257) and the rest, both as one line of prose.

    Either is empty where the docstring has none.
    """
    head, _, body = inspect.cleandoc(docstring).strip().partition("\n\n")
    # "Title\n=====" is a heading like any other: the title is the summary.
    lines = [line for line in lines_of(head) if not _UNDERLINE.match(line.strip())]
    return plain(" ".join(lines)), describe(body)


def describe(body):
    """The prose of ``body`` (a docstring without its summary) as one line."""
    lines = lines_of(body)
    kept = []
    skip_deeper_than = None  # inside a dropped block: its lines are indented deeper than this
    in_doctest = False
    dropping_section = None  # inside a dropped section: the indentation of its heading
    for number, line in enumerate(lines):
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if not text:
            in_doctest = False  # what a doctest prints stands directly below it, up to a blank line
            continue
        if skip_deeper_than is not None:
            if indent > skip_deeper_than:
                continue
            skip_deeper_than = None
        heading = _heading(text, lines[number + 1].strip() if number + 1 < len(lines) else "")
        if heading is not None and (dropping_section is None or indent <= dropping_section):
            dropping_section = indent if heading in DROPPED_SECTIONS else None
            if heading in DROPPED_SECTIONS | KEPT_SECTIONS:
                continue
        if dropping_section is not None or _UNDERLINE.match(text):
            continue
        in_doctest = in_doctest or text.startswith((">>>", "In ["))
        if in_doctest:
            continue
        directive = _DIRECTIVE.match(text)
        if directive and text.startswith(".."):
            name = (directive.group(1) or "").lower()
            if name not in PROSE_DIRECTIVES:
                skip_deeper_than = indent
                continue
            text = text[directive.end() :].strip()
        elif text.endswith("::"):
            skip_deeper_than, text = indent, text[:-1]
        kept.append(_entry(text))
    return plain(" ".join(filter(None, kept)))


def _heading(text, below):
    """The lower-cased name if ``text`` is a heading (underlined, or a known ``Name:`` or ``**Name**``), else None."""
    name = text.strip("*:").lower()
    if _UNDERLINE.match(below) and len(text) < 80:
        return name
    return name if text.endswith((":", "**")) and name in DROPPED_SECTIONS | KEPT_SECTIONS else None


def _entry(text):
    """A line of a parameter table as prose: ``name : type`` loses its type, ``:param name: words`` its field name."""
    field = _FIELD.match(text)
    if field:
        kind, name = field.group(1), (field.group(2) or "").split()
        if kind in ("type", "rtype"):
            return ""
        return f"{name[-1] if name else kind}: {text[field.end() :]}"
    entry = _NUMPYDOC_ENTRY.match(text)
    return f"{entry.group(1)}:" if entry else text
