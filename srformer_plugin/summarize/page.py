"""An explanation as one HTML page that needs nothing else: no network, no other file."""

import json
import re
from html import escape
from importlib import resources

from .explain import Explanation

TEMPLATE = "page.html"
_FIELD = re.compile(r"\{\{(\w+)\}\}")


def page(explanation: Explanation, name: str) -> str:
    """The page's text.

    Args:
        name: of the document, for the title.
    """
    summary = explanation.summary
    cut = explanation.unread if explanation.unread is not None else len(explanation.segments)
    parts = []
    for number, (start, end) in enumerate(explanation.segments):
        kind = "segment" if number < cut else "segment unread"
        parts.append(f'<span class="{kind}" id="s{number}">{escape(explanation.text[start:end])}</span>')
    note = f"{summary.source_tokens:,} tokens"
    if summary.chunked:
        note += ", read in chunks"
    if summary.truncated:
        note += "; what is grey was not read"
    fields = {
        "title": escape(name.encode(errors="backslashreplace").decode()),
        "note": escape(note),
        "elsewhere": f"{explanation.elsewhere:.0%}",
        "summary": _summary(explanation),
        "document": "".join(parts),
        "data": _data(explanation),
    }
    template = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    return _FIELD.sub(lambda match: fields[match.group(1)], template)  # once: a text may hold {{...}} too


def _summary(explanation):
    """The sentences, each with a button of its own and one for every word."""
    text, html, word = explanation.summary.text, [], 0
    for number, sentence in enumerate(explanation.sentences):
        html.append(
            f'<p class="sentence"><button class="pick whole" data-kind="sentences" data-number="{number}" '
            f'aria-label="Sentence {number + 1}">{number + 1}</button>'
        )
        while word < len(explanation.words) and explanation.words[word].start < sentence.end:
            span = explanation.words[word]
            shown = escape(text[span.start : span.end])
            html.append(f' <button class="pick" data-kind="words" data-number="{word}" tabindex="-1">{shown}</button>')
            word += 1
        html.append("</p>\n")
    return "".join(html)


def _data(explanation):
    """What the script reads: for every word and sentence [[segment, share in thousandths], ...]."""
    value = {
        kind: [[[number, round(1000 * share)] for number, share in part.read] for part in getattr(explanation, kind)]
        for kind in ("words", "sentences")
    }
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
