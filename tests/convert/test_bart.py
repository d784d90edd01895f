"""A converted BART computes what the original computes."""

import argparse
import json

import pytest
import torch
from convert.parity import found_by_both, load, logits_of_both
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.models.bart import BARTModel

pytest.importorskip("transformers", reason="the development extra (transformers) is not installed")

from srformer_plugin.convert.bart_dictionary import Tokenizer, gpt2_ids
from srformer_plugin.convert.cli import fairseq_to_hf, hf_to_fairseq
from srformer_plugin.convert.weights import Weights


@pytest.mark.parametrize(
    "configuration",
    [
        {},
        {"activation_function": "relu", "scale_embedding": True},
        {"activation_function": "gelu_new", "encoder_layers": 1, "decoder_layers": 3, "encoder_ffn_dim": 24},
        {"encoder_attention_heads": 4, "decoder_attention_heads": 8, "decoder_ffn_dim": 40, "vocab_size": 500},
    ],
    ids=["default", "relu-scaled", "layers", "heads-rows"],
)
def test_logits_equal_transformers_on_padded_batches(save_bart, tmp_path, configuration):
    theirs = save_bart(tmp_path / "hf", **configuration)
    hf_to_fairseq(tmp_path / "hf", tmp_path / "out")
    ours, task = load(tmp_path / "out")
    assert len(task.source_dictionary) == len(task.target_dictionary) == theirs.config.vocab_size
    expected, actual = logits_of_both(theirs, ours, theirs.config.vocab_size)
    assert expected.std() > 0.5  # far from uniform: a wrong weight would show
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_fairseqs_own_bart_takes_the_checkpoint(bart, converted_bart):
    content = torch.load(converted_bart / "model.pt", weights_only=True)
    args = argparse.Namespace(**{**vars(content["cfg"]["model"]), "arch": "bart_base"})
    stock = ARCH_MODEL_REGISTRY["bart_base"].build_model(args, load(converted_bart)[1])
    assert type(stock) is BARTModel
    stock.load_state_dict(content["model"])
    expected, actual = logits_of_both(bart[1], stock.eval(), bart[1].config.vocab_size)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_a_bare_model_without_prefix_and_head_is_taken(save_bart, tmp_path):
    """facebook/bart-base is one: its weights are called shared.weight and not model.shared.weight."""
    theirs = save_bart(tmp_path / "hf", kind="BartModel")
    assert "shared.weight" in Weights(tmp_path / "hf")
    hf_to_fairseq(tmp_path / "hf", tmp_path / "out")
    ours, _ = load(tmp_path / "out")
    assert torch.equal(ours.decoder.output_projection.weight, theirs.shared.weight)
    assert torch.equal(ours.decoder.layers[1].fc2.bias, theirs.decoder.layers[1].fc2.bias)


@pytest.mark.parametrize(
    ("penalty", "shortest", "ngram"), [(1.0, 1, 0), (0.5, 4, 2), (1.5, 3, 3)], ids=["plain", "short", "long"]
)
def test_beam_search_finds_what_transformers_generate_finds(bart, converted_bart, penalty, shortest, ngram):
    """See `found_by_both` for what the two count differently."""
    expected, found = found_by_both(bart[1], converted_bart, penalty, shortest, ngram)
    assert found == expected
    assert len({tuple(row) for row in expected}) > 10  # the sources matter
    assert len({len(row) for row in expected}) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_there_and_back_is_the_identity_for_every_weight(transformers, save_bart, tmp_path, dtype):
    theirs = save_bart(tmp_path / "hf", dtype=dtype, dropout=0.2, scale_embedding=True)
    hf_to_fairseq(tmp_path / "hf", tmp_path / "fairseq")
    fairseq_to_hf(tmp_path / "fairseq" / "model.pt", tmp_path / "back")
    before, after = Weights(tmp_path / "hf"), Weights(tmp_path / "back")
    assert before.keys() == after.keys()
    for name in before:
        assert after[name].dtype == dtype
        assert torch.equal(before[name], after[name]), name
    again = transformers.BartForConditionalGeneration.from_pretrained(tmp_path / "back")
    assert again.dtype == dtype
    wanted, got = theirs.config.to_dict(), again.config.to_dict()
    assert {k for k in wanted if wanted[k] != got.get(k)} <= {"architectures", "_name_or_path"}
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()


def test_back_and_there_is_the_identity_for_a_fairseq_checkpoint(converted_bart, tmp_path):
    fairseq_to_hf(converted_bart / "model.pt", tmp_path / "hf")
    hf_to_fairseq(tmp_path / "hf", tmp_path / "again")
    before, after = (torch.load(f / "model.pt", weights_only=True) for f in (converted_bart, tmp_path / "again"))
    assert before["model"].keys() == after["model"].keys()
    assert all(torch.equal(before["model"][name], after["model"][name]) for name in before["model"])
    assert vars(before["cfg"]["model"]) == vars(after["cfg"]["model"])


def test_the_dictionary_gives_the_ids_of_the_tokenizer(transformers, bart, converted_bart):
    from fairseq.data.encoders.gpt2_bpe import GPT2BPE, GPT2BPEConfig

    theirs = transformers.BartTokenizer.from_pretrained(bart[0])
    files = {"gpt2_encoder_json": "encoder.json", "gpt2_vocab_bpe": "vocab.bpe"}
    bpe = GPT2BPE(GPT2BPEConfig(**{option: str(converted_bart / name) for option, name in files.items()}))
    dictionary = load(converted_bart)[1].source_dictionary
    for text in ("the council opened the harbour", " after the storm, naïve Ünïcode 雨!", "a  b\tc"):
        ids = dictionary.encode_line(f"<s> {bpe.encode(text)} </s>", append_eos=False).tolist()
        assert ids == theirs(text)["input_ids"]
        assert bpe.decode(dictionary.string(torch.tensor(ids[1:-1]))) == text
    assert dictionary.index("<mask>") == json.loads((bart[0] / "vocab.json").read_text())["<mask>"]


def test_the_ids_of_bytes_and_merges_are_gpt2s():
    """As in the encoder.json of GPT-2, whose ids fairseq's dict.txt consists of."""
    ids = gpt2_ids(Tokenizer([], ["\u0120 t", "\u0120 a", "h e"], []))
    known = {
        "!": 0,
        ".": 13,
        "a": 64,
        "~": 93,
        "\u00a1": 94,
        "\u00ff": 187,
        "\u0100": 188,
        "\u010a": 198,
        "\u0120": 220,
    }
    known |= {"\u0120t": 256, "\u0120a": 257, "he": 258, "<|endoftext|>": 259}
    assert {token: ids[token] for token in known} == known
