"""A converted PRIMERA computes what the original computes with its first token and every <doc-sep> global."""

import json

import pytest
import torch
from conftest import USER_DIR
from convert.conftest import SEPARATOR
from convert.parity import found_by_both, load, logits_of_both, sentences
from convert.tools import LINES, SIZES, binarise, losses_of, run_here
from fairseq_cli import train as fairseq_train

pytest.importorskip("transformers", reason="the development extra (transformers) is not installed")

from data_prep.errors import EXIT_STATUS
from srformer_plugin.convert.cli import fairseq_to_hf, hf_to_fairseq, main
from srformer_plugin.convert.weights import Weights
from srformer_plugin.models.srformer_led import SRformerLEDModel

# fairseq hands NumPy a tensor of lengths
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

# lengths of the three sources of a batch, and where their separators stand; windows are 2 and 4 tokens a side
BATCHES = {
    "unequal numbers": ((24, 12, 17), ([5, 11, 20], [7], [])),
    "none": ((13, 5, 8), ([], [], [])),
    "neighbours": ((24, 12, 3), ([9, 10, 11], [1, 2], [1])),
    "beside a border": ((30, 24, 9), ([3, 8, 16], [4, 7, 12, 15], [2])),
    "in several blocks": ((90, 70, 5), ([30, 63, 64, 89], [65], [])),  # of 64 queries, ours
    "the first and the last": ((16, 8, 2), ([0, 15], [0, 1, 7], [0])),
    "more than others": ((12, 20, 1), (list(range(1, 11)), [6], [])),
}


@pytest.fixture(scope="module")
def primera(save_primera, tmp_path_factory):
    """(folder, model, id of <doc-sep>, folder converted): tests must not change it."""
    folder = tmp_path_factory.mktemp("primera")
    model, separator = save_primera(folder / "hf", seed=10)  # one that generates different things
    hf_to_fairseq(folder / "hf", folder / "fairseq")
    return folder / "hf", model, separator, folder / "fairseq"


def all_are_global(separator):
    """What `transformers` is to be told."""

    def mask(ids):
        mask = ids.eq(separator).long()
        mask[:, 0] = 1
        return {"global_attention_mask": mask}

    return mask


def with_separators(source, places, separator):
    return [separator if place in places else token for place, token in enumerate(source)]


def option_of(folder):
    return torch.load(folder / "model.pt", weights_only=True)["cfg"]["model"].encoder_global_symbol


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("configuration", [{}, {"attention_window": [16, 4, 8], "encoder_layers": 3}], ids=str)
def test_logits_equal_transformers_on_padded_batches(save_primera, tmp_path, configuration, name):
    theirs, separator = save_primera(tmp_path / "hf", **configuration)
    hf_to_fairseq(tmp_path / "hf", tmp_path / "out")
    ours, theirs = load(tmp_path / "out")[0].double(), theirs.double()
    lengths, places = BATCHES[name]
    drawn = sentences(separator, lengths, seed=2)
    sources = [with_separators(source, chosen, separator) for source, chosen in zip(drawn, places)]
    for left in (True, False):
        expected, actual = logits_of_both(
            theirs, ours, separator + 1, more=all_are_global(separator), left=left, sources=sources
        )
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    if any(places):
        without, _ = logits_of_both(theirs, ours, separator + 1, more=all_are_global(-1), sources=sources)
        assert not torch.allclose(without, expected, atol=1e-2)  # the separators matter


def test_beam_search_finds_what_transformers_generate_finds(primera):
    _, theirs, separator, converted = primera

    def change(source):
        """0 to 3 separators, the longer the more."""
        return with_separators(source, [place for place in (4, 10, 11) if place < len(source) - 1], separator)

    expected, found = found_by_both(theirs, converted, 1.0, 1, 0, more=all_are_global(separator), change=change)
    assert found == expected
    assert len({tuple(row) for row in expected}) > 10  # the sources matter
    without, _ = found_by_both(theirs, converted, 1.0, 1, 0, more=all_are_global(-1), change=change)
    assert without != expected


