"""A converted LED computes what the original computes with its first token global, and fairseq's tools run on it."""

import json
import re
import shutil

import pytest
import torch
from conftest import USER_DIR
from convert.parity import found_by_both, load, logits_of_both
from convert.tools import LINES, SIZES, binarise, losses_of, run_here
from fairseq_cli import generate as fairseq_generate
from fairseq_cli import train as fairseq_train

pytest.importorskip("transformers", reason="the development extra (transformers) is not installed")

from data_prep.errors import EXIT_STATUS
from srformer_plugin.convert.cli import fairseq_to_hf, hf_to_fairseq, main
from srformer_plugin.convert.weights import Weights
from srformer_plugin.models.srformer_led import SRformerLEDModel

# fairseq hands NumPy a tensor of lengths
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")


def first_is_global(ids):
    """What `transformers` is to be told."""
    mask = torch.zeros_like(ids)
    mask[:, 0] = 1
    return {"global_attention_mask": mask}


@pytest.fixture(scope="module")
def led(save_led, tmp_path_factory):
    """(folder, model, folder converted): one small LED that tests must not change."""
    folder = tmp_path_factory.mktemp("led")
    model = save_led(folder / "hf", seed=7)  # one that generates different things
    hf_to_fairseq(folder / "hf", folder / "fairseq")
    return folder / "hf", model, folder / "fairseq"


@pytest.mark.parametrize(
    ("configuration", "lengths"),
    [
        ({}, (13, 5, 8)),
        ({}, (24, 12, 1)),  # one a multiple of the windows, one token alone
        ({"attention_window": 4, "activation_function": "relu", "vocab_size": 400}, (31, 3, 17)),
        ({"attention_window": [64, 4, 16], "encoder_layers": 3, "decoder_layers": 1}, (13, 30, 2)),
        ({"encoder_attention_heads": 4, "encoder_ffn_dim": 24, "activation_function": "gelu_new"}, (70, 41, 5)),
    ],
    ids=["default", "multiple", "narrow-relu", "beyond the source", "long"],
)
def test_logits_equal_transformers_on_padded_batches(save_led, tmp_path, configuration, lengths):
    theirs = save_led(tmp_path / "hf", **configuration)
    hf_to_fairseq(tmp_path / "hf", tmp_path / "out")
    # float32 would add up to 2e-5 of rounding, theirs more than ours
    ours, theirs = load(tmp_path / "out")[0].double(), theirs.double()
    rows = theirs.config.vocab_size
    for left in (True, False):
        expected, actual = logits_of_both(theirs, ours, rows, more=first_is_global, lengths=lengths, left=left)
        assert expected.std() > 0.5  # far from uniform: a wrong weight would show
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    without, _ = logits_of_both(theirs, ours, rows, lengths=lengths)
    assert not torch.allclose(without, expected, atol=1e-2)  # the global token matters


@pytest.mark.parametrize(("penalty", "shortest", "ngram"), [(1.0, 1, 0), (1.5, 3, 3)], ids=["plain", "long"])
def test_beam_search_finds_what_transformers_generate_finds(led, penalty, shortest, ngram):
    _, theirs, converted = led
    expected, found = found_by_both(theirs, converted, penalty, shortest, ngram, more=first_is_global)
    assert found == expected
    assert len({tuple(row) for row in expected}) > 10  # the sources matter
    assert len({len(row) for row in expected}) > 1


