"""Copying examples for a model from scratch: `python -m srformer_plugin.tools.marked_sentences`."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary, data_utils, indexed_dataset
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from srformer_plugin.tools.marked_sentences import (
    LONGEST,
    MARK,
    MASK,
    SHORTEST,
    choose,
    copying_example,
    main,
    sentences_of,
    symbols_of,
)

LIMIT = 95
SENTENCES, WORDS = 12, 9
SIDES = ("source", "target")


def pieces_of(sentences=SENTENCES, words=WORDS):
    """A text of sentences of different lengths, no two of them alike: `words` + i pieces and a full stop."""
    return [
        piece
        for sentence in range(sentences)
        for piece in [*(f"▁{sentence}w{word}" for word in range(words + sentence)), "▁."]
    ]


@pytest.fixture(scope="module")
def dictionary():
    """All pieces that a text of these tests has."""
    dictionary = Dictionary()
    for word in [
        *pieces_of(SENTENCES, 40),
        *["▁a", "▁b", "▁c", "▁!", "▁it", "▁3", ".", "5", "?!", "▁why", "▁be", "cause", "...", "▁", "▁summary"],
        MARK,
        MASK,
    ]:
        dictionary.add_symbol(word)
    return dictionary


@pytest.fixture(scope="module")
def symbols(dictionary):
    return symbols_of(dictionary)


@pytest.fixture(scope="module")
def ids(dictionary):
    """`ids(pieces)`: an array."""
    return lambda pieces: np.array([dictionary.index(piece) for piece in pieces], np.int64)


def seen(source, original, symbols):
    """What each place of `source` shows: "same", "mark" or "mask"."""
    assert len(source) == len(original)
    kinds = {symbols.mark: "mark", symbols.mask: "mask"}
    found = [kinds.get(token, "same" if token == was else "changed") for token, was in zip(source, original)]
    assert "changed" not in found
    return found


@pytest.fixture
def binarised(tmp_path, dictionary, ids):
    """`binarised(texts)`: a folder as fairseq-preprocess writes it, with one summary for all."""

    def make(texts, dictionary=dictionary, folder=tmp_path / "data"):
        folder.mkdir()
        for side in SIDES:
            dictionary.save(str(folder / f"dict.{side}.txt"))
        for split in ("train", "valid"):
            for side, lines in zip(SIDES, (texts, [["▁summary"]] * len(texts))):
                prefix = f"{folder}/{split}.source-target.{side}"
                builder = indexed_dataset.make_builder(f"{prefix}.bin", "mmap", vocab_size=len(dictionary))
                for line in lines:
                    builder.add_item(torch.from_numpy(np.append(ids(line), dictionary.eos())))
                builder.finalize(f"{prefix}.idx")
        return folder

    return make


def pairs_of(folder, dictionary):
    """The training pairs of a folder as lists of ids."""
    sides = [data_utils.load_indexed_dataset(f"{folder}/train.source-target.{side}", dictionary) for side in SIDES]
    return [tuple(side.tolist() for side in pair) for pair in zip(*sides)]


@pytest.mark.parametrize(
    "text, sentences",
    [
        ("▁a ▁b ▁. ▁c ▁!", ["▁a ▁b ▁.", "▁c ▁!"]),
        ("▁it ▁3 . 5 ▁a ▁.", ["▁it ▁3 . 5 ▁a ▁."]),  # no word begins behind the first point
        ("▁why ?! ▁be cause ... ▁a", ["▁why ?!", "▁be cause ..."]),  # the rest is no whole sentence
        ("▁a ▁b", []),
        ("", []),
        ("▁a ▁ ▁b ▁.", ["▁a ▁ ▁b ▁."]),  # a lone word start is not a mark
    ],
)
def test_a_sentence_ends_with_a_mark_behind_which_a_word_begins(text, sentences, ids, symbols):
    pieces = text.split()
    assert [" ".join(pieces[start:end]) for start, end in sentences_of(ids(pieces), symbols)] == sentences


def test_only_sentences_of_a_fitting_length_are_chosen():
    ends = np.cumsum([SHORTEST - 1, SHORTEST, LONGEST, LONGEST + 1])
    sentences = np.stack((np.append(0, ends[:-1]), ends), axis=1)
    assert choose(sentences, 1000, np.random.default_rng(0)).tolist() == sentences[1:3].tolist()
    assert choose(sentences, LONGEST - 1, np.random.default_rng(0)).tolist() == sentences[1:2].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_the_target_is_whole_sentences_in_the_order_of_the_text_and_as_many_as_fit(seed, ids, symbols):
    tokens = ids(pieces_of())
    source, target = copying_example(tokens, LIMIT, symbols, np.random.default_rng(seed))
    sentences = [tokens[start:end].tolist() for start, end in sentences_of(tokens, symbols)]
    copied = [sentence for sentence in sentences if sentence[0] in target]
    assert target.tolist() == sum(copied, [])
    assert LIMIT - max(map(len, sentences)) < len(target) <= LIMIT
    marks = [sentence[0] for sentence in copied]
    assert tokens[source == symbols.mark].tolist() == marks
    assert len(set(map(tuple, copied))) == len(copied) > 1


def test_marked_sentences_are_masked_more_than_others(ids, symbols):
    tokens, full_stop = ids(pieces_of()), ids(["▁."])[0]
    marked, other = Counter(), Counter()
    for seed in range(400):
        source, target = copying_example(tokens, LIMIT, symbols, np.random.default_rng(seed))
        for token, kind in zip(tokens, seen(source, tokens, symbols)):
            if token != full_stop:
                (marked if token in target else other)[kind] += 1
    assert marked["mask"] / (marked["mask"] + marked["same"]) == pytest.approx(0.2, abs=0.01)
    assert other["mask"] / (other["mask"] + other["same"]) == pytest.approx(0.08, abs=0.01)
    assert other["mark"] == 0


def test_a_source_without_a_sentence_gives_no_example(ids, symbols):
    rng = np.random.default_rng(0)
    assert copying_example(ids(["▁a", "▁b", "▁c"]), LIMIT, symbols, rng) is None
    assert copying_example(ids(pieces_of()), SHORTEST - 1, symbols, rng) is None


def test_passes_mix_copies_and_summaries_pair_by_pair(binarised, dictionary, symbols, tmp_path, capsys):
    texts = [pieces_of(8, words) for words in range(4, 34)] * 10 + [["▁a", "▁b"]]
    folder, out = binarised(texts), tmp_path / "passes"
    assert main([str(folder), str(out), "--passes", "2", "--share", "0.6", "--workers", "1"]) == 0
    originals = pairs_of(folder, dictionary)
    passes = [pairs_of(out / number, dictionary) for number in ("1", "2")]
    counts = json.loads((out / "counts.json").read_text())
    for number, pairs in enumerate(passes, 1):
        assert len(pairs) == len(originals)
        summaries = sum(pair == original for pair, original in zip(pairs, originals))
        assert summaries / len(pairs) == pytest.approx(0.4, abs=0.08)
        for (source, target), (was, summary) in zip(pairs, originals):
            assert (symbols.mark in source) == (target != summary)
            seen(source, was, symbols)
            assert source[-1] == target[-1] == dictionary.eos()
        assert sum(counts[str(number)].values()) == len(pairs)
        assert counts[str(number)]["copying"] == len(pairs) - summaries
    assert passes[0] != passes[1]
    assert pairs[-1] == originals[-1]
    assert "copying" in capsys.readouterr().out


def test_first_passes_copy_alone_from_short_sources(binarised, dictionary, symbols, tmp_path):
    folder, out = binarised([pieces_of(8, words) for words in range(4, 24)]), tmp_path / "passes"
    assert main([str(folder), str(out), "--short-sources", "30", "60", "--workers", "1"]) == 0
    originals = pairs_of(folder, dictionary)
    for number, length in (("1", 30), ("2", 60)):
        pairs = pairs_of(out / number, dictionary)
        copies = [
            (source, target, was) for (source, target), (was, summary) in zip(pairs, originals) if target != summary
        ]
        # of 30 pieces at most 15 may be marked, and some texts have no sentence so short
        assert len(copies) > len(pairs) / 2
        for source, target, was in copies:
            assert len(source) == length + 1 and source[-1] == dictionary.eos()
            seen(source[:-1], was[:length], symbols)
            assert len(target) <= length // 2 + 1
    assert sum(pair == original for pair, original in zip(pairs_of(out / "3", dictionary), originals)) > 2
    assert not (out / "4").exists()


def test_the_draws_depend_on_the_seed_and_not_on_the_workers(binarised, dictionary, tmp_path):
    folder = binarised([pieces_of(8, words) for words in range(4, 24)])

    def written(name, *flags):
        assert main([str(folder), str(tmp_path / name), "--passes", "2", *flags]) == 0
        return [pairs_of(tmp_path / name / number, dictionary) for number in ("1", "2")]

    one = written("one", "--workers", "1")
    assert written("two", "--workers", "2") == one
    assert written("seed", "--workers", "1", "--seed", "2") != one


def test_fairseq_trains_on_a_pass_an_epoch_and_validates_on_the_data(binarised, dictionary, tmp_path):
    """Colons between the folders are fairseq's sharded data: what the module's text promises."""
    folder, out = binarised([pieces_of()] * 6), tmp_path / "passes"
    assert main([str(folder), str(out), "--passes", "2", "--workers", "1"]) == 0
    task = TranslationTask.setup_task(
        TranslationConfig(
            data=f"{out}/1:{out}/2:{folder}",
            source_lang="source",
            target_lang="target",
            train_subset="train",
            dataset_impl="mmap",
            required_seq_len_multiple=1,
        )
    )
    for epoch, data in enumerate([out / "1", out / "2", folder, out / "1"], 1):
        task.load_dataset("train", epoch=epoch)
        sources = [task.dataset("train")[pair]["source"].tolist() for pair in range(6)]
        assert sources == [source for source, _ in pairs_of(data, dictionary)]
    task.load_dataset("valid")
    assert len(task.dataset("valid")) == 6


def without(dictionary, *words):
    """A copy of `dictionary` that lacks some words."""
    copy = Dictionary()
    for word in dictionary.symbols[dictionary.nspecial :]:
        if word not in words:
            copy.add_symbol(word)
    return copy


@pytest.mark.parametrize(
    "texts, lacking, flags, message",
    [
        ([pieces_of()], [MASK], [], "no <mask>: make it with"),
        ([["▁a", "▁b"]], [], [], "no sentence of 5 to 70 pieces"),
        ([pieces_of()], [], ["--share", "1.5"], "1.5 is no share"),
        ([pieces_of()], [], ["--share", "some"], "'some' is not a number"),
        ([pieces_of()], [], ["--passes", "0"], "0 is not at least 1"),
        (None, [], [], "has no training data of source-target"),
    ],
)
def test_what_cannot_be_marked_is_one_line(binarised, dictionary, tmp_path, capsys, texts, lacking, flags, message):
    folder = tmp_path if texts is None else binarised(texts, without(dictionary, *lacking))
    try:
        status = main([str(folder), str(tmp_path / "out"), "--workers", "1", *flags])
    except SystemExit as stopped:
        status = stopped.code
    printed = capsys.readouterr().err.splitlines()
    assert status != 0
    assert message in printed[-1]
    assert not (tmp_path / "out" / "counts.json").exists()


def test_gpt2_pieces_are_refused():
    dictionary = Dictionary()
    for word in ["12", "4096", MARK, MASK]:
        dictionary.add_symbol(word)
    with pytest.raises(ValueError, match="no SentencePiece pieces"):
        symbols_of(dictionary)
