"""Batches of fairseq: none is lost, and buckets work."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.data import (
    Dictionary,
    LanguagePairDataset,
    bucket_pad_length_dataset,
    data_utils,
    language_pair_dataset,
    token_block_dataset,
)
from fairseq.modules import dynamic_crf_layer
from fairseq.tasks import FairseqTask
from fairseq_cli import generate
from fairseq_here import here
from hypothesis import given
from hypothesis import strategies as st
from stock_bart import generate_arguments, stock

from srformer_plugin.compat.batches import decode_nothing
from srformer_plugin.errors import ConfigurationError

REMOVED = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.4.0", reason="needs a NumPy that has dropped what fairseq asks for"
)


def test_stock_batching_loses_the_last_sentences():
    batches = stock(data_utils.batch_by_size)(
        np.arange(11), num_tokens_fn=None, num_tokens_vec=np.full(11, 7), required_batch_size_multiple=8
    )
    assert sum(map(len, batches)) == 8


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60),
    max_tokens=st.none() | st.integers(30, 200),
    max_sentences=st.none() | st.integers(1, 20),
    multiple=st.integers(1, 8),
    vector=st.booleans(),
)
def test_batches_hold_every_sentence_once_in_order_and_within_the_limits(
    lengths, max_tokens, max_sentences, multiple, vector
):
    lengths = np.array(sorted(lengths))
    batches = data_utils.batch_by_size(
        np.arange(len(lengths)),
        num_tokens_fn=lambda index: lengths[index],
        num_tokens_vec=lengths if vector else None,
        max_tokens=max_tokens,
        max_sentences=max_sentences,
        required_batch_size_multiple=multiple,
    )
    assert np.concatenate(batches).tolist() == list(range(len(lengths)))
    for batch in batches:
        assert max_sentences is None or len(batch) <= max_sentences
        assert max_tokens is None or len(batch) * lengths[batch].max() <= max_tokens


def test_batches_of_fixed_shapes_are_left_to_fairseq():
    arguments = {"num_tokens_fn": lambda index: 5, "fixed_shapes": np.array([[4, 5]])}
    ours = data_utils.batch_by_size(np.arange(11), **arguments)
    theirs = stock(data_utils.batch_by_size)(np.arange(11), **arguments)
    assert [list(batch) for batch in ours] == [list(batch) for batch in theirs]


def test_indices_may_be_any_iterable():
    lengths = np.full(11, 7)
    batches = data_utils.batch_by_size(iter(range(11)), lambda index: lengths[index], None, 20, None, 8)
    assert np.concatenate(batches).tolist() == list(range(11))


def test_fairseq_generate_answers_every_sentence(run_fairseq, tiny_corpus, trained):
    printed = run_fairseq("generate", *generate_arguments(tiny_corpus, trained.checkpoint)).stdout
    answered = sorted(int(line[2:].split("\t")[0]) for line in printed.splitlines() if line.startswith("H-"))
    assert answered == list(range(tiny_corpus.sizes["test"]))


def test_five_sentences_can_be_validated_on(trained):
    assert "valid on 'valid' subset | loss" in trained.log
    assert "valid on 'test1' subset | loss" in trained.log


def test_stock_validation_on_five_sentences_dies(train_here, monkeypatch):
    monkeypatch.setattr(data_utils, "batch_by_size", stock(data_utils.batch_by_size))
    with pytest.raises(Exception, match="dataset is empty|division by zero"):
        train_here("--valid-subset", "test1")


@REMOVED
def test_stock_buckets_fail():
    with pytest.raises(TypeError, match="interpolation"):
        stock(data_utils.get_buckets)(np.arange(10), 2)


def test_buckets_are_quantiles_that_occur():
    assert data_utils.get_buckets(np.array([1, 2, 3, 4, 100]), 2).tolist() == [3, 100]
    assert bucket_pad_length_dataset.get_buckets(np.array([5, 5, 5]), 3).tolist() == [5]


def test_batches_can_be_bucketed(train_here):
    assert "num_updates 2" in train_here("--num-batch-buckets", "3", "--max-tokens", "400")


@REMOVED
def test_stock_batches_cannot_be_bucketed(train_here, monkeypatch):
    monkeypatch.setattr(language_pair_dataset, "np", np)
    with pytest.raises(AttributeError, match="compat"):
        train_here("--num-batch-buckets", "3", "--max-tokens", "400")


@pytest.mark.parametrize("module", [language_pair_dataset, token_block_dataset, dynamic_crf_layer])
def test_removed_aliases_exist_for_fairseq_alone(module):
    assert (module.np.float, module.np.compat.long) == (float, int)
    assert module.np.int64 is np.int64
    assert not hasattr(np, "float")


# --- sentences that are too long --------------------------------------------------------------------------


def generate_here(corpus, checkpoint, *more):
    return here(generate, *generate_arguments(corpus, checkpoint), *more)


def test_a_sentence_that_is_too_long_is_refused_by_name(tiny_corpus, trained):
    with pytest.raises(ConfigurationError, match="Size of sample .* raise --max-source-positions"):
        generate_here(tiny_corpus, trained.checkpoint, "--max-source-positions", 3)


def test_no_sentence_left_is_one_line(tiny_corpus, trained):
    with pytest.raises(ConfigurationError, match="all 11 sentences are left out"):
        generate_here(
            tiny_corpus, trained.checkpoint, "--max-source-positions", 3, "--skip-invalid-size-inputs-valid-test"
        )


def test_a_batch_that_cannot_hold_a_sentence_is_refused_by_name(tiny_corpus, trained):
    with pytest.raises(ConfigurationError, match="max_tokens=10: raise --max-tokens"):
        generate_here(tiny_corpus, trained.checkpoint, "--max-tokens", 10)


def test_stock_batching_fails_without_sentences():
    nothing = {"num_tokens_vec": np.arange(0), "max_tokens": 9, "required_batch_size_multiple": 8}
    with pytest.raises(IndexError):
        stock(data_utils.batch_by_size)(np.arange(0), None, **nothing)
    assert data_utils.batch_by_size(np.arange(0), None, **nothing) == []


# --- a share of the batches -------------------------------------------------------------------------------


def share_of_four(corpus, checkpoint, rank, *more):
    """What a share of two batches logs."""
    shares = ["--distributed-world-size", 4, "--distributed-rank", rank]
    return generate_here(corpus, checkpoint, "--batch-size", 6, *shares, *more)


def test_a_share_without_a_batch_ends_as_the_others(tiny_corpus, trained, tmp_path):
    shown = [share_of_four(tiny_corpus, trained.checkpoint, rank) for rank in (0, 1, 2)]
    assert "Translated 6 sentences" in shown[0] and "Translated 5 sentences" in shown[1]
    assert "Translated 0 sentences: share 2 of 4 (from 0) has no batch" in shown[2]
    share_of_four(tiny_corpus, trained.checkpoint, 3, "--results-path", tmp_path)
    assert "H-" not in (tmp_path / "generate-test.txt").read_text()


def test_stock_divides_by_its_time(tiny_corpus, trained, monkeypatch):
    monkeypatch.setattr(generate, "_main", stock(generate._main))
    with pytest.raises(ZeroDivisionError):
        share_of_four(tiny_corpus, trained.checkpoint, 3)


def test_a_division_among_sentences_is_no_empty_share():
    def decode(cfg, output_file):
        num_sentences = 3
        return num_sentences / 0

    module = SimpleNamespace(_main=decode, __name__="generate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("srformer_plugin.compat.batches.generate", module)
        decode_nothing()
    with pytest.raises(ZeroDivisionError):
        module._main(None, None)


def test_no_sentences_at_all_are_an_error(tiny_corpus, trained, tmp_path):
    for dictionary in tiny_corpus.binarised.glob("dict.*"):
        shutil.copy(dictionary, tmp_path)
    for side in ("source", "target"):
        (tmp_path / f"test.source-target.{side}").touch()
    arguments = [tmp_path, *generate_arguments(tiny_corpus, trained.checkpoint)[1:], "--dataset-impl", "raw"]
    with pytest.raises(ConfigurationError, match="--gen-subset test has no sentences"):
        here(generate, *arguments, "--batch-size", 6)


# --- resuming in a later epoch ----------------------------------------------------------------------------


def batches_of_epoch(get_batch_iterator, epoch):
    """The batches of the first epoch, as a training makes them that begins in `epoch`."""
    # equal lengths: the order of all sentences is drawn
    tokens = [torch.full((5,), 4) for _ in range(20)]
    dictionary = Dictionary()
    dataset = LanguagePairDataset(tokens, [5] * 20, dictionary, tokens, [5] * 20, dictionary, shuffle=True)
    made = get_batch_iterator(FairseqTask(None), dataset, max_sentences=4, seed=1, epoch=epoch)
    assert made.next_epoch_idx == made.epoch == epoch
    return [batch.tolist() for batch in made.frozen_batches]


def test_stock_batches_depend_on_the_epoch_of_the_resumption():
    assert batches_of_epoch(stock(FairseqTask.get_batch_iterator), 1) != batches_of_epoch(
        stock(FairseqTask.get_batch_iterator), 2
    )


def test_a_resumed_training_goes_through_the_batches_of_the_first_epoch():
    first = batches_of_epoch(FairseqTask.get_batch_iterator, 1)
    assert batches_of_epoch(FairseqTask.get_batch_iterator, 3) == first
    assert first == batches_of_epoch(stock(FairseqTask.get_batch_iterator), 1)
