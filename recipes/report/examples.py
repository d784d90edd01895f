"""Texts to look at beside the numbers, chosen by their place and not by hand."""


def spread(total, count):
    """At most ``count`` numbers at equal distances, from 0 to below ``total``."""
    count = min(count, total)
    return [number * total // count for number in range(count)]


def examples(columns, count, heading="##", longest=None):
    """Blocks of Markdown: ``count`` texts of parallel lists ``{name: texts}``, at equal distances.

    A text of more than ``longest`` characters is cut.
    """
    blocks = []
    for index in spread(len(next(iter(columns.values()))), count):
        blocks.append(f"{heading} {index}")
        blocks += [f"**{name}**: `{_shown(texts[index], longest)}`" for name, texts in columns.items()]
    return blocks


def _shown(text, longest):
    if longest is not None and len(text) > longest:
        text = text[:longest].rstrip() + " ..."
    return text.replace("`", "'")
