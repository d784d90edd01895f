"""What cannot be converted is one clear error, nothing is executed, and nothing is left half written."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

pytest.importorskip("transformers", reason="the development extra (transformers) is not installed")

from safetensors.torch import load_file, save_file

from data_prep.errors import EXIT_STATUS
from srformer_plugin.convert import cli
from srformer_plugin.convert.weights import Weights, check_numbers
from srformer_plugin.errors import ConfigurationError


@pytest.fixture
def folder(bart, tmp_path):
    """A copy of the small BART, to be damaged."""
    return shutil.copytree(bart[0], tmp_path / "hf")


@pytest.fixture
def convert(capsys):
    """Run the command line; returns (exit status, standard output, standard error)."""

    def run(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


def change_json(path, **values):
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def only_tokenizer_json(folder, **content):
    (folder / "vocab.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(content))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


ROOT = Path(__file__).resolve().parents[2]
LAYER = "model.decoder.layers.1"
DAMAGES = {
    "an unknown weight": (
        lambda folder: change_weights(folder, lambda w: w.update({"classification_head.dense.weight": torch.ones(2)})),
        "weight classification_head.dense.weight is unknown",
    ),
    "a missing weight": (
        lambda folder: change_weights(folder, lambda w: w.pop(f"{LAYER}.encoder_attn.k_proj.bias")),
        f"weight {LAYER}.encoder_attn.k_proj.bias is missing",
    ),
    "a shape": (
        lambda folder: change_weights(folder, lambda w: w.update({f"{LAYER}.fc1.weight": torch.ones(40, 32)})),
        rf"weight {LAYER}.fc1.weight has shape \(40, 32\), but the configuration asks for \(48, 32\)",
    ),
    "an untied output": (
        lambda folder: change_weights(
            folder, lambda w: w.update({"lm_head.weight": torch.zeros_like(w["model.shared.weight"])})
        ),
        "weight lm_head.weight differs from model.shared.weight",
    ),
    "a bias of the output": (
        lambda folder: change_weights(folder, lambda w: w["final_logits_bias"].add_(1)),
        "weight final_logits_bias is not zero",
    ),
    "integers": (
        lambda folder: change_weights(
            folder, lambda w: w.update({f"{LAYER}.fc2.bias": torch.ones(32, dtype=torch.int64)})
        ),
        f"weight {LAYER}.fc2.bias is not of floating point but torch.int64",
    ),
    "another kind of model": (
        lambda folder: change_json(folder / "config.json", model_type="mbart"),
        "config.json has model_type 'mbart', but only bart",
    ),
    "an old feature": (
        lambda folder: change_json(folder / "config.json", normalize_before=True),
        "config.json has normalize_before True",
    ),
    "an activation": (
        lambda folder: change_json(folder / "config.json", activation_function="silu"),
        "activation_function in config.json is silu, but only gelu, relu",
    ),
    "an activation that is none": (
        lambda folder: change_json(folder / "config.json", activation_function=["gelu"]),
        r"activation_function in config.json is \['gelu'\], but only gelu, relu",
    ),
    "a size that is a text": (
        lambda folder: change_json(folder / "config.json", encoder_layers="2"),
        "config.json has encoder_layers '2', which must be a whole number from 1 on",
    ),
    "a size below 1": (
        lambda folder: change_json(folder / "config.json", decoder_attention_heads=0),
        "config.json has decoder_attention_heads 0, which must be a whole number from 1 on",
    ),
    "a rate that is none": (
        lambda folder: change_json(folder / "config.json", dropout=1.5),
        "config.json has dropout 1.5, which must be a number from 0 to 1",
    ),
    "a switch that is none": (
        lambda folder: change_json(folder / "config.json", scale_embedding="no"),
        "config.json has scale_embedding 'no', which must be true or false",
    ),
    "a special id": (
        lambda folder: change_json(folder / "generation_config.json", decoder_start_token_id=0),
        "has decoder_start_token_id 0, but fairseq's BART has 2",
    ),
    "no size": (lambda folder: change_json(folder / "config.json", vocab_size=None), "has no vocab_size"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json is no JSON"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read: No such file"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "hf has no weights"),
    "torn weights": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000]),
        "model.safetensors is damaged",
    ),
    "no tokenizer": (lambda folder: (folder / "merges.txt").unlink(), "has no tokenizer"),
    "a tokenizer of more tokens": (
        lambda folder: change_json(folder / "vocab.json", **{"one": 360, "more": 361}),
        "the tokenizer has 362 tokens, but the embedding has only 360 rows",
    ),
    "a tokenizer with gaps": (lambda folder: change_json(folder / "vocab.json", one=999), "have gaps or repeat"),
    "an id that is no number": (
        lambda folder: change_json(folder / "vocab.json", one="7"),
        "vocab.json is damaged: an id of a token is no whole number",
    ),
    "a tokenizer.json without a model": (
        lambda folder: only_tokenizer_json(folder, model=[]),
        "tokenizer.json is a None tokenizer",
    ),
    "a tokenizer.json without merges": (
        lambda folder: only_tokenizer_json(folder, model={"type": "BPE", "vocab": {"a": 1}, "merges": [1]}),
        "tokenizer.json is damaged: a BPE has a vocab",
    ),
    "a token with a space": (
        lambda folder: change_json(folder / "vocab.json", **{"<mask>": None, "a b": 359}),
        "cannot hold the token 'a b'",
    ),
    "special tokens elsewhere": (
        lambda folder: change_json(folder / "vocab.json", **{"<s>": 1, "<pad>": 0}),
        "begins with .'<pad>', '<s>'",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_does_not_fit_is_one_error_that_names_it(folder, tmp_path, convert, kind):
    damage, message = DAMAGES[kind]
    damage(folder)
    status, output, errors = convert("hf-to-fairseq", folder, tmp_path / "out")
    assert status == EXIT_STATUS
    assert output == ""
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line), line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]  # nothing half written


class Malicious:
    """Runs code where it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickle_with_code_is_refused_and_not_run(folder, tmp_path, convert, legacy):
    weights = {**load_file(folder / "model.safetensors"), "evil": Malicious(tmp_path / "ran")}
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    status, _, errors = convert("hf-to-fairseq", folder, tmp_path / "out")
    assert status == EXIT_STATUS
    assert f"{folder / 'pytorch_model.bin'} is refused" in errors
    assert not (tmp_path / "ran").exists()


