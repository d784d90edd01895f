"""A document that grows has the summary of the whole text, and costs what is new."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from summarize.conftest import TEXTS, words

from srformer_plugin import summarize
from srformer_plugin.errors import ConfigurationError

LONG = words(260, seed=30)


def in_parts(text, seed, longest):
    """A text in parts of random lengths, which end anywhere."""
    rng, parts = random.Random(seed), []
    while text:
        count = rng.randint(1, longest)
        parts.append(text[:count])
        text = text[count:]
    return parts


def whole_states(model, text):
    ids = model.tokenizer.encode(text)
    with torch.inference_mode():
        return model.network_for(len(ids)).encoder(torch.tensor([ids]))


@pytest.mark.parametrize("longest", [7, 60, 5000])
def test_the_states_are_those_of_the_whole_text(model, longest):
    stream = model.open_stream()
    for part in in_parts(LONG, 1, longest):
        stream.append(part)
    summary, network, states = stream.read()
    expected = whole_states(model, LONG)
    assert network is model.long_network
    torch.testing.assert_close(states["encoder_out"][0], expected["encoder_out"][0], rtol=0, atol=1e-5)
    assert torch.equal(states["encoder_padding_mask"][0], expected["encoder_padding_mask"][0])
    (whole,) = model.summarize_texts([LONG])
    assert torch.equal(summary.ids, whole.ids)
    assert (summary.text, summary.source_tokens, summary.chunked) == (whole.text, whole.source_tokens, True)


@given(text=st.text("a bridge.\n", max_size=400), seed=st.integers(0, 99), longest=st.integers(1, 80))
@settings(max_examples=25)
def test_at_every_moment_the_summary_is_that_of_what_has_come(model, text, seed, longest):
    stream, so_far = model.open_stream(), ""
    for part in in_parts(text, seed, longest):
        stream.append(part)
        so_far += part
    assert stream.words == len(so_far.split())
    if so_far.split():
        assert stream.summarize(beam=2, max_len=4) == model.summarize(so_far, beam=2, max_len=4)
        stream.append(" the storm")  # and a summary in between changes nothing
        assert stream.summarize(beam=2, max_len=4) == model.summarize(so_far + " the storm", beam=2, max_len=4)


def test_short_texts_are_read_as_a_whole(model):
    for text in TEXTS:
        stream = model.open_stream()
        for part in in_parts(text, 2, 9):
            stream.append(part)
        assert stream.summarize() == model.summarize(text)


def test_a_prefix_is_kept_for_all_chunks(t5):
    model = summarize.load(t5[2], prefix="report , ", max_len=9, min_len=2, beam=2)
    text = "the city council opened a new bridge . " * 200
    stream = model.open_stream()
    for part in in_parts(text, 3, 1500):
        stream.append(part)
    assert model.long_network.encoder.prefix_index is not None
    states = stream.read()[2]["encoder_out"][0]
    torch.testing.assert_close(states, whole_states(model, text)["encoder_out"][0], rtol=1e-5, atol=2e-5)
    assert stream.summarize() == model.summarize(text)


def test_an_led_reads_its_positions_at_once_and_more_in_chunks(save_led, tmp_path):
    save_led(tmp_path / "hf")
    model = summarize.load(tmp_path / "hf", cache_dir=tmp_path / "cache", max_len=12, min_len=2)
    texts = [LONG, TEXTS[2], TEXTS[0]]
    found = model.summarize_texts(texts)
    assert [summary.chunked for summary in found] == [True, False, False]
    for text, summary in zip(texts, found):
        stream = model.open_stream()
        for part in in_parts(text, 5, 200):
            stream.append(part)
        again, _, states = stream.read()
        expected = whole_states(model, text)["encoder_out"][0]
        torch.testing.assert_close(states["encoder_out"][0], expected, rtol=0, atol=2e-5)
        assert torch.equal(again.ids, summary.ids)


def test_an_append_costs_what_is_new_however_much_came_before(model):
    """Tokens through the encoder, and tokens that are kept besides the states."""
    stream, costs, kept = model.open_stream(), [], []
    part = words(30, seed=31) + " "
    tokens = len(model.tokenizer.encode(part)) - 2
    for _ in range(40):
        before = stream.encoded_tokens
        stream.append(part)
        costs.append(stream.encoded_tokens - before)
        kept.append(len(stream._tail))
    encoder = model.long_network.encoder
    most = -(-tokens // encoder.chunk)  # rows that end in a part
    assert 0 < max(costs[20:]) <= most * encoder.width
    assert sum(costs[20:]) == pytest.approx(20 * tokens * encoder.width / encoder.chunk, rel=0.1)
    assert max(kept) <= encoder.width + encoder.chunk
    before = stream.encoded_tokens
    stream.summarize(max_len=3)
    assert stream.encoded_tokens - before <= 2 * encoder.width
    assert sum(len(states) for states in stream._final) == encoder.context + stream._rows * encoder.chunk


def test_a_kept_state_keeps_nothing_else(model):
    stream = model.open_stream()
    stream.append(LONG)
    for states in stream._final:
        assert states.untyped_storage().nbytes() == states.numel() * states.element_size()


def test_a_model_that_truncates_keeps_the_beginning(converted_bart):
    model = summarize.load(converted_bart, truncate=True, max_len=20, min_len=2)
    stream = model.open_stream()
    for part in in_parts(LONG, 4, 300):
        stream.append(part)
    (whole,) = model.summarize_texts([LONG])
    found = stream.summary()
    assert (found.text, found.truncated, found.source_tokens) == (whole.text, True, whole.source_tokens)
    assert len(stream._tail) <= model.source_positions


def test_there_must_be_a_word(model):
    stream = model.open_stream()
    stream.append(" \n")
    with pytest.raises(ConfigurationError, match="no text"):
        stream.summarize()
