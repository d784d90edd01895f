"""Decoding: the beam's copies of a source, threads, and n-grams that may not come again."""

import argparse
import sys
import threading

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.modules import MultiheadAttention
from fairseq.ngram_repeat_block import NGramRepeatBlock
from stock_bart import stock


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
