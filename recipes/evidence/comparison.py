"""Systems beside each other: means, intervals over texts and over seeds, paired differences.

Scores of a system are `{seed: [texts, K]}`. Texts are the same for all systems, so differences are paired: a text with
itself, and a seed with itself, since a seed means the same batches.
"""

from dataclasses import dataclass

import numpy as np

from srformer_plugin.scoring.statistics import bootstrap_means, interval, paired_p_values

# Student's t, 97.5%, for 1 to 9 degrees of freedom
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Estimate:
    """A mean, or the mean of a difference, of K scores; arrays of [K]."""

    seeds: tuple[int, ...]
    mean: np.ndarray
    over_texts: np.ndarray  # [2, K]: 95% interval by the bootstrap over texts, of the mean over seeds
    over_seeds: np.ndarray | None  # [2, K]: 95% interval by Student's t over seeds; None of one seed
    p_values: np.ndarray | None = None  # of a difference of 0, by the paired bootstrap over texts


def estimate(scores):
    """The `Estimate` of a system's scores, `{seed: [texts, K]}`."""
    return _estimate(scores, paired=False)


def difference(scores, others):
    """The `Estimate` of `scores` minus `others`, over the seeds that both have; None if there is none."""
    seeds = sorted(scores.keys() & others.keys())
    if not seeds:
        return None
    return _estimate({seed: scores[seed] - others[seed] for seed in seeds}, paired=True)


def _estimate(scores, paired):
    seeds = tuple(sorted(scores))
    by_text = np.mean([scores[seed] for seed in seeds], axis=0)
    means = bootstrap_means(by_text)
    return Estimate(
        seeds,
        by_text.mean(axis=0),
        interval(means),
        over_seeds(np.array([scores[seed].mean(axis=0) for seed in seeds])),
        paired_p_values(by_text, means) if paired else None,
    )


def over_seeds(means):
    """The 95% interval [2, K] of the mean over seeds, from the means of every seed, [seeds, K]; None of one seed."""
    count = len(means)
    if count < 2:
        return None
    t = T_975[count - 2] if count - 2 < len(T_975) else 1.96
    half = t * means.std(axis=0, ddof=1) / np.sqrt(count)
    return np.stack((means.mean(axis=0) - half, means.mean(axis=0) + half))
