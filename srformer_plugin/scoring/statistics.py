"""How sure a mean over texts is: bootstrap intervals, and paired bootstrap tests between systems.

Every function takes scores as [texts, K] (K scores a text: types of ROUGE, systems, or both) and resamples the texts
with the same seeded generator: the same texts are drawn for every column, which is what makes comparisons paired.
"""

import numpy as np

SAMPLES = 1000
SEED = 12345
_BLOCK = 4_000_000  # draws held in memory at a time


def bootstrap_means(scores: np.ndarray, samples: int = SAMPLES, seed: int = SEED) -> np.ndarray:
    """Means of `samples` resamplings of the texts: [samples, K] for scores [texts, K].

    Raises:
        ValueError: no texts.
    """
    scores = np.asarray(scores, dtype=np.float64)
    texts = len(scores)
    if texts == 0:
        raise ValueError("no texts to resample")
    rng = np.random.default_rng(seed)
    means = np.empty((samples, scores.shape[1]))
    rows = max(1, _BLOCK // texts)
    for start in range(0, samples, rows):
        count = min(rows, samples - start)
        # How often each text is drawn turns the means into one matrix product.
        drawn = rng.integers(texts, size=(count, texts)) + np.arange(count)[:, None] * texts
        times = np.bincount(drawn.ravel(), minlength=count * texts).reshape(count, texts)
        means[start : start + count] = times @ scores / texts
    return means


def interval(means: np.ndarray, level: float = 0.95) -> np.ndarray:
    """The percentile interval of `bootstrap_means`: [2, K], lower and upper ends."""
    tail = 50 * (1 - level)
    return np.percentile(means, [tail, 100 - tail], axis=0)


def paired_p_values(differences: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Two-sided p-values [K] of "the mean difference between two systems is 0".

    Args:
        differences: score of one system minus score of the other on the same text, [texts, K].
        means: `bootstrap_means(differences)`, [samples, K].

    The resampled means, moved so that they spread around 0, show how large a difference chance makes: p is the share of
    them that is at least as far from 0 as the real one (which counts as one of them, so that p is never 0). Identical
    systems have p = 1.
    """
    observed = np.asarray(differences, dtype=np.float64).mean(axis=0)
    noise = np.abs(means - observed)
    # the matrix product and the mean may differ in the last bits: not to be taken for a difference
    as_far = noise >= np.abs(observed) - 1e-12
    return (as_far.sum(axis=0) + 1) / (len(means) + 1)
