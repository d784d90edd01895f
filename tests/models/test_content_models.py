"""Models whose queries choose their segments: architectures, checkpoints, and a run from training to decoding."""

import argparse
import re
import sys

import pytest
import torch
from conftest import USER_DIR
from fairseq.models import ARCH_CONFIG_REGISTRY
from helpers import train_arguments

from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.schedule_record import decode_schedule, encode_schedule

SIZES_OF_ARCHITECTURES = {
    "srformer_bart_content": "srformer_bart_base",
    "srformer_bart_content_large": "srformer_bart_large",
    "srformer_t5_content": "srformer_t5_small",
    "srformer_t5_content_base": "srformer_t5_base",
    "srformer_t5_content_large": "srformer_t5_large",
    "srformer_t5_content_v1_1_small": "srformer_t5_v1_1_small",
    "srformer_t5_content_v1_1_base": "srformer_t5_v1_1_base",
    "srformer_t5_content_v1_1_large": "srformer_t5_v1_1_large",
}
CONTENT = {"cross_attention": "segmented", "segment_schedule": "content", "segment_size": 16, "segments_per_query": 8}


def filled_in(architecture, **given):
    args = argparse.Namespace(**given)
    ARCH_CONFIG_REGISTRY[architecture](args)
    return vars(args)


@pytest.mark.parametrize(("architecture", "sizes"), SIZES_OF_ARCHITECTURES.items())
def test_a_content_architecture_is_the_other_one_with_chosen_segments(architecture, sizes):
    assert filled_in(architecture) == {**filled_in(sizes), **CONTENT}
    assert filled_in(architecture, segment_size=8, cross_attention="pooled")["segment_size"] == 8
    assert filled_in(architecture, segment_size=8, cross_attention="pooled")["cross_attention"] == "pooled"


@pytest.mark.parametrize("memory", ["segmented", "pooled"])
def test_without_visits_there_is_no_target_length(build_model, memory):
    """The task of these models has no training data to read one off, and the checkpoint does not speak of any."""
    for given in (None, 8):
        model = build_model(segment_schedule="content", cross_attention=memory, expected_target_length=given)
        assert decode_schedule(model.decoder.segment_schedule)["expected_target_length"] is None
    with pytest.raises(ConfigurationError, match="--expected-target-length is not set"):
        build_model(segment_schedule="content", cross_attention="srformer", expected_target_length=None)


def test_the_record_of_the_clocks_models_is_what_it_was():
    record = decode_schedule(encode_schedule(SegmentSettings(expected_target_length=5)))
    assert record == {"segment_size": 64, "segment_schedule": "fixed", "expected_target_length": 5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments_per_query": 3}, "trained with --segments-per-query 2, but this run has 3; .*change-attention"),
        ({"segment_size": 5}, "trained with --segment-size 4, but this run has 5"),
        ({"segment_schedule": "fixed"}, "trained with --segment-schedule content, but this run has fixed"),
    ],
)
def test_a_run_with_other_segments_than_the_checkpoint_is_refused(build_model, change, message):
    options = {"segment_schedule": "content", "cross_attention": "segmented", "segments_per_query": 2}
    state = build_model(**options).state_dict()
    build_model(**options).load_state_dict(dict(state))
    with pytest.raises(ConfigurationError, match=message):
        build_model(**{**options, **change}).load_state_dict(dict(state))


@pytest.mark.parametrize(
    ("trained", "other", "message"),
    [
        (
            {"head_stride": 2},
            {"head_stride": 1},
            "trained with --head-stride 2, but this run has 1; use --head-stride 2",
        ),
        ({}, {"cross_attention": "segmented"}, "trained with --cross-attention hepos, but this run has segmented"),
        (
            {"cross_attention": "segmented"},
            {},
            "trained with segmented cross-attention, but this run has --cross-attention hepos",
        ),
        ({}, {"cross_attention": "full"}, "trained with --cross-attention hepos, not with --cross-attention full"),
    ],
)
def test_a_run_whose_heads_read_other_tokens_than_the_checkpoints_is_refused(build_model, trained, other, message):
    hepos = {"cross_attention": "hepos", "head_stride": 2}
    state = build_model(**{**hepos, **trained}).state_dict()
    with pytest.raises(ConfigurationError, match=message):
        build_model(**{**hepos, **other}).load_state_dict(dict(state))
    build_model(**{**hepos, **trained}).load_state_dict(dict(state))
    build_model(**hepos).load_state_dict(build_model(cross_attention="full").state_dict())