def test_wrong_bytes_of_pickled_weights_are_noticed(folder, tmp_path, convert):
    pickled = folder / "pytorch_model.bin"
    torch.save(load_file(folder / "model.safetensors"), pickled)
    (folder / "model.safetensors").unlink()
    content = bytearray(pickled.read_bytes())
    content[len(content) // 2] ^= 1
    pickled.write_bytes(content)
    status, _, errors = convert("hf-to-fairseq", folder, tmp_path / "out")
    assert status == EXIT_STATUS
    assert errors.startswith(f"error: {pickled} is damaged (") and errors.endswith("get it again\n")


@pytest.mark.parametrize("shards", [False, True], ids=["whole", "shards"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -2e6])
def test_weights_that_no_model_has_are_noticed_without_checksums(value, shards, folder, tmp_path, convert):
    """safetensors has no checksums: what a flipped bit or a block of other bytes makes of a number is all there is."""
    path, name = folder / "model.safetensors", "model.encoder.layers.0.fc1.weight"
    weights = load_file(path)
    weights[name][1, 2] = value
    if shards:
        path.unlink()
        path = folder / "model-00001-of-00001.safetensors"
        index = {"weight_map": dict.fromkeys(weights, path.name)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(weights, path, {"format": "pt"})
    status, _, errors = convert("hf-to-fairseq", folder, tmp_path / "out")
    assert status == EXIT_STATUS
    assert errors.startswith(f"error: {path}: {name} has numbers from ")
    assert errors.endswith(" as no trained model has: the file is damaged, get it again\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64])
def test_weights_of_any_kind_are_looked_at(dtype):
    check_numbers(torch.ones(3).to(dtype), "it")
    check_numbers(torch.ones(0).to(dtype), "it")
    if dtype.is_floating_point:
        with pytest.raises(ConfigurationError, match="^it has numbers from nan to nan"):
            check_numbers(torch.tensor([0.0, float("nan")]).to(dtype), "it")


WRONG = {
    "kind": lambda content: content.replace(b'"F32"', b'"G32"', 1),
    "shape": lambda content: content.replace(b'"shape":[', b'"shape":[9', 1),
    "offset": lambda content: content.replace(b'_offsets":[', b'_offsets":[9', 1),
    "length of the header": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "end": lambda content: content[:-1],
}


@pytest.mark.parametrize("place", WRONG)
def test_wrong_bytes_before_the_numbers_and_a_missing_end_are_noticed(place, folder, tmp_path, convert):
    path = folder / "model.safetensors"
    path.write_bytes(WRONG[place](path.read_bytes()))
    status, _, errors = convert("hf-to-fairseq", folder, tmp_path / "out")
    assert status == EXIT_STATUS
    assert errors.startswith(f"error: {path} is damaged or no safetensors file: ")


def test_a_fairseq_checkpoint_with_code_is_refused_and_not_run(converted_bart, tmp_path, convert):
    content = torch.load(converted_bart / "model.pt", weights_only=True)
    (tmp_path / "in").mkdir()
    torch.save({**content, "extra_state": Malicious(tmp_path / "ran")}, tmp_path / "in" / "evil.pt")
    status, _, errors = convert("fairseq-to-hf", tmp_path / "in" / "evil.pt", tmp_path / "out")
    assert status == EXIT_STATUS
    assert "evil.pt is refused" in errors
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("layout", ["pickle", "legacy pickle", "safetensors in parts", "pickle in parts"])
def test_every_layout_of_weights_is_read(bart, folder, converted_bart, tmp_path, convert, layout):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if "parts" in layout:
        whole, save = ("model.safetensors", save_file) if "safetensors" in layout else ("pytorch_model.bin", torch.save)
        names = sorted(weights)
        parts = {f"part-{i}": names[i::3] for i in range(3)}
        for part, members in parts.items():
            save({name: weights[name] for name in members}, folder / part)
        index = {"weight_map": {name: part for part, members in parts.items() for name in members}}
        (folder / f"{whole}.index.json").write_text(json.dumps(index))
    else:
        torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization="legacy" not in layout)
    assert convert("hf-to-fairseq", folder, tmp_path / "out")[0] == 0
    expected, found = (
        torch.load(f / "model.pt", weights_only=True)["model"] for f in (converted_bart, tmp_path / "out")
    )
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "../part"}, "places a outside of its folder"),
        ({"a": "/part"}, "places a outside of its folder"),
        ({"a": "gone"}, "lacks gone"),
        ({"b": "part"}, "part lacks b"),
        ({}, "has no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, files, message):
    save_file({"a": torch.ones(1)}, tmp_path / "part")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(cli.ConfigurationError, match=message):
        Weights(tmp_path)


def test_tokenizer_json_gives_the_same_dictionary(transformers, folder, converted_bart, tmp_path, convert):
    transformers.BartTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "fast")
    (folder / "vocab.json").unlink()
    shutil.copy(tmp_path / "fast" / "tokenizer.json", folder)
    assert convert("hf-to-fairseq", folder, tmp_path / "out")[0] == 0
    for name in ("dict.source.txt", "dict.target.txt", "encoder.json", "vocab.bpe"):
        assert (tmp_path / "out" / name).read_text() == (converted_bart / name).read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cross_attention": "srformer"}, "--cross-attention srformer: Hugging Face's models attend to the whole"),
        ({"encoder_normalize_before": True}, "Hugging Face's BART has no --encoder-normalize-before True"),
        ({"activation_fn": "swish"}, "--activation-fn is swish, but only gelu, relu"),
        ({"max_source_positions": 99}, "one max_position_embeddings .* not --max-source-positions 99 and"),
        ({"arch": "transformer"}, "has model 'transformer', but only bart, srformer_bart"),
        ({"arch": "gone"}, "architecture 'gone', which is unknown here"),
    ],
)
def test_a_fairseq_model_that_hugging_face_cannot_have_is_refused(converted_bart, tmp_path, convert, change, message):
    content = torch.load(converted_bart / "model.pt", weights_only=True)
    vars(content["cfg"]["model"]).update(change)
    (tmp_path / "in").mkdir()
    torch.save(content, tmp_path / "in" / "model.pt")
    status, _, errors = convert("fairseq-to-hf", tmp_path / "in" / "model.pt", tmp_path / "out")
    assert status == EXIT_STATUS
    assert re.search(message, errors), errors
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, convert):
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"a": 1}, tmp_path / "other.pt")
    for name, message in (("gone.pt", "cannot be read"), ("text.pt", "text.pt"), ("other.pt", "no fairseq checkpoint")):
        status, _, errors = convert("fairseq-to-hf", tmp_path / name, tmp_path / "out")
        assert status == EXIT_STATUS
        assert message in errors


