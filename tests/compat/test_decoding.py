"""Decoding: the beam's copies of a source, threads, and n-grams that may not come again."""

import argparse
import sys
import threading

import pytest
import torch
from fairseq import checkpoint_utils, utils
from fairseq.modules import MultiheadAttention
from fairseq.ngram_repeat_block import NGramRepeatBlock
from fairseq.search import Sampling
from fairseq.sequence_generator import SequenceGenerator
from stock_bart import stock

from srformer_plugin.errors import ConfigurationError


def teacher_forced(model, task):
    """Log-probabilities that a model gives to a batch of four different sentences."""
    model.eval()
    dataset = task.dataset("valid")
    batch = dataset.collater([dataset[index] for index in range(4)])
    with torch.no_grad():
        output, _ = model(**batch["net_input"])
    return output


@pytest.fixture
def loaded(trained):
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(trained.checkpoint)])
    task.load_dataset("valid")
    return models[0], task


def test_stock_bart_confuses_the_sources_after_a_generator_was_built(loaded, monkeypatch):
    model, task = loaded
    model.set_beam_size(1)
    before = teacher_forced(model, task)
    monkeypatch.setattr(MultiheadAttention, "forward", stock(MultiheadAttention.forward))
    model.set_beam_size(2)
    assert not torch.allclose(teacher_forced(model, task), before)


@pytest.mark.parametrize("beam", [2, 3])
def test_a_generator_does_not_change_what_a_model_computes(beam, loaded):
    model, task = loaded
    model.set_beam_size(1)
    before = teacher_forced(model, task)
    model.set_beam_size(beam)
    assert torch.equal(teacher_forced(model, task), before)


def decode(generator, model, batch):
    """The hypotheses of a batch, as tokens."""
    return [[hypothesis["tokens"].tolist() for hypothesis in found] for found in generator.generate([model], batch)]


def test_one_thread_decodes_while_another_scores(loaded):
    """Stock BART keeps the beam size on the module; both threads use the same model."""
    model, task = loaded
    dataset = task.dataset("valid")
    batch = dataset.collater([dataset[index] for index in range(4)])
    generator = task.build_generator([model], argparse.Namespace(beam=2, max_len_b=6))
    hypotheses, scores = decode(generator, model, batch), teacher_forced(model, task)
    wrong, done = [], threading.Event()

    def score():
        try:
            while not done.is_set():
                if not torch.equal(teacher_forced(model, task), scores):
                    wrong.append("other scores")
        except Exception as error:
            wrong.append(error)

    before, scorer = sys.getswitchinterval(), threading.Thread(target=score)
    sys.setswitchinterval(1e-6)  # the threads take turns within a function
    scorer.start()
    try:
        found = [decode(generator, model, batch) for _ in range(15)]
    finally:
        done.set()
        scorer.join()
        sys.setswitchinterval(before)
    assert found == [hypotheses] * 15
    assert wrong == []


def numbered(task, first):
    """A batch of four sentences that say they are number `first` and so on of their data set."""
    dataset = task.dataset("valid")
    batch = dataset.collater([dataset[index] for index in range(4)])
    return {**batch, "id": batch["id"] + first}


DIVERSE = argparse.Namespace(beam=4, max_len_b=6, diverse_beam_groups=2)


def test_a_diverse_beam_finds_the_same_whatever_the_numbers_of_the_sentences(loaded):
    model, task = loaded
    generator = task.build_generator([model], DIVERSE)
    found = [decode(generator, model, numbered(task, first)) for first in (0, 100)]
    assert found[0] == found[1]


def test_stock_diverse_beam_fails_past_the_first_batch(loaded, monkeypatch):
    model, task = loaded
    monkeypatch.setattr(SequenceGenerator, "_generate", stock(SequenceGenerator._generate))
    with pytest.raises(IndexError):
        decode(task.build_generator([model], DIVERSE), model, numbered(task, 100))


def test_a_diverse_beam_counts_rows_when_sentences_end_early(loaded):
    """The overlap of a sentence's groups is its own: alone it finds what it finds in a batch."""
    model, task = loaded
    generator = task.build_generator([model], DIVERSE)
    dataset = task.dataset("valid")
    together = decode(generator, model, numbered(task, 0))
    alone = [decode(generator, model, dataset.collater([dataset[index]]))[0] for index in range(4)]
    order = numbered(task, 0)["id"].tolist()
    assert together == [alone[index] for index in order]


