"""The demo's initial weights: scaled to the width of the model, padding at zero, embeddings still shared."""

import math

import pytest
import torch
from conftest import USER_DIR
from fairseq.modules import LearnedPositionalEmbedding
from torch import nn

from data_prep.errors import EXIT_STATUS
from recipes.initial_weights import main, scale_to_width


class Tied(nn.Module):
    """An embedding that is also the output projection, and a map beside it."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(500, 64, padding_idx=1)
        self.positions = LearnedPositionalEmbedding(40, 64, padding_idx=1)
        self.inner = nn.Linear(256, 64)
        self.output = nn.Linear(64, 500, bias=False)
        self.output.weight = self.embedding.weight


@pytest.fixture
def model():
    model = Tied()
    scale_to_width(model)
    return model


def test_a_linear_map_keeps_the_size_of_its_input(model):
    assert model.inner.weight.std().item() == pytest.approx(1 / math.sqrt(256), rel=0.05)


def test_embeddings_have_length_one_about_and_stay_shared(model):
    assert model.output.weight is model.embedding.weight
    assert model.embedding.weight[2:].std().item() == pytest.approx(1 / math.sqrt(64), rel=0.05)


def test_padding_stays_zero(model):
    assert not model.embedding.weight[1].any()


def test_how_alike_two_positions_are_depends_on_their_distance_alone(model):
    positions = model.positions.weight[2:]
    alike = positions @ positions.T
    torch.testing.assert_close(alike[1:, 1:], alike[:-1, :-1])
    assert alike[0, 1] > alike[0, 2] > alike[0, 4]
    torch.testing.assert_close(alike.diagonal(), torch.ones(len(positions)))  # of the embeddings' size
    assert not model.positions.weight[1].any()


def test_t5_keeps_its_own_scales(tiny_corpus, tmp_path):
    flags = ["--user-dir", str(USER_DIR), "--arch", "srformer_t5_tiny", "--cross-attention", "full"]
    assert main([str(tmp_path / "model.pt"), str(tiny_corpus.binarised), *flags]) == 0
    weights = torch.load(tmp_path / "model.pt", weights_only=False)["model"]
    assert weights["encoder.embed_tokens.weight"].std().item() == pytest.approx(1, rel=0.1)
    assert weights["decoder.embed_tokens.weight"][1].any()  # of <pad>, with which T5's targets start


def test_help_and_missing_arguments_end_in_no_traceback(capsys):
    assert main(["--help"]) == 0
    assert "python -m recipes.initial_weights OUT.pt DATA" in capsys.readouterr().out
    for arguments in ([], ["out.pt"], ["--arch", "srformer_bart"]):
        assert main(arguments) == EXIT_STATUS
        assert capsys.readouterr().err.startswith("error: name the checkpoint to write")