def test_an_existing_folder_is_replaced_only_if_asked_and_only_if_it_is_ours(folder, tmp_path, convert):
    out = tmp_path / "out"
    assert convert("hf-to-fairseq", folder, out)[0] == 0
    (out / "model.pt").write_text("old")
    status, _, errors = convert("hf-to-fairseq", folder, out)
    assert status == EXIT_STATUS
    assert f"{out} exists; --force replaces it" in errors
    assert convert("hf-to-fairseq", folder, out, "--force")[0] == 0
    assert (out / "model.pt").stat().st_size > 1000
    (out / "thesis.tex").touch()
    status, _, errors = convert("hf-to-fairseq", folder, out, "--force")
    assert status == EXIT_STATUS
    assert "it also holds thesis.tex" in errors
    assert (out / "thesis.tex").exists()
    for inside in (folder, folder.parent):
        status, _, errors = convert("hf-to-fairseq", folder, inside, "--force")
        assert status == EXIT_STATUS
        assert "holds the input" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "out"]


def test_a_failure_leaves_the_old_folder_as_it_was(folder, tmp_path, convert, monkeypatch):
    out = tmp_path / "out"
    assert convert("hf-to-fairseq", folder, out)[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_utils, "torch_persistent_save", full_disk)
    status, _, errors = convert("hf-to-fairseq", folder, out, "--force")
    assert status == EXIT_STATUS
    assert "No space left on device" in errors
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "out"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one_there(folder, tmp_path, convert, monkeypatch):
    out = tmp_path / "out"
    assert convert("hf-to-fairseq", folder, out)[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    rename, refusals = Path.rename, []

    def refused(self, target):
        if target == out and not refusals:  # the new folder; the old one goes back after it
            refusals.append(self)
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    assert convert("hf-to-fairseq", folder, out, "--force")[0] == EXIT_STATUS
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "out"]