@pytest.mark.parametrize("options", [{"min_len": 7}, {"match_source_len": True, "min_len": 90}])
def test_lengths_that_exclude_each_other_are_named(options, loaded, monkeypatch):
    model, task = loaded
    generator = task.build_generator([model], argparse.Namespace(**{"beam": 2, "max_len_b": 6, **options}))
    with pytest.raises(ConfigurationError, match=f"^--min-len {options['min_len']} is more than the longest output"):
        decode(generator, model, numbered(task, 0))
    monkeypatch.setattr(SequenceGenerator, "_generate", stock(SequenceGenerator._generate))
    with pytest.raises(AssertionError, match="min_len cannot be larger than max_len"):
        decode(generator, model, numbered(task, 0))


@pytest.mark.parametrize("more", [{}, {"sampling_topk": 5}, {"sampling_topp": 0.9}])
def test_sampling_near_a_temperature_of_0_is_greedy(more, loaded, monkeypatch):
    """At the longest output </s> has to come, with a probability of 0 in float32."""
    model, task = loaded
    model.eval()

    def found(**settings):
        settings = argparse.Namespace(beam=1, max_len_b=6, temperature=1e-6, **settings)
        model.set_beam_size(1)
        hypotheses = task.build_generator([model], settings).generate([model], numbered(task, 0))
        return [(beams[0]["tokens"].tolist(), beams[0]["score"].item()) for beams in hypotheses]

    greedy, sampled = found(), found(sampling=True, **more)
    assert [tokens for tokens, _ in sampled] == [tokens for tokens, _ in greedy]
    assert [score for _, score in sampled] == pytest.approx([score for _, score in greedy], rel=1e-4)
    monkeypatch.setattr(Sampling, "step", stock(Sampling.step))
    with pytest.raises(RuntimeError, match="invalid multinomial"):
        found(sampling=True, **more)


def test_a_longest_output_of_nothing_is_named_by_what_was_given(loaded):
    model, task = loaded
    generator = task.build_generator([model], argparse.Namespace(beam=2, max_len_a=0.001, max_len_b=0))
    with pytest.raises(ConfigurationError, match="^--max-len-a 0.001 and --max-len-b 0 leave no token for the output"):
        decode(generator, model, numbered(task, 0))


def test_more_words_to_sample_among_than_there_are_are_refused(loaded, monkeypatch):
    model, task = loaded
    words = len(task.target_dictionary)

    def sample(count):
        settings = argparse.Namespace(beam=2, max_len_b=6, sampling=True, sampling_topk=count)
        return decode(task.build_generator([model], settings), model, numbered(task, 0))

    assert sample(words)
    with pytest.raises(ConfigurationError, match=f"^--sampling-topk {words + 1} is more than the .*'s {words} words"):
        sample(words + 1)
    monkeypatch.setattr(Sampling, "__init__", stock(Sampling.__init__))
    with pytest.raises(RuntimeError, match="out of range"):
        sample(words + 1)


# --- unknown words ----------------------------------------------------------------------------------------


def test_stock_opens_a_file_that_is_none():
    with pytest.raises(FileNotFoundError):
        stock(utils.load_align_dict)("@@ ")


def test_unknown_words_are_replaced_without_a_file(tmp_path):
    assert utils.load_align_dict("@@ ") == {}
    assert utils.load_align_dict(None) is None
    (tmp_path / "dictionary").write_text("Haus house\n", encoding="utf-8")
    assert utils.load_align_dict(str(tmp_path / "dictionary")) == {"Haus": "house"}


def blocked(forward):
    """Which of 9 words may not follow </s> 4 5 6 4 5, with n = 3, in a buffer of 20 tokens."""
    tokens = torch.full((1, 20), 1)
    tokens[0, :6] = torch.tensor([2, 4, 5, 6, 4, 5])
    scores = forward(NGramRepeatBlock(3, use_extension=False), tokens, torch.zeros(1, 9), 1, 1, 5)
    return scores[0].isinf().nonzero().flatten().tolist()


def test_stock_blocks_no_repeated_ngram():
    assert blocked(stock(NGramRepeatBlock.forward)) == []


def test_a_repeated_ngram_is_blocked():
    assert blocked(NGramRepeatBlock.forward) == [6]
