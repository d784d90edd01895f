"""The small random models of tests/convert, and texts for them."""

import random

import pytest
from convert import conftest as of_convert

from srformer_plugin import summarize

bart, converted_bart, save_bart = of_convert.bart, of_convert.converted_bart, of_convert.save_bart
t5, save_t5, spiece, save_led = of_convert.t5, of_convert.save_t5, of_convert.spiece, of_convert.save_led
save_primera = of_convert.save_primera
randomise, transformers = of_convert.randomise_fixture, of_convert.transformers_fixture


def words(count, seed):
    """A text of words that the small BART knows."""
    return " ".join(random.Random(seed).choices(of_convert.WORDS, k=count))


# Different lengths, none in order
TEXTS = [words(count, seed) for seed, count in enumerate((12, 3, 24, 7, 20, 25, 5))]


@pytest.fixture(scope="session")
def model(converted_bart):
    """A small BART of 64 positions; tests must not change it."""
    return summarize.load(converted_bart, max_len=20, min_len=2)
