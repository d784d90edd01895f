"""Batches made at once are the batches of fairseq."""

import numpy as np
import pytest
import torch
from fairseq.data import (
    AppendTokenDataset,
    Dictionary,
    LanguagePairDataset,
    PrependTokenDataset,
    StripTokenDataset,
    TruncateDataset,
    indexed_dataset,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from stock_bart import stock
from torch.utils.data import DataLoader

from srformer_plugin.compat import collation
from srformer_plugin.compat.collation import Samples

WORDS = Dictionary()
for number in range(20):
    WORDS.add_symbol(f"w{number}")
PAD, EOS = WORDS.pad(), WORDS.eos()
COUNT = 23


def stored(folder, name, dtype, longest):
    """A memory-mapped file of random sentences; some hold a pad, begin with </s>, or are nothing else."""
    generator = np.random.default_rng(len(name))
    builder = indexed_dataset.MMapIndexedDatasetBuilder(f"{folder}/{name}.bin", dtype=dtype)
    for number in range(COUNT):
        tokens = np.append(generator.integers(4, len(WORDS), generator.integers(0, longest)), EOS)
        if number % 5 == 0:
            tokens[0] = PAD if number % 2 and len(tokens) > 1 else EOS
        builder.add_item(torch.from_numpy(tokens))
    builder.finalize(f"{folder}/{name}.idx")
    return indexed_dataset.MMapIndexedDataset(f"{folder}/{name}")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    return stored(folder, "source", np.uint16, 30), stored(folder, "target", np.int32, 9)


def cut(dataset, length):
    """As the translation task cuts sources."""
    return AppendTokenDataset(TruncateDataset(StripTokenDataset(dataset, EOS), length - 1), EOS)


def pairs_of(source, target, **options):
    sizes = None if target is None else target.sizes
    return LanguagePairDataset(source, source.sizes, WORDS, target, sizes, WORDS, **options)


def assert_same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for name in ours:
            assert_same(ours[name], theirs[name])
    elif torch.is_tensor(ours):
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()
    else:
        assert ours == theirs


@given(
    indices=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=12),
    length=st.none() | st.integers(2, 12),
    with_target=st.booleans(),
    options=st.fixed_dictionaries(
        {
            "left_pad_source": st.booleans(),
            "left_pad_target": st.booleans(),
            "input_feeding": st.booleans(),
            "pad_to_multiple": st.sampled_from([1, 8]),
            "eos": st.none() | st.just(7),
        }
    ),
)
@settings(max_examples=150)
def test_a_batch_is_the_stock_one(files, indices, length, with_target, options):
    source = files[0] if length is None else cut(files[0], length)
    pairs = pairs_of(source, files[1] if with_target else None, **options)
    assert collation._readers(pairs) is not None
    indices = np.array(indices)
    expected = stock(LanguagePairDataset.collater)(pairs, [pairs[i] for i in indices])
    assert_same(pairs.collater(pairs.__getitems__(indices)), expected)


def test_the_loader_makes_a_batch_of_its_indices(files, monkeypatch):
    pairs, made = pairs_of(*files), []
    collate = collation._collate
    monkeypatch.setattr(collation, "_collate", lambda *arguments: made.append(1) or collate(*arguments))
    batches = list(DataLoader(pairs, batch_sampler=[[3, 4], [5]], collate_fn=pairs.collater))
    assert len(made) == 2
    assert_same(batches[1], stock(LanguagePairDataset.collater)(pairs, [pairs[5]]))


class Shouting(LanguagePairDataset):
    """A dataset with sentences of its own."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), "source": torch.tensor([9, EOS])}


@pytest.mark.parametrize(
    "make",
    [
        lambda source, target: Shouting(source, source.sizes, WORDS, target, target.sizes, WORDS),
        lambda source, target: pairs_of(PrependTokenDataset(source, 5), target),
        lambda source, target: pairs_of(source, PrependTokenDataset(target, 5)),
        lambda source, target: pairs_of(source, target, append_bos=True),
        lambda source, target: pairs_of(source, target, remove_eos_from_source=True),
        lambda source, target: pairs_of(source, target, append_eos_to_target=True),
        lambda source, target: pairs_of(source, target, src_lang_id=3),
        lambda source, target: pairs_of(source, target, constraints=[torch.tensor([1])] * COUNT),
        lambda source, target: pairs_of(source, target, align_dataset=[torch.tensor([], dtype=torch.long)] * COUNT),
    ],
    ids=["own", "source", "target", "bos", "no-eos", "eos", "language", "constraints", "alignment"],
)
def test_other_data_are_left_to_fairseq(files, make):
    pairs = make(*files)
    expected = stock(LanguagePairDataset.collater)(pairs, [pairs[i] for i in (2, 7, 3)])
    assert_same(pairs.collater(pairs.__getitems__([2, 7, 3])), expected)


def test_a_length_that_is_asked_for_is_left_to_fairseq(files):
    pairs, asked = pairs_of(*files), {"source": 40, "target": 20}
    expected = stock(LanguagePairDataset.collater)(pairs, [pairs[i] for i in (2, 7)], asked)
    assert_same(pairs.collater(Samples(pairs, [2, 7]), asked), expected)
    assert expected["target"].size(1) == 20


def test_no_sample_makes_no_batch(files):
    pairs = pairs_of(*files)
    assert pairs.collater(pairs.__getitems__([])) == {}


def test_samples_are_what_the_dataset_has(files):
    pairs = pairs_of(*files)
    samples = pairs.__getitems__([4, 1])
    assert [sample["id"] for sample in samples] == [4, 1]
    assert samples[1]["source"].tolist() == pairs[1]["source"].tolist()


def test_data_that_are_left_to_fairseq_are_read_once_a_batch(files):
    class Counted(PrependTokenDataset):
        reads = 0

        def __getitem__(self, index):
            type(self).reads += 1
            return super().__getitem__(index)

    pairs = pairs_of(Counted(files[0], EOS), files[1])
    batch = next(iter(DataLoader(pairs, collate_fn=pairs.collater, batch_sampler=[[3, 1, 2]])))
    assert batch["nsentences"] == 3 and Counted.reads == 3


def test_a_dataset_of_the_users_own_collates_a_list(files):
    class Own(LanguagePairDataset):
        def collater(self, samples, pad_to_length=None):
            return super().collater([*samples[1:], *sorted(samples[:1], key=len)], pad_to_length)

    source, target = files
    pairs = Own(source, source.sizes, WORDS, target, target.sizes, WORDS)
    (samples,) = DataLoader(pairs, collate_fn=lambda samples: samples, batch_sampler=[[3, 1]])
    assert type(samples) is list
    assert_same(pairs.collater(samples), pairs_of(source, target).collater(samples))
