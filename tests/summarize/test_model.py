"""Loading a model and summarising texts with it, from Python."""

import json
import logging
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import open_dict
from summarize.conftest import TEXTS

import srformer_plugin
from srformer_plugin import summarize
from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.checkpoint_file import load
from srformer_plugin.models.srformer_bart import SRformerBARTModel
from srformer_plugin.models.srformer_t5 import SRformerT5Model
from srformer_plugin.summarize.model import batches
from srformer_plugin.summarize.tokens import Tokenizer


def test_a_summary_is_what_the_models_own_interface_finds(model, converted_bart):
    hub = SRformerBARTModel.from_pretrained(converted_bart)
    expected = hub.sample(TEXTS, beam=4, lenpen=2.0, min_len=2, max_len_b=20, no_repeat_ngram_size=3)
    assert model.summarize(TEXTS) == [" ".join(text.split()) for text in expected]


def test_what_goes_on_is_not_logged(converted_bart, caplog):
    """From Python; the command says progress itself."""
    logging.getLogger("fairseq").setLevel(logging.INFO)
    srformer_plugin.summarize(TEXTS[0], converted_bart)
    assert [one.message for one in caplog.records if one.levelno < logging.WARNING] == []
    assert logging.getLogger("fairseq").level == logging.INFO


@pytest.mark.parametrize("max_tokens", [1, 60, 10_000])
def test_summaries_come_in_order_whatever_the_batches(model, max_tokens):
    alone = [model.summarize(text) for text in TEXTS]
    assert len(set(alone)) == len(TEXTS)
    assert model.summarize(TEXTS, max_tokens=max_tokens) == alone


@given(st.lists(st.integers(1, 50)), st.integers(1, 120))
def test_batches_hold_every_text_once_and_no_more_tokens_than_asked_for(lengths, max_tokens):
    found = batches(dict(enumerate(lengths)), max_tokens)
    assert sorted(number for batch in found for number in batch) == list(range(len(lengths)))
    longest = [max(lengths[number] for number in batch) for batch in found]
    assert all(len(batch) == 1 or len(batch) * most <= max_tokens for batch, most in zip(found, longest))
    assert longest == sorted(longest, reverse=True)


def test_settings_of_a_call_count_for_that_call(model):
    before = model.summarize(TEXTS)
    (summary,) = model.summarize_texts(TEXTS[:1], min_len=9, max_len=9)
    assert len(summary.ids) == 10
    assert model.summarize(TEXTS, beam=1, lenpen=0.1) != before
    assert model.summarize(TEXTS) == before


def test_white_space_of_any_kind_is_one_space(model):
    spread = TEXTS[0].replace(" ", "\r\n\t ")
    assert model.summarize(f"\n{spread}\n\n") == model.summarize(TEXTS[0])


def test_an_empty_text_is_named(model):
    with pytest.raises(ConfigurationError, match="text 1: it is empty"):
        model.summarize(["the bridge", " \n"])
    with pytest.raises(ConfigurationError, match="text 1 is None, which is no str"):
        model.summarize(["the bridge", None])
    assert [s.error for s in model.summarize_texts(["the bridge", ""])] == [None, "it is empty"]


def test_half_of_a_surrogate_pair_is_named(model, converted_bart):
    """JSON can express it, and UTF-8 cannot."""
    half = "the \ud83d bridge"
    found = model.summarize_texts(["the bridge", half])
    assert found[0].error is None and "surrogate" in found[1].error
    stream = model.open_stream()
    for call in (lambda: model.summarize([half]), lambda: model.hub.sample(half), lambda: stream.append(half)):
        with pytest.raises(ConfigurationError, match="surrogate"):
            call()
    assert stream.words == 0
    with pytest.raises(ConfigurationError, match="--prefix"):
        summarize.load(converted_bart, prefix="\udce9")


def test_a_text_whose_search_fails_does_not_take_the_others_along(model, monkeypatch):
    """As where no hypothesis can end: it is an error of the batch."""
    summaries = model.summarize_texts(TEXTS)
    lengths = [summary.source_tokens for summary in summaries]
    poisoned = lengths.index(max(lengths))
    search = model._search

    def failing(sources, settings):
        if any(len(ids) == max(lengths) for ids in sources):
            raise ConfigurationError("no hypothesis of a sentence could end")
        return search(sources, settings)

    monkeypatch.setattr(model, "_search", failing)
    found = model.summarize_texts(TEXTS)
    assert found[poisoned].error == "no hypothesis of a sentence could end"
    others = [number for number in range(len(TEXTS)) if number != poisoned]
    assert [found[n].text for n in others] == [summaries[n].text for n in others]


