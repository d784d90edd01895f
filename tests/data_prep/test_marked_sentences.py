"""`python -m data_prep.marked_sentences`: copying examples for a model from scratch."""

import json
from collections import Counter

import numpy as np
import pytest

from data_prep import marked_sentences
from data_prep.marked_sentences import LONGEST, MARK, MASK, SHORTEST, choose, copying_example, main, sentences_of

LIMIT = 95
SENTENCE = "▁the ▁committee ▁met ▁on ▁mon day ▁."


def pieces_of(sentences, words=9):
    """A text of sentences of different lengths, no two of them alike: [`words` + i pieces and a full stop]."""
    return [
        piece
        for sentence in range(sentences)
        for piece in [*(f"▁{sentence}w{word}" for word in range(words + sentence)), "▁."]
    ]


def restored(source, original):
    """Which places of `source` show what `original` had, are marked, and are masked."""
    assert len(source) == len(original)
    kinds = {MARK: "mark", MASK: "mask"}
    seen = [kinds.get(piece, "same" if piece == was else "changed") for piece, was in zip(source, original)]
    assert "changed" not in seen
    return seen


@pytest.fixture
def encoded(tmp_path):
    """`encoded(sources)`: a folder as `data_prep.encode` writes it, with a summary a source."""

    def make(sources, name="encoded"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "train.source").write_text("".join(f"{line}\n" for line in sources), encoding="utf-8")
        (folder / "train.target").write_text(
            "".join(f"▁summary ▁{number}\n" for number in range(len(sources))), encoding="utf-8"
        )
        return folder

    return make


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "text, sentences",
    [
        ("▁a ▁b ▁. ▁c ▁!", ["▁a ▁b ▁.", "▁c ▁!"]),
        ("▁it ▁cost ▁3 . 5 ▁pounds ▁.", ["▁it ▁cost ▁3 . 5 ▁pounds ▁."]),  # no word begins behind the first point
        ("▁why ?! ▁be cause ... ▁of", ["▁why ?!", "▁be cause ..."]),  # the rest is no whole sentence
        ("▁no ▁end", []),
        ("", []),
        ("▁ ▁. ▁a", ["▁ ▁."]),  # a lone word start is not a mark
    ],
)
def test_a_sentence_ends_with_a_mark_behind_which_a_word_begins(text, sentences):
    pieces = text.split()
    assert [" ".join(pieces[start:end]) for start, end in sentences_of(pieces)] == sentences


def test_only_sentences_of_a_fitting_length_are_chosen():
    lengths = [SHORTEST - 1, SHORTEST, LONGEST, LONGEST + 1]
    bounds, start = [], 0
    for length in lengths:
        bounds.append((start, start + length))
        start += length
    assert choose(bounds, 1000, np.random.default_rng(0)) == bounds[1:3]
    assert choose(bounds, LONGEST - 1, np.random.default_rng(0)) == bounds[1:2]


@pytest.mark.parametrize("seed", range(20))
def test_the_target_is_whole_sentences_in_the_order_of_the_text_and_as_many_as_fit(seed):
    pieces = pieces_of(12)
    source, target = copying_example(pieces, LIMIT, np.random.default_rng(seed))
    sentences = [pieces[start:end] for start, end in sentences_of(pieces)]
    copied = [sentence for sentence in sentences if sentence[0] in target]
    assert target == sum(copied, [])
    assert LIMIT - max(map(len, sentences)) < len(target) <= LIMIT
    assert restored(source, pieces).count("mark") == len(copied)
    for sentence in copied:
        assert source[pieces.index(sentence[0])] == MARK


def test_marked_sentences_are_masked_more_than_others():
    pieces, shares = pieces_of(12), {"marked": Counter(), "other": Counter()}
    for seed in range(400):
        source, target = copying_example(pieces, LIMIT, np.random.default_rng(seed))
        for piece, seen in zip(pieces, restored(source, pieces)):
            shares["marked" if piece in target and piece != "▁." else "other"][seen] += piece != "▁."
    marked, other = shares["marked"], shares["other"]
    assert marked["mask"] / (marked["mask"] + marked["same"]) == pytest.approx(0.2, abs=0.01)
    assert other["mask"] / (other["mask"] + other["same"]) == pytest.approx(0.08, abs=0.01)
    assert other["mark"] == 0


def test_a_source_without_a_sentence_gives_no_example():
    assert copying_example(["▁no", "▁end", "▁of", "▁it"], LIMIT, np.random.default_rng(0)) is None
    assert copying_example(SENTENCE.split(), SHORTEST - 1, np.random.default_rng(0)) is None