def test_verbose_says_what_every_weight_became(bart, tmp_path, convert):
    status, output, _ = convert("hf-to-fairseq", bart[0], tmp_path / "out", "--verbose")
    assert status == 0
    for name in Weights(bart[0]):
        assert f"\n{name} -> " in f"\n{output}"
    assert "final_logits_bias -> dropped: all zeros" in output
    assert "model.shared.weight -> encoder.embed_tokens.weight (360, 32) float32" in output
    assert "encoder.embed_tokens.weight -> also decoder.output_projection.weight (tied)" in output
    assert output.splitlines()[-1] == f"wrote {tmp_path / 'out'}"


AS_A_MODULE = """
import runpy, sys
import srformer_plugin
heavy = {"srformer_plugin.convert", "nltk", "safetensors", "transformers", "triton"}
print(sorted(heavy & set(sys.modules)))
sys.argv = ["srformer-convert", "hf-to-fairseq", "--help"]
runpy.run_module("srformer_plugin.convert", run_name="__main__")
"""


def test_importing_the_plugin_is_quiet_and_leaves_triton_and_the_converters_out_which_run_as_a_module():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", AS_A_MODULE]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("[]\nusage: srformer-convert hf-to-fairseq")
    assert all(word in done.stdout for word in ("HF_DIR", "OUT_DIR", "--force", "--verbose"))


def test_pickles_of_this_test_are_dangerous_at_all(tmp_path):
    pickle.loads(pickle.dumps(Malicious(tmp_path / "ran"))).close()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", [0, 100, 60_000])
def test_a_full_disk_is_said_in_one_line(size, bart, converted_bart, convert, tmp_path, full_disk):
    content = ["--segment-schedule", "content", "--segment-size", "2"]
    for arguments in (
        ("hf-to-fairseq", bart[0], tmp_path / "out"),
        ("fairseq-to-hf", converted_bart / "model.pt", tmp_path / "out"),
        ("change-attention", converted_bart / "model.pt", tmp_path / "out", *content),
    ):
        with full_disk(size):
            status, out, err = convert(*arguments)
        assert (status, out) == (EXIT_STATUS, "")
        assert re.fullmatch(rf"error: .*{re.escape(str(tmp_path))}/.*: .*File too large.*\n", err)
    assert not list(tmp_path.iterdir())
