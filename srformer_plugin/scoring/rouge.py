"""ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum of texts: the one place where they are computed.

The numbers are those of rouge-score (stemmer on), bit for bit, from its own tokenizer and its own F1. What is computed
in another way is what takes its time: a word is stemmed once for a whole corpus, a text is tokenised once for all four
scores, and the longest common subsequences come from bit vectors (a Python integer per row of the table).
"""

import importlib.metadata
import multiprocessing
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property

import numpy as np
from rouge_score import scoring, tokenize

from data_prep.text import SENTENCE_MARK, split_sentences

from ..version import __version__

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
SENTENCE_SPLIT = f"{SENTENCE_MARK},newline,else:.?!"  # `split_sentences` in a signature

_WORD = re.compile(r"[a-z0-9]+")
_ZERO = scoring.Score(0, 0, 0)


def signature(samples: int | None = None, seed: int | None = None) -> str:
    """What a score depends on, in sacrebleu's manner; with the `samples` and `seed` of its bootstrap interval."""
    versions = {name: importlib.metadata.version(name) for name in ("rouge-score", "nltk")}  # nltk has the stemmer
    bootstrap = {} if samples is None else {"bs": samples, "seed": seed}
    fields = {"refs": 1, "score": "mean-f1", **bootstrap, "case": "lower", "stemmer": "porter"}
    fields |= {"split": SENTENCE_SPLIT, **versions, "srformer": __version__}
    return "|".join(f"{name}:{value}" for name, value in fields.items())


def rouge_words(text: str) -> list[str]:
    """What ROUGE takes for words, before stemming: runs of a-z and 0-9 of the lower-case text.

    A sentence mark would be the word "q": ask for the words of a sentence, or of a text without marks.
    """
    return _WORD.findall(text.lower())


class _Stems(dict):
    """word -> tuple of its stem as rouge-score makes it, filled as words come."""

    @cached_property
    def stemmer(self):
        from nltk.stem.porter import PorterStemmer  # half a second, which only those who score shall wait

        return PorterStemmer()

    def __missing__(self, word):
        self[word] = stems = tuple(tokenize.tokenize(word, self.stemmer))
        return stems


_stems = _Stems()


def tokens_by_sentence(text: str) -> list[list[str]]:
    """rouge-score's tokens of each sentence of a text; sentences without any are left out."""
    words = map(rouge_words, split_sentences(text))
    sentences = ([stem for word in sentence for stem in _stems[word]] for sentence in words)
    return [tokens for tokens in sentences if tokens]


def score_pair(hypothesis: str, reference: str) -> dict[str, scoring.Score]:
    """`{type: Score(precision, recall, fmeasure)}` for each of `ROUGE_TYPES`; values from 0 to 1.

    Equal to `RougeScorer(ROUGE_TYPES, use_stemmer=True).score(reference, hypothesis)` of texts that have a newline
    between sentences. (rouge-score has the reference first.)
    """
    hyp_sentences, ref_sentences = tokens_by_sentence(hypothesis), tokens_by_sentence(reference)
    hyp = [token for sentence in hyp_sentences for token in sentence]
    ref = [token for sentence in ref_sentences for token in sentence]
    if not hyp or not ref:
        return dict.fromkeys(ROUGE_TYPES, _ZERO)
    hyp_counts = Counter(hyp)
    hits = (
        _common(hyp_counts, Counter(ref)),
        _common(Counter(zip(hyp, hyp[1:])), Counter(zip(ref, ref[1:]))),
        len(ref) - _lcs_rows(_positions(ref), len(ref), hyp)[-1].bit_count(),
        _summary_hits(hyp_sentences, ref_sentences, hyp_counts),
    )
    bigrams = (max(len(hyp) - 1, 1), max(len(ref) - 1, 1))
    totals = ((len(hyp), len(ref)), bigrams, (len(hyp), len(ref)), (len(hyp), len(ref)))
    return {name: _score(hit, *total) for name, hit, total in zip(ROUGE_TYPES, hits, totals)}


def _score(hits, hyp_total, ref_total):
    precision, recall = hits / hyp_total, hits / ref_total
    return scoring.Score(precision, recall, scoring.fmeasure(precision, recall))


def _common(ours, theirs):
    """Size of the intersection of two counters."""
    return sum(min(count, ours[key]) for key, count in theirs.items() if key in ours)


def _positions(ref):
    """token -> the bits of its positions in `ref`."""
    positions = {}
    for index, token in enumerate(ref):
        positions[token] = positions.get(token, 0) | 1 << index
    return positions


def _lcs_rows(positions, ref_length, hyp):
    """The table of longest common subsequences in differences, a row of bits after each token of `hyp`.

    With t(i, j) the length for the first i tokens of the reference and the first j of the hypothesis, bit i - 1 of row
    j - 1 is 0 where t(i, j) = t(i - 1, j) + 1 and 1 where they are equal (Hyyrö, "Bit-parallel LCS-length computation
    revisited", 2004). So the number of zeros in the last row is the length for both texts.
    """
    full = row = (1 << ref_length) - 1
    rows = []
    for token in hyp:
        matches = row & positions.get(token, 0)
        row = ((row + matches) | (row - matches)) & full
        rows.append(row)
    return rows


def _lcs_positions(ref, hyp, positions):
    """The bits of those positions in `ref` that make up the one longest common subsequence rouge-score would choose.

    It goes back through the table and, without a match at (i, j), leaves out the hypothesis's token where
    t(i, j - 1) > t(i - 1, j): without a match t(i, j) is the larger of the two, so that is where bit i - 1 of row j - 1
    is 0.
    """
    rows = _lcs_rows(positions, len(ref), hyp)
    chosen, i, j = 0, len(ref), len(hyp)
    while i and j:
        if ref[i - 1] == hyp[j - 1]:
            i, j = i - 1, j - 1
            chosen |= 1 << i
        elif rows[j - 1] >> (i - 1) & 1:
            i -= 1
        else:
            j -= 1
    return chosen


def _summary_hits(hyp_sentences, ref_sentences, hyp_counts):
    """Tokens of the reference in the union of its sentences' common subsequences with each hypothesis sentence.

    A token counts at most as often as the hypothesis has it.
    """
    left, hits = dict(hyp_counts), 0
    for ref in ref_sentences:
        positions, union = _positions(ref), 0
        for hyp in hyp_sentences:
            if not positions.keys().isdisjoint(hyp):
                union |= _lcs_positions(ref, hyp, positions)
        for index, token in enumerate(ref):
            if union >> index & 1 and left[token] > 0:
                left[token] -= 1
                hits += 1
    return hits


def score_texts(hypotheses, references, workers: int = 1) -> np.ndarray:
    """Scores of parallel lists of texts: float64 [texts, `ROUGE_TYPES`, (precision, recall, F1)], from 0 to 1.

    With more than one worker the texts are shared out to that many processes. Each imports this package first, which
    takes seconds: that pays from some ten thousands of texts on.

    Raises:
        ValueError: the lists differ in length.
    """
    pairs = list(zip(hypotheses, references, strict=True))
    if workers <= 1 or len(pairs) < 2:
        return _score_pairs(pairs)
    size = -(-len(pairs) // workers)
    pieces = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    with ProcessPoolExecutor(len(pieces), mp_context=multiprocessing.get_context("spawn")) as pool:
        return np.concatenate(list(pool.map(_score_pairs, pieces)))


def _score_pairs(pairs):
    scores = [[tuple(score) for score in score_pair(*pair).values()] for pair in pairs]
    return np.array(scores, dtype=np.float64).reshape(len(pairs), len(ROUGE_TYPES), 3)
