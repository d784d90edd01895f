"""`python -m srformer_plugin.tools.sentencepiece_dictionary`: the pieces of a model, and more symbols."""

import pytest
import sentencepiece
from fairseq.data import Dictionary

from data_prep.errors import EXIT_STATUS
from data_prep.sentencepiece_model import train
from srformer_plugin.tools.sentencepiece_dictionary import main

TEXTS = ["the old man and the sea", "an old sea story of the man", "the sea , the sea and the story"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spm")
    (folder / "text").write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    train([folder / "text"], folder / "spiece.model", 20)
    return folder / "spiece.model"


def test_every_piece_is_a_word_and_so_are_the_symbols(model, tmp_path, capsys):
    assert main([str(model), str(tmp_path / "new/dict.txt"), "--add", "<mark>", "--add", "<mask>"]) == 0
    dictionary = Dictionary.load(str(tmp_path / "new/dict.txt"))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for piece in [*processor.encode(" ".join(TEXTS), out_type=str), "<mark>", "<mask>"]:
        assert dictionary.index(piece) != dictionary.unk()
    # all but the model's unknown piece, fairseq's four and the two
    words = [word for word in dictionary.symbols if not word.startswith("madeupword")]
    assert len(words) == len(processor) - 1 + 4 + 2
    assert len(dictionary) % 8 == 0
    assert str(len(dictionary)) in capsys.readouterr().out


@pytest.mark.parametrize(
    "symbol, message", [("<s>", "one of fairseq's own symbols"), ("s", "is in"), ("a b", "has white space")]
)
def test_a_symbol_that_cannot_be_added_is_one_line(model, tmp_path, capsys, symbol, message):
    assert main([str(model), str(tmp_path / "dict.txt"), "--add", symbol]) == EXIT_STATUS
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "dict.txt").exists()


def test_what_is_no_model_is_one_line(tmp_path, capsys):
    (tmp_path / "no.model").write_text("nothing")
    assert main([str(tmp_path / "no.model"), str(tmp_path / "dict.txt")]) == EXIT_STATUS
    assert "is not a SentencePiece model" in capsys.readouterr().err