def test_a_t5_gets_its_prefix(t5):
    folder = t5[2]
    hub = SRformerT5Model.from_pretrained(folder)
    settings = {"beam": 2, "lenpen": 1.0, "min_len": 2, "no_repeat_ngram_size": 0}
    expected = hub.sample("summarize: the city council opened a new bridge .", max_len_b=9, **settings)
    text = "the city council opened a new bridge ."
    assert summarize.load(folder, prefix="summarize: ", max_len=9, **settings).summarize(text) == expected
    assert summarize.load(folder, max_len=9, **settings).summarize(text) != expected


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_tokens_of_words_are_those_of_the_line(family, converted_bart, t5):
    if family == "bart":
        hub = SRformerBARTModel.from_pretrained(converted_bart)
    else:
        hub = SRformerT5Model.from_pretrained(t5[2])
    tokenizer = Tokenizer(hub)

    @given(st.text(st.sampled_from("the councilopened.,'’é½¨ﬁ½　\u00adstorm東京1 \n") | st.characters(codec="utf-8")))
    def check(text):
        line = " ".join(text.split())
        whole = hub.apply_bpe(line).split()
        expected = [hub.task.source_dictionary.index(piece) for piece in whole]
        assert tokenizer.of_words(line.split()) == expected
        assert tokenizer.encode(text)[len(tokenizer.start) :] == [*expected, hub.task.source_dictionary.eos()]

    check()


def test_a_folder_of_huggingface_gives_what_the_converted_one_gives(model, bart, tmp_path):
    direct = summarize.load(bart[0], cache_dir=tmp_path, max_len=20, min_len=2, lenpen=2.0, beam=4)
    assert direct.summarize(TEXTS, no_repeat_ngram_size=3) == model.summarize(TEXTS)


def test_a_folder_of_huggingface_has_its_own_dictionary(bart, converted_bart, tmp_path):
    with pytest.raises(ConfigurationError, match="--data .* is a Hugging Face folder"):
        summarize.load(bart[0], data=converted_bart, cache_dir=tmp_path)


def test_dictionaries_may_lie_elsewhere(converted_bart, model, tmp_path):
    """As after a training: the checkpoint in one folder, the dictionaries in another."""
    (tmp_path / "checkpoints").mkdir()
    shutil.copyfile(converted_bart / "model.pt", tmp_path / "checkpoints" / "checkpoint_best.pt")
    (tmp_path / "checkpoints" / "model.pt").write_bytes(b"of another time")
    with pytest.raises(ConfigurationError, match=r"dict\.\*\.txt.*--data"):
        summarize.load(tmp_path / "checkpoints")
    found = summarize.load(tmp_path / "checkpoints", data=converted_bart, max_len=20, min_len=2)
    assert found.summarize(TEXTS) == model.summarize(TEXTS)


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe"])
def test_a_dictionary_of_subwords_without_their_file_is_an_error(converted_bart, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(converted_bart, folder)
    (folder / name).unlink()
    with pytest.raises(ConfigurationError, match="encoder.json and vocab.bpe"):
        summarize.load(folder)


@pytest.mark.parametrize("is_there", [True, False])
def test_subwords_may_lie_where_the_training_found_them(model, converted_bart, tmp_path, is_there):
    """As after a recipe: only --eval-rouge-bpe-args says where."""
    folder, elsewhere = tmp_path / "model", tmp_path / "gpt2"
    shutil.copytree(converted_bart, folder)
    elsewhere.mkdir()
    files = {"gpt2_encoder_json": elsewhere / "encoder.json", "gpt2_vocab_bpe": elsewhere / "vocab.bpe"}
    for file in files.values():
        shutil.move(folder / file.name, file)
    content = load(folder / "model.pt")
    with open_dict(content["cfg"]):
        content["cfg"]["task"] = {
            **content["cfg"]["task"],
            "_name": "summarization",
            "eval_rouge_bpe": "gpt2",
            "eval_rouge_bpe_args": json.dumps({name: str(file) for name, file in files.items()}),
        }
    torch.save(content, folder / "model.pt")
    if is_there:
        assert summarize.load(folder, max_len=20, min_len=2).summarize(TEXTS) == model.summarize(TEXTS)
        return
    files["gpt2_vocab_bpe"].unlink()
    with pytest.raises(ConfigurationError, match="encoder.json and vocab.bpe"):
        summarize.load(folder)


def test_folders_that_hold_no_model_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match="nowhere is no folder"):
        summarize.load(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="neither checkpoint_best.pt.*config.json"):
        summarize.load(tmp_path)


# meta holds no numbers, and PyTorch knows the others for packages that are not here
@pytest.mark.parametrize(
    "name", ["nonsense", "", "meta", "privateuseone", "hpu", "xla", "mkldnn", "cuda:9999999999999"]
)
def test_a_device_that_is_not_there_is_named(converted_bart, name):
    with pytest.raises(ConfigurationError, match=f"^--device {name} cannot be used: .*[^.!]\\. Use --device cpu"):
        summarize.load(converted_bart, device=name)


def test_a_dtype_that_is_not_there_is_named(converted_bart):
    with pytest.raises(ConfigurationError, match="--dtype 'int4'"):
        summarize.load(converted_bart, dtype="int4")


def test_half_precision_changes_little(converted_bart, model):
    half = summarize.load(converted_bart, dtype="bfloat16", max_len=20, min_len=2)
    assert next(half.network.parameters()).dtype == torch.bfloat16
    same = sum(a == b for a, b in zip(half.summarize(TEXTS), model.summarize(TEXTS)))
    assert same >= 1


def test_the_package_can_be_called(model):
    assert srformer_plugin.summarize(TEXTS, model=model) == model.summarize(TEXTS)
    assert srformer_plugin.summarize(TEXTS[0], model=model) == model.summarize(TEXTS[0])
    with pytest.raises(AttributeError, match="no attribute 'sumarize'"):
        srformer_plugin.sumarize  # noqa: B018
