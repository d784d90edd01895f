"""Documents that are longer than a model's positions."""

import shutil

import pytest
import torch
from summarize.conftest import TEXTS, words

from srformer_plugin import summarize
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.models.checkpoint_file import load
from srformer_plugin.models.encoders.settings import EncoderSettings
from srformer_plugin.models.srformer_bart import SRformerBARTModel
from srformer_plugin.models.srformer_t5 import SRformerT5Model

LONG = [words(60, seed=20), words(150, seed=21)]
SETTINGS = {"beam": 4, "lenpen": 2.0, "min_len": 2, "no_repeat_ngram_size": 3}


def test_they_are_read_in_chunks_and_segments_are_chosen_by_content(model, converted_bart):
    """Texts that fit are read as before, whatever else is asked for at once."""
    texts = [TEXTS[0], LONG[0], TEXTS[1], LONG[1]]
    found = model.summarize_texts(texts)
    assert [summary.chunked for summary in found] == [False, True, False, True]
    assert not any(summary.truncated for summary in found)
    short = SRformerBARTModel.from_pretrained(converted_bart)
    long = SRformerBARTModel.from_pretrained(
        converted_bart, encoder_attention="chunked", encoder_context=8, segment_schedule="content"
    )
    for text, summary, hub in zip(texts, found, [short, long, short, long]):
        assert summary.text == " ".join(hub.sample(text, max_len_b=20, **SETTINGS).split())
    assert model.how_long_sources_are_read() == (
        "encoded in chunks of 48 tokens with 8 of context a side; the decoder chooses 8 segments of 16 by content"
    )


@pytest.mark.parametrize("max_tokens", [1, 10_000])
def test_they_do_not_depend_on_their_batch(model, max_tokens):
    assert model.summarize(LONG, max_tokens=max_tokens) == [model.summarize(text) for text in LONG]


def test_those_that_fit_share_no_batch_with_those_that_do_not(model, monkeypatch):
    """Another network would read them, which chooses segments where theirs attends to all."""
    read, search = [], model._search
    monkeypatch.setattr(
        model, "_search", lambda sources, how: (read.append([*map(len, sources)]), search(sources, how))[1]
    )
    model.summarize([TEXTS[0], LONG[0], TEXTS[1], LONG[1]])
    assert len(read) == 2
    assert all(len({length <= model.source_positions for length in batch}) == 1 for batch in read)


def test_the_two_networks_share_their_weights(model):
    short, long = model.network, model.long_network
    storages = {parameter.data_ptr() for parameter in short.parameters()}
    assert short is not long
    assert {parameter.data_ptr() for parameter in long.parameters()} == storages


def test_no_file_is_read_and_nothing_is_drawn_for_them(model, converted_bart, tmp_path):
    shutil.copytree(converted_bart, tmp_path / "model")
    found = summarize.load(tmp_path / "model", max_len=20, min_len=2)
    shutil.rmtree(tmp_path / "model")
    state = torch.get_rng_state()
    assert found.summarize(LONG) == model.summarize(LONG)
    assert torch.equal(torch.get_rng_state(), state)
    assert not found.long_network.training


def test_a_bart_of_fairseqs_is_read_once_and_as_ours(model, converted_bart, tmp_path, monkeypatch):
    for file in converted_bart.iterdir():
        shutil.copy(file, tmp_path)
    content = load(converted_bart / "model.pt")
    stored = content["cfg"]["model"]
    stored.arch = stored._name = "bart_base"
    for name in vars(SegmentSettings()) | vars(EncoderSettings()):
        if hasattr(stored, name):
            delattr(stored, name)
    torch.save(content, tmp_path / "model.pt")
    read, original = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: (read.append(args), original(*args, **options))[1])
    found = summarize.load(tmp_path, max_len=20, min_len=2)
    assert len(read) == 1
    assert found.network.decoder.settings.is_full
    assert found.summarize([TEXTS[0], *LONG]) == model.summarize([TEXTS[0], *LONG])


def test_truncate_leaves_out_the_end(converted_bart):
    model = summarize.load(converted_bart, truncate=True, max_len=20, min_len=2)
    (long, short) = model.summarize_texts([LONG[0], TEXTS[0]])
    assert long.truncated and not long.chunked and not short.truncated
    ids = model.tokenizer.encode(LONG[0])
    assert long.source_tokens == len(ids) > model.source_positions
    hub = SRformerBARTModel.from_pretrained(converted_bart)
    (hypotheses,) = hub.generate([torch.tensor([*ids[:63], 2])], max_len_b=20, **SETTINGS)
    assert hypotheses[0]["tokens"].tolist() == long.ids.tolist()
    assert model.long_network is None


def test_a_prefix_stands_before_every_chunk(t5):
    """T5's, whose last piece ends it. A text that fits its 1,024 tokens has it once."""
    text = "the city council opened a new bridge . " * 150
    settings = {**SETTINGS, "max_len": 9}
    found = summarize.load(t5[2], prefix="report , ", **settings)
    (summary,) = found.summarize_texts([text])
    assert summary.chunked
    del settings["max_len"]
    last = found.tokenizer.dictionary[found.tokenizer.start[-1]]
    hub = SRformerT5Model.from_pretrained(
        t5[2], encoder_attention="chunked", segment_schedule="content", encoder_prefix_symbol=last
    )
    assert found.long_network.encoder.prefix_index == found.tokenizer.start[-1]
    assert summary.text == hub.sample(f"report , {text}", max_len_b=9, **settings)


def test_a_model_that_reads_chunks_already_is_used_as_it_is(model, converted_bart, tmp_path):
    from srformer_plugin.convert.cli import change_attention_of_file

    changes = {"encoder_attention": "chunked", "encoder_context": 4, "cross_attention": "full"}
    change_attention_of_file(converted_bart / "model.pt", tmp_path / "model.pt", changes)
    found = summarize.load(tmp_path, data=converted_bart, max_len=20, min_len=2)
    assert found.long_network is found.network
    assert [summary.chunked for summary in found.summarize_texts([TEXTS[0], LONG[0]])] == [False, True]
    assert found.summarize(TEXTS[0]) == model.summarize(TEXTS[0])
    assert "by content" not in found.how_long_sources_are_read()