def check_same_weights(one, other):
    before, after = Weights(one), Weights(other)
    assert before.keys() == after.keys()
    for name in before:
        assert after[name].dtype == before[name].dtype
        assert torch.equal(before[name], after[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_there_and_back_is_the_identity_for_every_weight(transformers, save_led, tmp_path, dtype):
    theirs = save_led(tmp_path / "hf", dtype=dtype, dropout=0.2)
    hf_to_fairseq(tmp_path / "hf", tmp_path / "fairseq")
    fairseq_to_hf(tmp_path / "fairseq" / "model.pt", tmp_path / "back")
    check_same_weights(tmp_path / "hf", tmp_path / "back")
    again = transformers.LEDForConditionalGeneration.from_pretrained(tmp_path / "back")
    assert again.dtype == dtype
    wanted, got = theirs.config.to_dict(), again.config.to_dict()
    assert {k for k in wanted if wanted[k] != got.get(k)} <= {"architectures", "_name_or_path"}


def test_back_and_there_is_the_identity_for_a_fairseq_checkpoint(led, tmp_path):
    """But for the two rows of position embeddings that nothing reads."""
    fairseq_to_hf(led[2] / "model.pt", tmp_path / "hf")
    hf_to_fairseq(tmp_path / "hf", tmp_path / "again")
    before, after = (torch.load(f / "model.pt", weights_only=True) for f in (led[2], tmp_path / "again"))
    assert before["model"].keys() == after["model"].keys()
    assert all(torch.equal(before["model"][name], after["model"][name]) for name in before["model"])
    assert vars(before["cfg"]["model"]) == vars(after["cfg"]["model"])


def test_a_bare_model_without_prefix_and_head_is_taken(save_led, tmp_path):
    theirs = save_led(tmp_path / "hf", kind="LEDModel")
    hf_to_fairseq(tmp_path / "hf", tmp_path / "out")
    ours, _ = load(tmp_path / "out")
    expected = theirs.encoder.layers[1].self_attn.longformer_self_attn.value_global.weight
    assert torch.equal(ours.encoder.layers[1].self_attn.global_v_proj.weight, expected)
    assert torch.equal(ours.encoder.embed_positions.weight[2:], theirs.encoder.embed_positions.weight)


def test_files_with_every_name_of_a_tied_weight_are_taken(led, tmp_path):
    """As `transformers` wrote them when the published checkpoints were made."""
    folder = shutil.copytree(led[0], tmp_path / "hf")
    weights = {name: tensor.clone() for name, tensor in Weights(folder).items()}
    (folder / "model.safetensors").unlink()
    for name in ("led.encoder.embed_tokens.weight", "led.decoder.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights["led.shared.weight"].clone()
    torch.save(weights, folder / "pytorch_model.bin")
    hf_to_fairseq(folder, tmp_path / "out")
    before, after = (torch.load(f / "model.pt", weights_only=True)["model"] for f in (led[2], tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_every_weight_is_accounted_for(led, tmp_path, capsys):
    assert main(["hf-to-fairseq", str(led[0]), str(tmp_path / "out"), "--verbose"]) == 0
    output = capsys.readouterr().out
    assert "encoder.embed_positions.weight: 2 rows of zeros before, which fairseq reserves" in output
    name = "led.encoder.layers.0.self_attn.longformer_self_attn.query_global.bias"
    assert f"{name} -> encoder.layers.0.self_attn.global_q_proj.bias (32,) float32" in output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_window": [4, 5]}, "attention_window [4, 5]: LED's is an even number"),
        ({"attention_window": [4, 4, 4]}, "one for each of the 2 encoder layers"),
        ({"attention_window": 0}, "attention_window 0: LED's is an even number"),
        ({"activation_function": "silu"}, "activation_function in config.json is silu, but only gelu, relu"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings False, but srformer_led has True"),
        ({"scale_embedding": True}, "scale_embedding True, but LED has False"),
        ({"pad_token_id": 3}, "pad_token_id 3, but srformer_led has 1"),
        ({"max_encoder_position_embeddings": 80}, "has shape (96, 32), but the configuration asks for (80, 32)"),
        ({"model_type": "longformer"}, "model_type 'longformer', but only bart, led, t5 can be converted"),
        ({"encoder_layers": 3, "attention_window": 4}, "weight led.encoder.layers.2.self_attn.longformer_self_attn."),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_error_that_names_it(led, tmp_path, capsys, change, message):
    folder = shutil.copytree(led[0], tmp_path / "hf")
    for file in ("config.json", "generation_config.json"):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **{k: v for k, v in change.items() if "config" in file}}))
    assert main(["hf-to-fairseq", str(folder), str(tmp_path / "out")]) == EXIT_STATUS
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_segmented_or_scaled_led_is_not_converted_back(led, tmp_path, capsys):
    source = str(led[2] / "model.pt")
    assert main(["change-attention", source, str(tmp_path / "content.pt"), "--segment-schedule", "content"]) == 0
    assert main(["fairseq-to-hf", str(tmp_path / "content.pt"), str(tmp_path / "out")]) == EXIT_STATUS
    assert "the checkpoint has --cross-attention segmented" in capsys.readouterr().err
    content = torch.load(source, weights_only=True)
    content["cfg"]["model"].no_scale_embedding = False
    torch.save(content, tmp_path / "scaled.pt")
    assert main(["fairseq-to-hf", str(tmp_path / "scaled.pt"), str(tmp_path / "out")]) == EXIT_STATUS
    assert "LED does not scale embeddings" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_hub_answers_as_transformers_does(transformers, led):
    folder, theirs, converted = led
    hub = SRformerLEDModel.from_pretrained(converted)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in LINES[:3]:
        ids = hub.encode(text)
        assert ids.tolist() == tokenizer(text).input_ids  # begins with <s>
        with torch.no_grad():
            expected = theirs.get_encoder()(ids[None], **first_is_global(ids[None])).last_hidden_state
            torch.testing.assert_close(
                hub.model.encoder(ids[None], torch.tensor([len(ids)]))["encoder_out"][0].transpose(0, 1),
                expected,
                rtol=0,
                atol=1e-5,
            )
    assert len(set(hub.sample(LINES, beam=4, max_len_b=8))) > 1


def test_the_hub_cuts_a_source_that_is_too_long(led, caplog):
    hub = SRformerLEDModel.from_pretrained(led[2])
    with caplog.at_level("INFO"):
        ids = hub.encode("naïve " * 60)
    assert len(ids) == 96 and ids[0] == 0 and ids[-1] == 2
    assert "is truncated to 96" in caplog.text


@pytest.mark.parametrize(
    ("options", "fewer"),
    [
        ({"segment_schedule": "content", "segment_size": 4, "segments_per_query": 64}, {"segments_per_query": 1}),
        ({"cross_attention": "srformer", "expected_target_length": 9, "segment_size": 16}, {"segment_size": 4}),
    ],
    ids=["content", "clock"],
)
def test_with_another_cross_attention_to_all_of_the_source_nothing_changes(led, options, fewer):
    _, theirs, converted = led
    for changed, equal in ((options, True), ({**options, **fewer}, False)):
        ours = SRformerLEDModel.from_pretrained(converted, **changed).models[0]
        assert not ours.decoder.settings.is_full
        expected, actual = logits_of_both(theirs, ours, theirs.config.vocab_size, more=first_is_global)
        assert torch.allclose(actual, expected, rtol=0, atol=1e-4) == equal


def test_it_decodes_trains_and_goes_back(transformers, led, tmp_path, caplog):
    """convert -> fairseq-generate -> two updates -> a folder that transformers reads."""
    folder, _, converted = led
    data = binarise(converted, tmp_path / "data", begin="<s> ")
    common = ["--user-dir", USER_DIR, "--cpu"]
    for name, task in (("stock", []), ("fast", ["--task", "summarization", "--fast-generate"])):
        run_here(
            fairseq_generate, data, *common, *task, "--path", converted / "model.pt", "--beam", 4, "--max-len-b", 10,
            "--results-path", tmp_path / name, "--num-workers", 0,
        )  # fmt: skip
    stock, fast = (
        re.findall(r"^H-(\d)\t\S+\t(.*)$", (tmp_path / name / "generate-test.txt").read_text(), flags=re.M)
        for name in ("stock", "fast")
    )
    assert stock == fast and sorted(number for number, _ in stock) == ["0", "1", "2", "3"]

    with caplog.at_level("INFO"):
        run_here(
            fairseq_train, data, *common, "--task", "translation", "--arch", "srformer_led", *SIZES,
            "--max-source-positions", 96, "--attention-window", "4,8", "--restore-file", converted / "model.pt",
            "--truncate-source", "--optimizer", "adam", "--lr", 1e-3, "--batch-size", 2, "--max-update", 2,
            "--save-dir", tmp_path / "trained", "--no-epoch-checkpoints", "--log-format", "simple",
            "--log-interval", 1, "--num-workers", 0,
        )  # fmt: skip
    assert len(losses_of(caplog.text)) == 2
    assert main(["fairseq-to-hf", str(tmp_path / "trained" / "checkpoint_last.pt"), str(tmp_path / "back"),
                 "--tokenizer", str(folder)]) == 0  # fmt: skip
    again = transformers.LEDForConditionalGeneration.from_pretrained(tmp_path / "back").eval()
    ours, _ = load(converted)
    ours.load_state_dict(torch.load(tmp_path / "trained" / "checkpoint_last.pt", weights_only=True)["model"])
    expected, actual = logits_of_both(again, ours.eval(), again.config.vocab_size, more=first_is_global)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    name = "led.encoder.layers.0.self_attn.longformer_self_attn.key_global.weight"
    assert not torch.equal(Weights(tmp_path / "back")[name], Weights(folder)[name])  # it was trained
