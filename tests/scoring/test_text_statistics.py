"""Lengths, repetition and novelty of texts, counted by hand."""

import math

import pytest

from srformer_plugin.scoring.text_statistics import describe, describe_all, mean_statistics


def test_words_and_sentences_are_counted():
    found = describe("It's all. Is it? <q> ")
    assert (found["words"], found["sentences"]) == (5, 1)  # no stop is looked for beside a mark, which is no word
    assert describe("It is over. Is it?")["sentences"] == 2


def test_repeated_ngrams_are_those_that_came_before():
    found = describe("a b a b a c")
    assert found["repeated_1"] == pytest.approx(3 / 6)
    assert found["repeated_2"] == pytest.approx(2 / 5)  # a b and b a, the second time
    assert found["repeated_3"] == pytest.approx(1 / 4)
    assert describe("a b c d")["repeated_1"] == 0


def test_novel_ngrams_are_those_that_the_source_lacks():
    found = describe("The cat slept, the dog slept", source="The cat and the dog. Slept!")
    assert found["novel_1"] == 0
    # the-cat, cat-slept, slept-the, the-dog, dog-slept: only those with "slept" first or after "cat" are new
    assert found["novel_2"] == pytest.approx(2 / 5)
    assert found["compression"] == pytest.approx(1)
    assert describe("a b c", source="a b c")["novel_3"] == 0


def test_texts_too_short_for_an_ngram_do_not_count_in_its_mean():
    described = describe_all(["a", "a b a b", ""], ["a", "x", "y"])
    assert math.isnan(described[0]["repeated_2"])
    means = mean_statistics(described)
    assert means["repeated_2"] == pytest.approx(1 / 3)
    assert means["novel_1"] == pytest.approx((0 + 1) / 2)
    assert means["words"] == pytest.approx(5 / 3)
    assert means["empty"] == 1
    assert math.isnan(mean_statistics(describe_all(["a"]))["repeated_3"])


def test_marks_between_sentences_are_no_words():
    marked = describe("A cat. <q> It slept.<q>So.", source="a cat <q> it slept so")
    plain = describe("A cat. It slept. So.")
    assert {name: marked[name] for name in plain} == plain
    # a verbatim lead has no n-gram of its own
    assert [marked[f"novel_{n}"] for n in (1, 2, 3, 4)] == [0] * 4
    assert marked["compression"] == 1
