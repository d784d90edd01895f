"""Data in several files, and in files of the older formats."""

import re
import shutil
from argparse import Namespace

import pytest
import torch
from fairseq import utils
from fairseq.data import data_utils, indexed_dataset
from fairseq.data.data_utils import load_indexed_dataset
from fairseq.data.indexed_dataset import IndexedCachedDataset, IndexedDatasetBuilder, make_builder
from fairseq.tasks.translation import TranslationConfig, TranslationTask, load_langpair_dataset
from stock_bart import stock

from srformer_plugin.errors import ConfigurationError


@pytest.fixture
def folder(tiny_corpus, tmp_path):
    """40 pairs as train, 9 as train1."""
    for file in tiny_corpus.binarised.iterdir():
        shutil.copy(file, tmp_path / file.name.replace("valid", "train1"))
    return tmp_path


def pairs_of(folder, **settings):
    config = TranslationConfig(
        data=str(folder), source_lang="source", target_lang="target", dataset_impl="mmap", **settings
    )
    task = TranslationTask.setup_task(config)
    task.load_dataset("train", combine=True)
    return task.dataset("train")


@pytest.mark.parametrize(("settings", "count"), [({}, 49), ({"upsample_primary": 2}, 89)])
def test_the_first_file_counts_as_often_as_it_is_asked_for(folder, settings, count):
    pairs = pairs_of(folder, **settings)
    assert len(pairs) == len(pairs.src_sizes) == len(pairs.tgt_sizes) == count
    assert pairs[count - 1]["target"] is not None


def test_a_colon_in_the_name_of_what_is_there_is_no_list(folder, tmp_path):
    one = tmp_path.with_name(f"{tmp_path.name} 12:30")
    shutil.copytree(folder, one)
    assert len(pairs_of(one)) == 49
    assert utils.split_paths(str(one)) == [str(one)]
    assert utils.split_paths(f"{one / 'gone'}") == str(one / "gone").split(":")
    assert utils.split_paths(f"{folder}:{folder}") == [str(folder)] * 2
    assert stock(utils.split_paths)(str(one)) != [str(one)]


def dictionaries(folder, **words):
    for name, text in words.items():
        (folder / f"dict.{name}.txt").write_text(text, encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("words", "pair"),
    [
        ({"source": "a 1\n", "target": "b 1\n"}, ("source", "target")),
        ({"target": "a 1\n", "source": "a 1\n"}, ("source", "target")),
        ({"long": "a 1\n", "brief": "a 1\n"}, ("brief", "long")),  # the same for either
    ],
)
def test_dictionaries_name_the_languages(words, pair, tmp_path):
    assert data_utils.infer_language_pair(dictionaries(tmp_path, **words)) == pair
    assert stock(data_utils.infer_language_pair)(str(tmp_path)) == (None, None)


def test_texts_name_the_languages_before_dictionaries(tmp_path):
    (tmp_path / "train.long-brief.long.idx").touch()
    assert tuple(data_utils.infer_language_pair(dictionaries(tmp_path, source="", target=""))) == ("long", "brief")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ({}, "no dictionary dict.*.txt"),
        ({"source": ""}, "the dictionaries of source"),
        ({"de": "a 1\n", "en": "b 1\n"}, "the dictionaries of de, en"),
        ({"a": "", "source": "", "target": ""}, "the dictionaries of a, source, target"),
    ],
)
def test_languages_that_nothing_names_are_asked_for(words, found, tmp_path):
    with pytest.raises(ConfigurationError, match=re.escape(f"{tmp_path}: no binarised texts say")) as raised:
        data_utils.infer_language_pair(dictionaries(tmp_path, **words))
    assert f"and it has {found}: give the folder that fairseq-preprocess wrote, or --source-lang" in str(raised.value)


def of_validation(folder, named):
    (folder / "valid1.source-target.source.bin").touch()
    dataset = Namespace(
        valid_subset=named, ignore_unused_valid_subsets=False, combine_valid_subsets=None, disable_validation=False
    )
    return Namespace(dataset=dataset, task=Namespace(data=str(folder)))


def test_validation_sets_are_known_by_name(tmp_path):
    data_utils.raise_if_valid_subsets_unintentionally_ignored(of_validation(tmp_path, "valid,valid1"))
    with pytest.raises(ValueError, match=r"\['valid1'\] will be ignored"):
        data_utils.raise_if_valid_subsets_unintentionally_ignored(of_validation(tmp_path, "valid"))


def test_stock_takes_named_sets_for_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(data_utils, "_find_extra_valid_paths", stock(data_utils._find_extra_valid_paths))
    with pytest.raises(ValueError, match="will be ignored"):
        data_utils.raise_if_valid_subsets_unintentionally_ignored(of_validation(tmp_path, "valid,valid1"))


def test_stock_takes_it_less_than_once(folder, monkeypatch):
    monkeypatch.setattr("fairseq.tasks.translation.load_langpair_dataset", stock(load_langpair_dataset))
    with pytest.raises(ValueError, match="negative"):
        pairs_of(folder)


@pytest.mark.parametrize("kind", ["mmap", "lazy"])
def test_a_split_without_texts_is_named(tmp_path, kind):
    path = tmp_path / "test.source-target.source"
    builder = make_builder(f"{path}.bin", kind)
    builder.finalize(f"{path}.idx")
    with pytest.raises(ConfigurationError, match="source.bin is empty: the text file .* has no lines"):
        load_indexed_dataset(str(path))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of its end
def test_stock_cannot_map_an_empty_file(tmp_path):
    make_builder(str(tmp_path / "test.bin"), "mmap").finalize(str(tmp_path / "test.idx"))
    with pytest.raises(ValueError, match="empty"):
        stock(indexed_dataset.make_dataset)(str(tmp_path / "test"), "mmap")


def cached(folder):
    """Two sentences in a file of the older format, as fairseq reads it by default."""
    builder = IndexedDatasetBuilder(str(folder / "data.bin"))
    for sentence in ([5, 6, 2], [7, 2]):
        builder.add_item(torch.tensor(sentence))
    builder.finalize(str(folder / "data.idx"))
    dataset = load_indexed_dataset(str(folder / "data"))
    assert type(dataset) is IndexedCachedDataset
    return dataset


def test_a_sentence_comes_from_the_file_or_from_memory(tmp_path):
    dataset = cached(tmp_path)
    assert dataset[1].tolist() == [7, 2]
    dataset.prefetch([0])
    (tmp_path / "data.bin").unlink()
    assert dataset[0].tolist() == [5, 6, 2]


def test_stock_has_none_before_they_are_in_memory(tmp_path):
    with pytest.raises(KeyError):
        stock(IndexedCachedDataset.__getitem__)(cached(tmp_path), 1)
