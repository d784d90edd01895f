"""A training is resumed as it was: settings that no weight shows are compared with those of the checkpoint."""

import re
from argparse import Namespace

import pytest
import torch
from helpers import train_arguments

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.srformer_led import SRformerLEDModel

CHUNKED = ["--encoder-attention", "chunked", "--encoder-positions", 64, "--encoder-context", 4]
LED = ["--arch", "srformer_led_tiny", "--max-source-positions", 64]


@pytest.fixture
def train(train_in_process, tiny_corpus, tmp_path):
    def run(*flags, updates, folder="trained"):
        common = ["--max-update", updates, "--disable-validation", "--task", "summarization"]
        return train_in_process(*train_arguments(tiny_corpus, tmp_path / folder, *common, *flags))

    return run


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([], CHUNKED, "--encoder-attention full, but this run has --encoder-attention chunked"),
        (CHUNKED, [*CHUNKED, "--encoder-chunk", 8], "--encoder-chunk 56, but this run has --encoder-chunk 8"),
        (CHUNKED, [*CHUNKED, "--encoder-prefix-symbol", "the"],
         "no --encoder-prefix-symbol, but this run has --encoder-prefix-symbol the"),
        (["--encoder-attention", "window"], ["--encoder-attention", "window", "--encoder-window", 4],
         "--encoder-window 512, but this run has --encoder-window 4"),
        (LED, [*LED, "--attention-window", 4], "--attention-window 8, but this run has --attention-window 4"),
        (["--arch", "srformer_t5_tiny"], ["--arch", "srformer_t5_tiny", "--relative-position-max-distance", 99],
         "--relative-position-max-distance 128, but this run has --relative-position-max-distance 99"),
        ([], ["--kv-clamp", 0], "--kv-clamp 2.0, but this run has --kv-clamp 0.0"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_setting_that_changes_on_the_way_is_refused_by_its_flag(train, before, after, message):
    train(*before, updates=1)
    with pytest.raises(ConfigurationError, match=re.escape(f"was trained with {message}: resume it as it was")):
        train(*after, updates=2)


def test_a_clip_without_a_neuron_may_change(train, tmp_path):
    train("--cross-attention", "segmented", updates=1)
    train("--cross-attention", "segmented", "--kv-clamp", 0, updates=2)
    assert torch.load(tmp_path / "trained/checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] == 2


def test_options_of_another_architecture_are_compared_as_far_as_they_go():
    options = {"encoder_layers": 2, "encoder_attention": "full", "cross_attention": "full"}
    found = SRformerLEDModel.settings_of_weights(Namespace(**options, attention_window="8"))
    assert found.pop("--attention-window") == "8,8"
    assert SRformerLEDModel.settings_of_weights(Namespace(**options)) == found  # BART's


def test_what_has_no_effect_may_change_and_a_new_training_is_free(train, tmp_path):
    train(updates=1)
    train("--encoder-window", 4, updates=2)
    last = tmp_path / "trained/checkpoint_last.pt"
    assert torch.load(last)["optimizer_history"][-1]["num_updates"] == 2
    more = [*CHUNKED[:2], "--encoder-positions", 1024]
    train(*more, "--finetune-from-model", last, updates=1, folder="adapted")
    log = train(*more, "--finetune-from-model", last, updates=2, folder="adapted")  # started again
    assert "Loaded checkpoint" in log
    assert torch.load(tmp_path / "adapted/checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] == 2