@pytest.mark.parametrize("kinds", [("pooled", "segmented"), ("segmented", "previous"), ("previous", "pooled")])
def test_a_run_with_another_memory_than_the_checkpoint_is_warned(build_model, caplog, kinds):
    kind, other = kinds
    state = build_model(cross_attention=kind).state_dict()
    build_model(cross_attention=kind).load_state_dict(dict(state))
    assert "--cross-attention" not in caplog.text
    build_model(cross_attention=other).load_state_dict(dict(state))
    assert "--cross-attention" in caplog.text


@pytest.fixture
def generate_in_process(monkeypatch, capsys):
    """fairseq-generate in this process: its arguments in, what it printed out."""
    from fairseq_cli import generate

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fairseq-generate", *map(str, arguments)])
        generate.cli_main()
        return capsys.readouterr().out

    return run


BART = ["--arch", "srformer_bart_content", "--decoder-embed-dim", 32, "--decoder-ffn-embed-dim", 64]
T5 = ["--arch", "srformer_t5_content", "--d-kv", 8]
T5_V1_1 = ["--arch", "srformer_t5_content_v1_1_small", "--d-kv", 8]
TINY = ["--arch", "srformer_bart_tiny"]
SMALL = ["--encoder-embed-dim", 32, "--encoder-ffn-embed-dim", 64, "--encoder-layers", 1, "--decoder-layers", 1]
SMALL += ["--encoder-attention-heads", 2, "--decoder-attention-heads", 2, "--segment-size", 3]
RUNS = {
    "bart": [*BART, "--segments-per-query", 2],
    "t5": [*T5, "--segments-per-query", 2],
    "t5-v1.1": [*T5_V1_1, "--segments-per-query", 2],
    "hepos": [*TINY, "--cross-attention", "hepos", "--head-stride", 2],
    "pooled": [*TINY, "--cross-attention", "pooled", "--segment-schedule", "content", "--segments-per-query", 2],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_training_goes_on_bit_for_bit_and_the_checkpoint_decodes(
    name, tiny_corpus, train_in_process, generate_in_process, tmp_path
):
    flags = [*RUNS[name], *SMALL, "--dropout", 0.1, "--save-interval-updates", 2, "--disable-validation"]
    train_in_process(*train_arguments(tiny_corpus, tmp_path / "whole", *flags, "--max-update", 4))
    saved = next((tmp_path / "whole").glob("checkpoint_*_2.pt"))
    resumed = train_arguments(tiny_corpus, tmp_path / "resumed", *flags, "--max-update", 4, "--restore-file", saved)
    train_in_process(*resumed)
    first, second = (torch.load(tmp_path / f / "checkpoint_last.pt", weights_only=True) for f in ("whole", "resumed"))
    assert all(torch.equal(value, second["model"][name]) for name, value in first["model"].items())
    arguments = [tiny_corpus.binarised, "--user-dir", USER_DIR, "--path", tmp_path / "whole" / "checkpoint_last.pt"]
    arguments += ["--batch-size", 4, "--beam", 4, "--max-len-b", 8, "--cpu", "--task", "summarization"]
    arguments += ["--num-workers", 0]
    texts = [generate_in_process(*arguments, *more) for more in ([], ["--fast-generate"])]
    stock, fast = (sorted(re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", text, flags=re.MULTILINE)) for text in texts)
    assert len(stock) == tiny_corpus.sizes["test"]
    for one, other in zip(stock, fast, strict=True):
        assert one[0] == other[0] and one[2] == other[2]
        assert float(one[1]) == pytest.approx(float(other[1]), abs=2e-4)
