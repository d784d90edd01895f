"""The picture of where every layer looks."""

import argparse

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

from docs import draw_looks
from srformer_plugin.models.checkpoint_file import write_checkpoint


@pytest.fixture(scope="module")
def checkpoints(tiny_corpus, tmp_path_factory):
    """A model by the clock and one that chooses two segments, both untrained, with two layers."""
    folder = tmp_path_factory.mktemp("looks")
    dictionary = Dictionary.load(str(tiny_corpus.binarised / "dict.source.txt"))
    task = argparse.Namespace(source_dictionary=dictionary, target_dictionary=dictionary, datasets={})
    sizes = {"decoder_layers": 2, "cross_attention": "segmented", "expected_target_length": 6}
    for name in ("fixed", "content"):
        options = {**sizes, "segment_schedule": name, "segments_per_query": 2}
        args = argparse.Namespace(arch="srformer_bart_tiny", **options)
        ARCH_CONFIG_REGISTRY[args.arch](args)
        model = ARCH_MODEL_REGISTRY[args.arch].build_model(args, task)
        write_checkpoint(folder / f"{name}.pt", args.arch, options, model.state_dict())
    return folder


@pytest.mark.parametrize(("name", "segments"), [("fixed", 1), ("content", 2)])
def test_every_position_looks_at_as_many_segments_as_its_schedule_says(checkpoints, tiny_corpus, name, segments):
    weights, tokens = draw_looks.looks(str(checkpoints / f"{name}.pt"), str(tiny_corpus.binarised), "test", 3)
    assert tokens[:-1] == tiny_corpus.lines("test", "target")[3].split()
    length = len(tiny_corpus.lines("test", "source")[3].split()) + 1
    assert [layer.shape for layer in weights] == [(len(tokens), -(-length // 4))] * 2
    for layer in weights:
        torch.testing.assert_close(layer.sum(1), torch.ones(len(tokens)))
        assert ((layer > 0).sum(1) <= 2 * segments).all()  # of two heads
    if name == "fixed":
        assert all((layer.amax(1) > 0.999).all() for layer in weights)


def test_a_row_a_checkpoint_is_drawn(checkpoints, tiny_corpus, tmp_path):
    systems = [f"{name}={checkpoints / name}.pt" for name in ("fixed", "content")]
    draw_looks.main([str(tiny_corpus.binarised), *systems, "--out", str(tmp_path / "looks.png")])
    assert (tmp_path / "looks.png").stat().st_size > 5000
    with_text = (tmp_path / "looks.png").read_bytes()
    draw_looks.main([str(tiny_corpus.binarised), *systems, "--numbers", "--out", str(tmp_path / "looks.png")])
    assert (tmp_path / "looks.png").read_bytes() != with_text
    with pytest.raises(SystemExit, match="--index 11: .* has the pairs 0 to 10 in test"):
        draw_looks.main([str(tiny_corpus.binarised), *systems, "--index", "11"])