def test_passes_mix_copies_and_summaries_line_by_line(encoded, tmp_path, capsys):
    sources = [" ".join(pieces_of(8, words)) for words in range(4, 64)] * 5 + ["▁no ▁end"]
    folder, out = encoded(sources), tmp_path / "marked"
    assert main([str(folder), str(out), "--passes", "2", "--share", "0.6", "--workers", "1"]) == 0
    passes = [list(zip(lines(out / f"train{k}.source"), lines(out / f"train{k}.target"))) for k in (1, 2)]
    originals = list(zip(sources, lines(folder / "train.target")))
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    for number, pairs in enumerate(passes, 1):
        assert len(pairs) == len(originals)
        summaries = sum(pair == original for pair, original in zip(pairs, originals))
        assert summaries / len(pairs) == pytest.approx(0.4, abs=0.07)
        for (source, target), (was, summary) in zip(pairs, originals):
            assert (MARK in source) == (target != summary)
            restored(source.split(), was.split())
        assert sum(counts[str(number)].values()) == len(pairs)
        assert counts[str(number)]["copying"] == len(pairs) - summaries
    assert passes[0] != passes[1]
    assert pairs[-1] == originals[-1]
    assert "copying" in capsys.readouterr().out


def test_the_draws_depend_on_the_seed_and_not_on_the_workers(encoded, tmp_path):
    folder = encoded([" ".join(pieces_of(8, words)) for words in range(4, 24)])

    def written(name, *flags):
        assert main([str(folder), str(tmp_path / name), "--passes", "2", *flags]) == 0
        return [(tmp_path / name / f"train{k}.{side}").read_bytes() for k in (1, 2) for side in ("source", "target")]

    one = written("one", "--workers", "1")
    assert written("two", "--workers", "2") == one
    assert written("seed", "--workers", "1", "--seed", "2") != one


@pytest.mark.parametrize(
    "sources, flags, message",
    [
        (["12 4096 318"], [], "has no SentencePiece pieces"),  # GPT-2's BPE
        (["▁no ▁end"], [], "no sentence of 5 to 70 pieces"),
        ([SENTENCE], ["--share", "1.5"], "1.5 is no share: it must be from 0 to 1"),
        ([SENTENCE], ["--seed", "-1"], "-1 is not at least 0"),
        (None, [], "has no"),
    ],
)
def test_what_cannot_be_marked_is_one_line(encoded, tmp_path, capsys, sources, flags, message):
    folder = tmp_path if sources is None else encoded(sources)
    try:
        status = main([str(folder), str(tmp_path / "out"), "--workers", "1", *flags])
    except SystemExit as stopped:
        status = stopped.code
    printed = capsys.readouterr().err.splitlines()
    assert status != 0
    assert message in printed[-1]
    assert not (tmp_path / "out" / "train1.source").exists()


def test_fairseq_train_takes_a_pass_an_epoch(encoded, tmp_path):
    """Colons between the folders are fairseq's sharded data: what the module's text promises."""
    pytest.importorskip("fairseq")
    from fairseq.data import Dictionary, indexed_dataset
    from fairseq.tasks.translation import TranslationConfig, TranslationTask

    folder = encoded([SENTENCE] * 6)
    marked_sentences.mark(folder, tmp_path / "marked", passes=2, share=0.5, limit=LIMIT, seed=3)
    dictionary = Dictionary()
    for piece in [*SENTENCE.split(), MARK, MASK, "▁summary", *(f"▁{number}" for number in range(6))]:
        dictionary.add_symbol(piece)
    expected = []
    for number in (1, 2):
        data = tmp_path / f"data{number}"
        data.mkdir()
        for side in ("source", "target"):
            dictionary.save(str(data / f"dict.{side}.txt"))
            prefix = str(data / f"train.source-target.{side}")
            builder = indexed_dataset.make_builder(prefix + ".bin", "mmap", vocab_size=len(dictionary))
            for line in lines(tmp_path / "marked" / f"train{number}.{side}"):
                builder.add_item(dictionary.encode_line(line, add_if_not_exist=False))
            builder.finalize(prefix + ".idx")
        expected.append(lines(tmp_path / "marked" / f"train{number}.source"))
    task = TranslationTask.setup_task(
        TranslationConfig(
            data=f"{tmp_path}/data1:{tmp_path}/data2",
            source_lang="source",
            target_lang="target",
            train_subset="train",
            dataset_impl="mmap",
            required_seq_len_multiple=1,
        )
    )
    for epoch in (1, 2, 3):
        task.load_dataset("train", epoch=epoch)
        sources = [dictionary.string(task.dataset("train")[line]["source"]) for line in range(6)]
        assert sources == expected[(epoch - 1) % 2]
