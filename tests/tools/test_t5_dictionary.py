"""Token ids survive text -> fairseq's ids -> text, and are T5's plus one, for real lines."""

import itertools
import re
import sysconfig
from pathlib import Path

import pytest
import sentencepiece
from fairseq.data import Dictionary, data_utils
from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE, SentencepieceConfig

from data_prep.docstring_pairs import DEFAULT_LIMITS, read_file, source_files
from data_prep.errors import EXIT_STATUS
from srformer_plugin.convert.t5_dictionary import t5_dictionary
from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.t5_names import t5_row_of_fairseq_id
from srformer_plugin.tools.t5_dictionary import main

NUM_LINES = 1000
# characters that no training line holds, white space of all kinds, what looks like a special token
ODD_LINES = ["a \u2603\u2603 b \u2603", "\u00a0\u2003x\u2028y\u3000", "\u200bzero\x1cwidth", "\u2581 \u2581"]
ODD_LINES += ["<s> </s> <unk> <pad> <extra_id_0>"]


@pytest.fixture(scope="module")
def lines():
    """Docstrings of the standard library, one a line."""
    files = source_files([Path(sysconfig.get_path("stdlib"))])
    pairs = itertools.chain.from_iterable(read_file((path, module, DEFAULT_LIMITS))[0] for path, module in files)
    texts = itertools.chain.from_iterable((pair.source, pair.summary) for pair in pairs)
    texts = [" ".join(text.split()) for text in itertools.islice(texts, NUM_LINES)]
    assert len(set(texts)) > 0.9 * NUM_LINES
    return texts


def train_sentencepiece(folder, lines, **options):
    """A small SentencePiece model with T5's ids of special tokens; `options` change what it is trained with."""
    settings = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "vocab_size": 500, **options}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "spiece"), num_threads=2, minloglevel=2, **settings
    )
    return folder / "spiece.model"


@pytest.fixture(scope="module")
def spiece(lines, tmp_path_factory):
    return train_sentencepiece(tmp_path_factory.mktemp("spiece"), lines)


@pytest.fixture(scope="module")
def written(spiece, tmp_path_factory):
    """The dictionary as the tool writes it."""
    path = tmp_path_factory.mktemp("t5") / "new" / "dict.txt"
    assert main([str(spiece), str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def bpe(spiece):
    """What `--bpe sentencepiece` is."""
    return SentencepieceBPE(SentencepieceConfig(sentencepiece_model=str(spiece)))


def test_ids_survive_the_round_trip_and_are_t5s(written, spiece, bpe, lines):
    dictionary = Dictionary.load(str(written))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(spiece))
    for line in lines + ODD_LINES:
        ids = dictionary.encode_line(bpe.encode(line), add_if_not_exist=False).tolist()
        t5_ids = [*theirs.encode(line), theirs.eos_id()]
        assert [t5_row_of_fairseq_id(number, len(dictionary)) for number in ids] == t5_ids, line
        if theirs.unk_id() not in t5_ids:
            text = bpe.decode(dictionary.string(ids))
            assert text == theirs.decode(t5_ids)
            assert dictionary.encode_line(bpe.encode(text), add_if_not_exist=False).tolist() == ids


def test_fairseq_preprocess_stores_the_same_ids(run_fairseq, written, bpe, lines, tmp_path):
    encoded = [bpe.encode(line) for line in lines]
    (tmp_path / "train.source").write_text("".join(line + "\n" for line in encoded), encoding="utf-8")
    run_fairseq(
        "preprocess", "--only-source", "--source-lang", "source", "--target-lang", "target", "--workers", 1,
        "--srcdict", written, "--trainpref", tmp_path / "train", "--destdir", tmp_path / "binarised",
    )  # fmt: skip
    assert (tmp_path / "binarised" / "dict.source.txt").read_bytes() == written.read_bytes()
    dictionary = Dictionary.load(str(written))
    stored = data_utils.load_indexed_dataset(str(tmp_path / "binarised" / "train.source-target.source"), dictionary)
    assert len(stored) == NUM_LINES
    for line, ids in zip(encoded, stored):
        assert ids.tolist() == dictionary.encode_line(line, add_if_not_exist=False).tolist()


def test_special_tokens_sentinels_and_padding_are_where_t5_has_them(written, spiece):
    dictionary = Dictionary.load(str(written))
    pieces = len(sentencepiece.SentencePieceProcessor(model_file=str(spiece)))
    rows = len(dictionary)
    assert rows == 640  # 500 pieces and 100 sentinels, up to the next multiple of 128
    row = {token: t5_row_of_fairseq_id(dictionary.index(token), rows) for token in dictionary.symbols}
    assert [row[token] for token in ("<pad>", "</s>", "<unk>")] == [0, 1, 2]
    assert [row["<extra_id_99>"], row["<extra_id_0>"]] == [pieces, pieces + 99]
    assert row["<s>"] == rows - 1
    assert sorted(row.values()) == list(range(rows))


def test_t5s_own_sizes_give_32128_rows(monkeypatch, tmp_path):
    """T5's model has 32,000 pieces; its file is not needed to count."""

    class Processor:
        def Load(self, path):
            pass

        pad_id, eos_id, unk_id, bos_id = (staticmethod(lambda n=n: n) for n in (0, 1, 2, -1))

        def IdToPiece(self, number):
            return f"piece{number}"

        def __len__(self):
            return 32_000

    monkeypatch.setattr(sentencepiece, "SentencePieceProcessor", Processor)
    (tmp_path / "spiece.model").touch()
    dictionary = t5_dictionary(tmp_path / "spiece.model")
    assert len(dictionary) == 32_128
    assert t5_row_of_fairseq_id(dictionary.index("<extra_id_0>"), 32_128) == 32_099


def test_what_is_no_t5_tokenizer_is_one_clear_error_and_leaves_no_file(lines, tmp_path, spiece, capsys):
    out = tmp_path / "dict.txt"
    default_ids = train_sentencepiece(tmp_path, lines, pad_id=-1, unk_id=0, bos_id=1, eos_id=2)
    with pytest.raises(ConfigurationError, match="special ids are .* T5's pad 0, eos 1, unk 2"):
        t5_dictionary(default_ids)
    assert main([str(default_ids), str(out)]) == EXIT_STATUS
    assert re.match("error: .*not a T5 tokenizer.*\n$", capsys.readouterr().err)
    out.with_name("text").write_text("no model")
    with pytest.raises(ConfigurationError, match="not a SentencePiece model"):
        t5_dictionary(out.with_name("text"))
    with pytest.raises(ConfigurationError, match="is not a file"):
        t5_dictionary(tmp_path / "absent")
    with pytest.raises(ConfigurationError, match="--rows 600 must be above the 600 tokens"):
        t5_dictionary(spiece, rows=600)
    assert not out.exists()
