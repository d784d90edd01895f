"""Bootstrap intervals cover the truth as often as they say, and tests find differences and nothing else."""

import numpy as np
import pytest

from srformer_plugin.scoring.statistics import bootstrap_means, interval, paired_p_values


def test_a_95_percent_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    # 400 experiments side by side: each column is one of 200 texts, whose true mean is 2/7
    scores = rng.beta(2, 5, size=(200, 400))
    low, high = interval(bootstrap_means(scores))
    covered = np.mean((low < 2 / 7) & (high > 2 / 7))
    assert 0.92 <= covered <= 0.98


def test_the_interval_is_that_of_the_normal_approximation_for_many_texts():
    scores = np.random.default_rng(1).random((2000, 1))
    low, high = interval(bootstrap_means(scores, samples=4000))
    error = 1.96 * scores.std() / 2000**0.5
    assert [low[0], high[0]] == pytest.approx([scores.mean() - error, scores.mean() + error], abs=0.1 * error)


def test_the_resampling_repeats_and_depends_on_its_seed_only(monkeypatch):
    scores = np.random.default_rng(2).random((30, 3))
    means = bootstrap_means(scores, 50, seed=3)
    assert means.shape == (50, 3)
    assert np.array_equal(means, bootstrap_means(scores, 50, seed=3))
    assert not np.array_equal(means, bootstrap_means(scores, 50, seed=4))
    assert means[:, :1] == pytest.approx(bootstrap_means(scores[:, :1], 50, seed=3))  # whatever else is scored
    monkeypatch.setattr("srformer_plugin.scoring.statistics._BLOCK", 100)  # and however it is split up
    assert means == pytest.approx(bootstrap_means(scores, 50, seed=3))


def test_the_resampling_is_a_plain_loop_over_drawn_texts():
    scores = np.random.default_rng(5).random((20, 2))
    drawn = np.random.default_rng(7).integers(20, size=(4, 20))
    assert bootstrap_means(scores, 4, seed=7) == pytest.approx(np.array([scores[row].mean(axis=0) for row in drawn]))


def p_values(differences):
    return paired_p_values(differences, bootstrap_means(differences))


def test_identical_systems_have_p_1():
    assert p_values(np.zeros((50, 1))) == [1]


def test_clearly_different_systems_have_p_near_0_in_either_direction():
    differences = np.random.default_rng(3).normal(0.2, 0.1, size=(100, 1))
    assert p_values(differences) < 0.005
    assert p_values(-differences) < 0.005


def test_p_values_of_equally_good_systems_are_spread_evenly():
    differences = np.random.default_rng(4).normal(0, 1, size=(200, 400))
    values = p_values(differences)
    assert np.mean(values < 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(values < 0.5) == pytest.approx(0.5, abs=0.08)


def test_nothing_to_resample_is_an_error():
    with pytest.raises(ValueError, match="no texts"):
        bootstrap_means(np.zeros((0, 1)))
