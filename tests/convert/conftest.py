"""Hugging Face folders of small random models, which stand for the ones that people download."""

import json

import pytest
import torch

WORDS = ["the", "council", "opened", "bridge", "museum", "of", "and", "after", "storm", "concert", "harbour"]


@pytest.fixture(scope="session", name="transformers")
def transformers_fixture():
    """The `transformers` package."""
    package = pytest.importorskip("transformers", reason="the development extra (transformers) is not installed")
    # It imports torchaudio wherever that is installed. fairseq requires it, usable or not, and uses it nowhere.
    package.utils.is_torchaudio_available = package.utils.import_utils.is_torchaudio_available = lambda: False
    return package


# Standard deviation times sqrt(inputs), by a part of the name. Others: 1.
GAINS = {"embed_positions": 4, "q_proj": 3, "k_proj": 3, "encoder.layers": 0.5, "encoder_attn": 1.5, "fc": 0.5}


def randomise(model, seed):
    """Draw every parameter of a BART anew, so that every one of them matters to what it generates.

    None is 0 or 1, attention is far from uniform, no word is much likelier than others, and </s> is likely enough for
    hypotheses of different lengths.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_(0.1 * noise + (1 if name.endswith("norm.weight") else 0))
            else:
                gain = next((gain for part, gain in GAINS.items() if part in name), 1)
                parameter.copy_(noise * gain * parameter.size(1) ** -0.5)
        embedding = model.get_input_embeddings().weight
        embedding.mul_(2 / embedding.norm(dim=1, keepdim=True))
        model.get_decoder().layers[-1].final_layer_norm.bias.add_(1.7 * embedding[2])


@pytest.fixture(scope="session", name="randomise")
def randomise_fixture():
    return randomise


def write_byte_bpe(folder):
    """Write vocab.json and merges.txt of a byte-level BPE that knows WORDS; returns the number of tokens.

    The ids are in no order that GPT-2's ids have, as in the real BART, whose dictionary is sorted by frequency.
    """
    from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode

    merges = {}
    for word in WORDS:
        for letters in (word, f"\u0120{word}"):  # \u0120: how the tokenizer spells a leading space
            for end in range(1, len(letters)):
                merges[f"{letters[:end]} {letters[end]}"] = None
    tokens = [*bytes_to_unicode().values(), *dict.fromkeys(merge.replace(" ", "") for merge in merges)]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *reversed(tokens), "<|endoftext|>", "<mask>"]
    ids = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return len(tokens)


SMALL_BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture(scope="session")
def save_bart(transformers):
    """Function (folder, seed, kind, dtype, configuration) -> random BART, saved there with a tokenizer."""

    def save(folder, seed=1, kind="BartForConditionalGeneration", dtype=torch.float32, **configuration):
        folder.mkdir()
        rows = write_byte_bpe(folder)
        config = transformers.BartConfig(**{"vocab_size": rows, **SMALL_BART, **configuration})
        model = getattr(transformers, kind)(config)
        randomise(model, seed)
        model.to(dtype).eval().save_pretrained(folder)
        return model

    return save


@pytest.fixture(scope="session")
def bart(save_bart, tmp_path_factory):
    """(folder, model): one small BART that tests must not change."""
    folder = tmp_path_factory.mktemp("bart") / "hf"
    return folder, save_bart(folder)


@pytest.fixture(scope="session")
def converted_bart(bart, tmp_path_factory):
    """The folder that it is converted to."""
    from srformer_plugin.convert.cli import hf_to_fairseq

    out = tmp_path_factory.mktemp("bart") / "fairseq"
    hf_to_fairseq(bart[0], out)
    return out
