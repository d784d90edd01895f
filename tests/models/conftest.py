"""Tiny models with random weights, built as fairseq builds them."""

import argparse

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

import srformer_plugin  # noqa: F401 (registers the architectures)


class StubTask:
    """The two dictionaries a model asks its task for, and no data."""

    def __init__(self):
        self.source_dictionary = self.target_dictionary = Dictionary()
        for number in range(20):
            self.source_dictionary.add_symbol(f"w{number}")
        self.datasets = {}


def default_options(arch, layers, width, heads):
    """What architecture `arch` fills in, whose encoder and decoder must have these sizes."""
    args = argparse.Namespace()
    ARCH_CONFIG_REGISTRY[arch](args)
    for side in ("encoder", "decoder"):
        assert getattr(args, f"{side}_layers") == layers
        assert getattr(args, f"{side}_embed_dim") == width
        assert getattr(args, f"{side}_attention_heads") == heads
    return args


def build_model(arch="srformer_bart_tiny", seed=1, spread=6.0, **overrides):
    """A model of `arch` in eval mode. `spread` multiplies BART's small initial weights, so that attention, memory
    and distribution over words are far from uniform."""
    torch.manual_seed(seed)
    defaults = {"expected_target_length": 8, "dropout": 0.0, "max_source_positions": 64, "max_target_positions": 64}
    args = argparse.Namespace(arch=arch, task="translation", **{**defaults, **overrides})
    ARCH_CONFIG_REGISTRY[arch](args)
    model = ARCH_MODEL_REGISTRY[arch].build_model(args, StubTask())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embed" not in name:
                parameter.mul_(spread)
    return model.eval()


@pytest.fixture(name="build_model", scope="session")
def build_model_fixture():
    return build_model


def make_sample(lengths, left_pad=True, width=None, seed=3, dictionary=None):
    """A fairseq batch of random sentences (end of sentence included in the lengths)."""
    dictionary = dictionary or StubTask().source_dictionary
    generator = torch.Generator().manual_seed(seed)
    width = width or max(lengths)
    tokens = torch.full((len(lengths), width), dictionary.pad())
    for row, length in enumerate(lengths):
        words = torch.randint(dictionary.nspecial, len(dictionary), (length,), generator=generator)
        words[-1] = dictionary.eos()
        start = width - length if left_pad else 0
        tokens[row, start : start + length] = words
    return {"id": torch.arange(len(lengths)), "net_input": {"src_tokens": tokens, "src_lengths": torch.tensor(lengths)}}


@pytest.fixture(name="make_sample", scope="session")
def make_sample_fixture():
    return make_sample


@pytest.fixture
def build_t5(build_model):
    """A tiny T5 of 2 + 3 layers. Its initial weights are T5's times `spread`: attention is far from uniform."""

    def build(spread=1.5, **options):
        options = {"encoder_layers": 2, "decoder_layers": 3, **options}
        return build_model(options.pop("arch", "srformer_t5_tiny"), spread=spread, **options)

    return build
