"""A converted T5 or T5 v1.1 (Flan-T5) computes what the original computes."""

import json

import pytest
import torch
from convert.parity import found_by_both, load, logits_of_both

pytest.importorskip("transformers", reason="the development extra (transformers) is not installed")

from safetensors.torch import load_file, save_file

from data_prep.errors import EXIT_STATUS
from srformer_plugin.convert.cli import fairseq_to_hf, hf_to_fairseq, main
from srformer_plugin.convert.weights import Weights

ROWS = 256


def their_id(ids):
    """T5's ids of fairseq's; fairseq's <s> is the last row, which belongs to no token of T5."""
    return (ids - 1) % ROWS


def test_logits_equal_transformers_on_padded_batches(t5):
    _, theirs, converted = t5
    ours, task = load(converted)
    assert len(task.source_dictionary) == len(task.target_dictionary) == ROWS
    expected, actual = logits_of_both(theirs, ours, ROWS, their_id)
    assert expected.std() > 0.5
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "configuration",
    [
        {"num_decoder_layers": 1, "num_heads": 4, "d_kv": 5, "d_ff": 40},
        {"feed_forward_proj": "gated-gelu"},
        {"tie_word_embeddings": False},
    ],
    ids=["sizes", "gated-tied", "relu-untied"],
)
def test_logits_of_other_configurations(save_t5, tmp_path, configuration):
    theirs = save_t5(tmp_path / "hf", **configuration)
    hf_to_fairseq(tmp_path / "hf", tmp_path / "out")
    expected, actual = logits_of_both(theirs, load(tmp_path / "out")[0], ROWS, their_id)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("penalty", "shortest", "ngram"), [(1.0, 1, 0), (0.5, 4, 2), (1.5, 3, 3)], ids=["plain", "short", "long"]
)
def test_beam_search_finds_what_transformers_generate_finds(t5, penalty, shortest, ngram):
    """See `found_by_both` for what the two count differently."""
    expected, found = found_by_both(t5[1], t5[2], penalty, shortest, ngram, their_id=their_id)
    assert found == expected
    assert len({tuple(row) for row in expected}) > 5  # the sources matter; a tied T5 likes to repeat


def test_the_dictionary_gives_the_ids_of_the_tokenizer(transformers, t5):
    import sentencepiece

    folder, _, converted = t5
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    dictionary = load(converted)[1].source_dictionary
    text = "the museum opened a new bridge , cancelled the concert"
    ids = dictionary.encode_line(" ".join(processor.encode(text, out_type=str)), add_if_not_exist=False)
    assert their_id(ids).tolist() == [*processor.encode(text), 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_there_and_back_is_the_identity_for_every_weight(transformers, save_t5, tmp_path, dtype, tied):
    kind = {} if tied else {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    theirs = save_t5(tmp_path / "hf", dtype=dtype, dropout_rate=0.3, **kind)
    hf_to_fairseq(tmp_path / "hf", tmp_path / "fairseq")
    fairseq_to_hf(tmp_path / "fairseq" / "model.pt", tmp_path / "back")
    before, after = Weights(tmp_path / "hf"), Weights(tmp_path / "back")
    assert before.keys() == after.keys()
    assert ("lm_head.weight" in before) != tied
    for name in before:
        assert after[name].dtype == dtype
        assert torch.equal(before[name], after[name]), name
    again = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "back").eval()
    inputs = {"input_ids": torch.arange(3, 9)[None], "decoder_input_ids": torch.arange(5)[None]}
    assert torch.equal(again(**inputs).logits, theirs(**inputs).logits)
    wanted, got = theirs.config.to_dict(), again.config.to_dict()
    assert {k for k in wanted if wanted[k] != got.get(k)} <= {"architectures", "_name_or_path"}
    assert (tmp_path / "back" / "spiece.model").read_bytes() == (tmp_path / "hf" / "spiece.model").read_bytes()


def test_back_and_there_is_the_identity_for_a_fairseq_checkpoint(t5, tmp_path):
    fairseq_to_hf(t5[2] / "model.pt", tmp_path / "hf")
    hf_to_fairseq(tmp_path / "hf", tmp_path / "again")
    before, after = (torch.load(f / "model.pt", weights_only=True) for f in (t5[2], tmp_path / "again"))
    assert before["model"].keys() == after["model"].keys()
    assert all(torch.equal(before["model"][name], after["model"][name]) for name in before["model"])
    assert vars(before["cfg"]["model"]) == vars(after["cfg"]["model"])


def test_what_old_checkpoints_hold_besides_is_taken(save_t5, tmp_path, capsys):
    """Copies of the embedding and a bias that no T5 uses, as in t5-small."""
    folder = tmp_path / "hf"
    save_t5(folder)
    weights = load_file(folder / "model.safetensors")
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights["shared.weight"].clone()
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    weights[unused] = torch.ones(8, 2)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert main(["hf-to-fairseq", str(folder), str(tmp_path / "out"), "--verbose"]) == 0
    output = capsys.readouterr().out
    assert f"{unused} -> dropped: not used" in output
    assert "encoder.embed_tokens.weight: rows in the order of fairseq's dictionary" in output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mt5"}, "model_type 'mt5', but only bart, led, t5 can be converted"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj in config.json is gated-silu"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon 1e-05, but srformer_t5 has 1e-06"),
        ({"decoder_start_token_id": 7}, "decoder_start_token_id 7, but srformer_t5 has 0"),
        ({"d_kv": 9}, r"shape \(16, 32\), but the configuration asks for \(18, 32\)"),
        ({"feed_forward_proj": "gated-gelu"}, "wi.weight is unknown"),
        ({"num_layers": 3}, "weight encoder.block.2.* is missing"),
    ],
)
def test_what_does_not_fit_is_named(save_t5, tmp_path, capsys, change, message):
    import re

    save_t5(tmp_path / "hf")
    for file in ("config.json", "generation_config.json"):
        path = tmp_path / "hf" / file
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, **{k: v for k, v in change.items() if "config" in file}}))
    assert main(["hf-to-fairseq", str(tmp_path / "hf"), str(tmp_path / "out")]) == EXIT_STATUS
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_head_that_a_tied_configuration_does_not_expect_is_refused(save_t5, tmp_path, capsys):
    save_t5(tmp_path / "hf", feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    path = tmp_path / "hf" / "config.json"
    config = {**json.loads(path.read_text()), "tie_word_embeddings": True}
    config.pop("scale_decoder_outputs", None)
    path.write_text(json.dumps(config))
    assert main(["hf-to-fairseq", str(tmp_path / "hf"), str(tmp_path / "out")]) == EXIT_STATUS
    assert "weight lm_head.weight differs from shared.weight" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["srformer", "segmented"])
@torch.no_grad()
def test_with_one_segment_the_logits_are_the_originals(t5, kind):
    generator = torch.Generator().manual_seed(1)
    sources, targets = (torch.randint(4, ROWS, (3, width), generator=generator) for width in (16, 9))
    targets[:, 0] = 2
    start = their_id(targets)
    start[:, 0] = 0
    expected = t5[1](input_ids=their_id(sources), decoder_input_ids=start).logits[:, :, their_id(torch.arange(ROWS))]
    for size, equal in ((16, True), (5, False)):
        ours, _ = load(t5[2], cross_attention=kind, expected_target_length=9, segment_size=size)
        actual = ours(sources, torch.full((3,), 16), targets)[0]
        assert torch.allclose(actual, expected, rtol=0, atol=1e-5) == equal
        assert actual.isfinite().all()
