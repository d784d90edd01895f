"""Models of bart_base's sizes with random weights: fairseq's and this package's, and those of transformers."""

import argparse

import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

import srformer_plugin  # noqa: F401 (registers the architectures)

WORDS = 50_260  # BART's vocabulary without the four special symbols
WINDOW = 512  # of LED's encoder, both sides together
PUBLISHED_WINDOW = 1024  # that of the published LEDs
# kind -> name in a table
HUGGING_FACE = {"bart": "transformers BART", "led": f"transformers LED, window {WINDOW}"}


class StubTask:
    """A dictionary of BART's size and no data; fewer `words` for a trial."""

    def __init__(self, words=WORDS):
        self.source_dictionary = self.target_dictionary = Dictionary()
        for number in range(words):
            self.source_dictionary.add_symbol(f"w{number}")
        self.datasets = {}


def build(task, arch, positions, settings, target_length=64):
    """A fairseq model with random weights of seed 1, in training mode.

    Args:
        task: a `StubTask`.
        arch: a registered architecture.
        positions: the longest source.
        settings: its further settings by name.
        target_length: the expected one of a segment schedule.
    """
    torch.manual_seed(1)
    args = argparse.Namespace(
        arch=arch,
        task="translation",
        share_all_embeddings=True,
        max_source_positions=positions,
        max_target_positions=1024,
        expected_target_length=target_length,
        **settings,
    )
    ARCH_CONFIG_REGISTRY[arch](args)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, task)


def import_transformers():
    """The module transformers, or an end with one line that says what to do."""
    try:
        import transformers
    except ImportError as error:
        raise SystemExit(f"cannot import transformers ({error}): pip install transformers, or leave it out") from None
    # It imports torchaudio wherever that is installed. fairseq requires it, usable or not, and uses it nowhere.
    transformers.utils.is_torchaudio_available = transformers.utils.import_utils.is_torchaudio_available = lambda: False
    transformers.logging.set_verbosity_error()
    return transformers


def hugging_face(kind, positions, words=WORDS, window=WINDOW, **sizes):
    """transformers' BART ("bart") or LED ("led") with random weights of seed 1.

    Args:
        positions: the longest source.
        words: of the vocabulary, beside four special symbols.
        window: of LED's encoder, both sides together.
        sizes: other sizes than bart_base's, by their names in the configuration.
    """
    transformers = import_transformers()
    torch.manual_seed(1)
    sizes = {
        "d_model": 768,
        "encoder_layers": 6,
        "decoder_layers": 6,
        "encoder_attention_heads": 12,
        "decoder_attention_heads": 12,
        "encoder_ffn_dim": 3072,
        "decoder_ffn_dim": 3072,
        **sizes,
    }
    sizes["vocab_size"] = words + 4
    if kind == "bart":
        config = transformers.BartConfig(max_position_embeddings=max(1024, positions), **sizes)
        config._attn_implementation = "sdpa"
        return transformers.BartForConditionalGeneration(config)
    positions = -(-max(1024, positions) // window) * window
    sizes |= {"max_encoder_position_embeddings": positions, "max_decoder_position_embeddings": 1024}
    config = transformers.LEDConfig(attention_window=window, **sizes)
    return transformers.LEDForConditionalGeneration(config)
