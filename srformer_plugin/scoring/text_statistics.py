"""What ROUGE does not say about summaries: how long, how repetitive and how much their own words they are.

Words are ROUGE's, unstemmed: runs of a-z and 0-9 of the lower-case text. The marks between sentences are no words.
"""

import math

from data_prep.text import split_sentences, without_marks

from .rouge import rouge_words

NOVEL = (1, 2, 3, 4)  # n of the n-grams looked up in the source
REPEATED = (1, 2, 3)  # n of the n-grams looked for twice in a text


def ngrams(tokens: list[str], n: int) -> list[tuple]:
    """All n-grams of a list of words, in order, repeated ones as often as they come."""
    return list(zip(*(tokens[start:] for start in range(n))))


def describe(text: str, source: str | None = None) -> dict[str, float]:
    """Statistics of one text; shares are from 0 to 1, and NaN where the text has no n-gram of that size.

    `words`, `sentences`; `repeated_N`: share of the text's N-grams that it has had before; with a source also
    `novel_N`: share of the text's different N-grams that the source lacks, and `compression`: words of the source per
    word.
    """
    tokens = rouge_words(without_marks(text))
    sentences = sum(1 for sentence in split_sentences(text) if rouge_words(sentence))
    found: dict[str, float] = {"words": len(tokens), "sentences": sentences}
    grams = {n: ngrams(tokens, n) for n in {*NOVEL, *REPEATED}}
    for n in REPEATED:
        found[f"repeated_{n}"] = 1 - len(set(grams[n])) / len(grams[n]) if grams[n] else math.nan
    if source is not None:
        source_tokens = rouge_words(without_marks(source))
        found["compression"] = len(source_tokens) / len(tokens) if tokens else math.nan
        for n in NOVEL:
            own = set(grams[n])
            found[f"novel_{n}"] = len(own.difference(ngrams(source_tokens, n))) / len(own) if own else math.nan
    return found


def describe_all(texts, sources=None) -> list[dict[str, float]]:
    """`describe` of each text, with the source on the same place of `sources`."""
    sources = [None] * len(texts) if sources is None else sources
    return [describe(text, source) for text, source in zip(texts, sources, strict=True)]


def mean_statistics(described: list[dict[str, float]]) -> dict[str, float]:
    """Means of `describe_all`; a text counts in those of its statistics that are not NaN, a mean over none is NaN.

    Also `empty`: how many texts have no words.
    """
    means = {}
    for name in described[0]:
        values = [one[name] for one in described if not math.isnan(one[name])]
        means[name] = sum(values) / len(values) if values else math.nan
    return {**means, "empty": sum(one["words"] == 0 for one in described)}