def test_there_and_back_and_there_is_the_identity(primera, tmp_path):
    folder, _, _, converted = primera
    fairseq_to_hf(converted / "model.pt", tmp_path / "back")
    before, after = Weights(folder), Weights(tmp_path / "back")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    hf_to_fairseq(tmp_path / "back", tmp_path / "again")
    before, after = (torch.load(f / "model.pt", weights_only=True) for f in (converted, tmp_path / "again"))
    assert vars(before["cfg"]["model"]) == vars(after["cfg"]["model"])
    assert all(torch.equal(before["model"][name], after["model"][name]) for name in before["model"])


def test_the_symbol_is_that_of_the_tokenizers_separator_or_of_the_token_that_is_named(primera, tmp_path, led_folder):
    folder, _, separator, converted = primera
    dictionary = load(converted)[1].source_dictionary
    assert dictionary.index(option_of(converted)) == separator
    assert load(converted)[0].encoder.global_index == separator
    ids = json.loads((folder / "vocab.json").read_text())
    hf_to_fairseq(folder, tmp_path / "named", global_token="Ġthe")
    assert dictionary.index(option_of(tmp_path / "named")) == ids["Ġthe"]
    assert main(["hf-to-fairseq", str(folder), str(tmp_path / "without"), "--global-token", ""]) == 0
    assert option_of(tmp_path / "without") is None
    hf_to_fairseq(led_folder, tmp_path / "led")
    assert option_of(tmp_path / "led") is None


@pytest.fixture
def led_folder(save_led, tmp_path):
    save_led(tmp_path / "led-hf")
    return tmp_path / "led-hf"


def test_a_token_that_there_is_not_and_another_model_are_one_error(led_folder, bart, tmp_path, capsys):
    for folder, message in ((led_folder, "is no token of the tokenizer in"), (bart[0], "is for LED, and")):
        command = ["hf-to-fairseq", str(folder), str(tmp_path / "out"), "--global-token", SEPARATOR]
        assert main(command) == EXIT_STATUS
        (line,) = capsys.readouterr().err.splitlines()
        assert f"--global-token '{SEPARATOR}' {message}" in line
        assert not (tmp_path / "out").exists()


def test_it_trains_and_its_checkpoint_keeps_the_symbol(transformers, primera, tmp_path, caplog):
    folder, _, separator, converted = primera
    data = binarise(converted, tmp_path / "data", begin="<s> ")
    with caplog.at_level("INFO"):
        run_here(
            fairseq_train, data, "--user-dir", USER_DIR, "--cpu", "--task", "translation", "--arch", "srformer_led",
            *SIZES, "--max-source-positions", 96, "--attention-window", "4,8", "--finetune-from-model",
            converted / "model.pt", "--encoder-global-symbol", option_of(converted), "--optimizer", "adam",
            "--lr", 1e-3, "--batch-size", 2, "--max-update", 1, "--save-dir", tmp_path / "trained",
            "--no-epoch-checkpoints", "--log-format", "simple", "--log-interval", 1, "--num-workers", 0,
            "--disable-validation",
        )  # fmt: skip
    assert len(losses_of(caplog.text)) == 1
    trained = tmp_path / "trained" / "checkpoint_last.pt"
    assert main(["fairseq-to-hf", str(trained), str(tmp_path / "back"), "--tokenizer", str(folder)]) == 0
    again = transformers.LEDForConditionalGeneration.from_pretrained(tmp_path / "back").eval()
    languages = {"source_lang": "source", "target_lang": "target"}
    hub = SRformerLEDModel.from_pretrained(trained.parent, trained.name, converted, prepend_bos=True, **languages)
    ids = hub.encode(f" {SEPARATOR} ".join(LINES))
    assert ids.eq(separator).sum() == 3
    with torch.no_grad():
        expected = again.get_encoder()(ids[None], **all_are_global(separator)(ids[None])).last_hidden_state
        found = hub.model.encoder(ids[None])["encoder_out"][0].transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    name = "led.encoder.layers.0.self_attn.longformer_self_attn.query_global.weight"
    assert not torch.equal(Weights(tmp_path / "back")[name], Weights(folder)[name])  # it was trained
