"""An output under the name of an input is refused, by every command, and the input stays."""

import pytest

from data_prep import encode, prepare
from data_prep.errors import EXIT_STATUS
from srformer_plugin.scoring import cli as scoring
from srformer_plugin.tools import sentencepiece_dictionary, t5_dictionary


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("train.source", "train.target"):
        (folder / name).write_text("the bridge\nthe storm\n")
    return folder


COMMANDS = {
    "encode": (encode.main, ["{folder}", "{folder}", "--bpe", "sentencepiece", "--vocabulary", "12", "--workers", "1"]),
    "prepare": (prepare.main, ["lines", "{folder}", "{folder}", "--splits", "train", "--workers", "1"]),
    "score": (
        scoring.main,
        ["{folder}/train.source", "{folder}/train.target", "--per-example={folder}/train.target"],
    ),
    "sentencepiece_dictionary": (sentencepiece_dictionary.main, ["{folder}/train.source", "{folder}/train.source"]),
    "t5_dictionary": (t5_dictionary.main, ["{folder}/train.source", "{folder}/train.source"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_input_is_not_replaced(command, corpus, capsys):
    main, arguments = COMMANDS[command]
    before = {path: path.read_bytes() for path in corpus.iterdir()}
    assert main([text.format(folder=corpus) for text in arguments]) == EXIT_STATUS
    assert "is read as well, and would be replaced" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in corpus.iterdir()} == before
