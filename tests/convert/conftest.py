"""Hugging Face folders of small random models, which stand for the ones that people download."""

import json
import shutil

import pytest
import sentencepiece
import torch
from conftest import sentence_pairs

WORDS = ["the", "council", "opened", "bridge", "museum", "of", "and", "after", "storm", "concert", "harbour"]


@pytest.fixture(scope="session", name="transformers")
def transformers_fixture():
    """The `transformers` package."""
    package = pytest.importorskip("transformers", reason="the development extra (transformers) is not installed")
    # It imports torchaudio wherever that is installed. fairseq requires it, usable or not, and uses it nowhere.
    package.utils.is_torchaudio_available = package.utils.import_utils.is_torchaudio_available = lambda: False
    return package


# Standard deviation times sqrt(inputs), by a part of the name. Others: 1.
GAINS = {"embed_positions": 4, "q_proj": 3, "k_proj": 3, "query": 3, "key": 3, "encoder.layers": 0.5,
         "encoder_attn": 1.5, "fc": 0.5}  # fmt: skip


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
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="session")
def save_bart(transformers):
    """Function (folder, seed, kind, dtype, configuration) -> random BART, saved there with a tokenizer."""

    def save(folder, seed=1, kind="BartForConditionalGeneration", dtype=torch.float32, **configuration):
        config = transformers.BartConfig(**{**SMALL_BART, **configuration})
        return save_with_byte_bpe(folder, getattr(transformers, kind), config, configuration, seed, dtype)

    return save


def save_with_byte_bpe(folder, kind, config, configuration, seed, dtype):
    """A random model of `kind`, saved with a tokenizer, whose size it has unless `configuration` has another one."""
    folder.mkdir()
    rows = write_byte_bpe(folder)
    config.vocab_size = configuration.get("vocab_size", rows)
    model = kind(config)
    randomise(model, seed)
    model.to(dtype).eval().save_pretrained(folder)
    return model


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


SMALL_LED = {
    **{name: value for name, value in SMALL_BART.items() if name != "max_position_embeddings"},
    "max_encoder_position_embeddings": 96,
    "max_decoder_position_embeddings": 64,
    "attention_window": [4, 8],
}


@pytest.fixture(scope="session")
def save_led(transformers):
    """Function (folder, seed, kind, dtype, configuration) -> random LED, saved there with a tokenizer."""

    def save(folder, seed=1, kind="LEDForConditionalGeneration", dtype=torch.float32, **configuration):
        config = transformers.LEDConfig(**{**SMALL_LED, **configuration})
        return save_with_byte_bpe(folder, getattr(transformers, kind), config, configuration, seed, dtype)

    return save


SEPARATOR = "<doc-sep>"


@pytest.fixture(scope="session")
def save_primera(transformers, save_led):
    """Function (folder, more of `save_led`) -> (random LED whose tokenizer has <doc-sep>, its id), saved there."""

    def save(folder, **options):
        rows = save_led(folder).config.vocab_size
        tokenizer = transformers.LEDTokenizer.from_pretrained(folder)
        tokenizer.add_tokens([SEPARATOR])
        model = save_led(folder.with_name(f"{folder.name}-model"), vocab_size=rows + 1, **options)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return model, rows

    return save


SMALL_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 2,
    "vocab_size": 256,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


@pytest.fixture(scope="session")
def spiece(tmp_path_factory):
    """A SentencePiece model with T5's ids of special tokens."""
    prefix = tmp_path_factory.mktemp("spiece") / "spiece"
    lines = [text for pair in sentence_pairs(200, seed=1) for text in pair]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(prefix),
        vocab_size=120,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


def randomise_t5(model, seed):
    """As `randomise`, for a T5; an untied output becomes a matrix of its own."""
    generator = torch.Generator().manual_seed(seed)
    if not model.config.scale_decoder_outputs:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_(1 + 0.1 * noise)
            elif "relative" in name:
                parameter.copy_(2 * noise)
            else:
                query = ".q." in name and 0.5  # T5 does not scale them
                parameter.copy_(noise * (query or 1) * parameter.size(1) ** (0 if "shared" in name else -0.5))
        model.decoder.final_layer_norm.weight.mul_(3)  # far from uniform


@pytest.fixture(scope="session")
def save_t5(transformers, spiece):
    """Function (folder, seed, dtype, configuration) -> random T5, saved there with a tokenizer."""

    def save(folder, seed=1, dtype=torch.float32, **configuration):
        folder.mkdir()
        shutil.copyfile(spiece, folder / "spiece.model")
        config = transformers.T5Config(**{**SMALL_T5, "decoder_start_token_id": 0, **configuration})
        model = transformers.T5ForConditionalGeneration(config)
        randomise_t5(model, seed)
        model.to(dtype).eval().save_pretrained(folder)
        return model

    return save


@pytest.fixture(scope="session", params=[{}, V1_1], ids=["t5", "v1.1"])
def t5(request, save_t5, tmp_path_factory):
    """(folder, model, folder converted): small T5s that tests must not change."""
    from srformer_plugin.convert.cli import hf_to_fairseq

    folder = tmp_path_factory.mktemp("t5")
    model = save_t5(folder / "hf", **request.param)
    hf_to_fairseq(folder / "hf", folder / "fairseq")
    return folder / "hf", model, folder / "fairseq"
