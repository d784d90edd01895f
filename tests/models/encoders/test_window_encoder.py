"""BART with a window encoder: `window_attention` in every layer, started from BART's weights."""

import pytest
import torch
from largest_tensor import largest_tensor
from models.conftest import build_model, make_sample

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.encoders import window as window_encoder
from srformer_plugin.models.encoders.settings import EncoderSettings
from srformer_plugin.models.encoders.window_attention import window_attention_reference

LENGTHS = [23, 5, 14, 1]
SYMBOL, INDEX = "w6", 10  # in the sentences above 2, 1, 0 and 0 times
SIZES = {"encoder_layers": 2, "cross_attention": "full"}


def build(**options):
    options = {"encoder_window": 3, "encoder_global_tokens": 2, **SIZES, **options}
    return build_model(encoder_attention="window", **options)


def states(model, sample):
    """Of the real tokens of every sentence, (N, C) each."""
    found = model.encoder(sample["net_input"]["src_tokens"])
    padding = found["encoder_padding_mask"][0]
    return [row[~mask] for row, mask in zip(found["encoder_out"][0].transpose(0, 1), padding)]


def test_bart_starts_it_and_where_the_window_holds_all_it_is_bart(caplog):
    stock, ours = build_model(**SIZES), build(encoder_window=30)
    caplog.set_level("INFO")
    ours.load_state_dict(stock.state_dict())
    assert "copied from what all tokens have: 12 global projections" in caplog.text
    for left_pad in (True, False):
        sample = make_sample(LENGTHS, left_pad)
        for found, expected in zip(states(ours, sample), states(stock, sample), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_global", [0, 1, 2])
@pytest.mark.parametrize("symbol", [None, SYMBOL])
def test_layers_compute_the_reference_whatever_the_batch(num_global, symbol, monkeypatch):
    ours = build(encoder_global_tokens=num_global, encoder_global_symbol=symbol).double()
    sample = make_sample(LENGTHS)
    found = states(ours, sample)
    seen = []

    def reference(query, key, value, padding, window, global_tokens, projections, dropout):
        counts = global_tokens.real.sum(dim=1).tolist()
        seen.append((window, tuple(counts) if len(counts) > 1 else None, projections is not None, dropout))
        return window_attention_reference(query, key, value, padding, window, global_tokens, projections)

    monkeypatch.setattr(window_encoder, "window_attention", reference)
    for sentence, expected, tokens in zip(found, states(ours, sample), sample["net_input"]["src_tokens"]):
        torch.testing.assert_close(sentence, expected, rtol=0, atol=1e-10)
        alone = {"net_input": {"src_tokens": tokens[tokens != 1][None]}}
        torch.testing.assert_close(sentence, states(ours, alone)[0], rtol=0, atol=1e-10)
    assert {entry[0] for entry in seen} == {3} and {entry[3] for entry in seen} == {0.0}
    assert {entry[2] for entry in seen} == {num_global > 0 or symbol is not None}
    sources = [tokens[tokens != 1].tolist() for tokens in sample["net_input"]["src_tokens"]]
    chosen = None if symbol is None else INDEX
    expected = [sum(n < num_global or token == chosen for n, token in enumerate(source)) for source in sources]
    assert {entry[1] for entry in seen} == {tuple(expected), None}
    assert symbol is None or len(set(expected)) > 1


@pytest.mark.parametrize("symbol", [None, SYMBOL])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_training_step_drops_weights_and_reaches_every_one(checkpointed, symbol, monkeypatch):
    options = {"encoder_global_symbol": symbol, "encoder_global_tokens": 0 if symbol else 2}
    ours = build(checkpoint_activations=checkpointed, dropout=0.1, attention_dropout=0.2, **options).train()
    rates, attend = [], window_encoder.window_attention
    monkeypatch.setattr(window_encoder, "window_attention", lambda *inputs: rates.append(inputs[-1]) or attend(*inputs))
    sample = make_sample([40, 12])["net_input"]
    ours(**sample, prev_output_tokens=torch.randint(4, 20, (2, 7)))[0].square().sum().backward()
    assert set(rates) == {0.2}
    gradients = {name: p.grad for name, p in ours.encoder.named_parameters() if "embed_tokens" not in name}
    assert sum("global_" in name for name in gradients) == 12
    assert all(g is not None and g.isfinite().all() for g in gradients.values())


def test_a_batch_without_the_symbol_has_gradients_for_every_parameter_too():
    """Which several processes wait for."""
    ours = build(encoder_global_symbol="w3", encoder_global_tokens=0)
    states(ours, make_sample(LENGTHS))[0].sum().backward()
    found = [p.grad for name, p in ours.encoder.named_parameters() if "global_" in name]
    assert len(found) == 12 and all(grad is not None and not grad.any() for grad in found)


def test_a_symbol_that_is_not_in_the_dictionary_is_one_error():
    with pytest.raises(ConfigurationError, match="--encoder-global-symbol '<doc-sep>' is not in the source dictionary"):
        build(encoder_global_symbol="<doc-sep>")


@pytest.mark.parametrize("grad", [True, False])
def test_no_tensor_grows_with_the_square_of_the_length(grad):
    ours, sizes = build(max_source_positions=2000), []
    for length in (600, 1200):
        tokens = make_sample([length])["net_input"]["src_tokens"]
        with torch.set_grad_enabled(grad), largest_tensor() as largest:
            found = ours.encoder(tokens)["encoder_out"][0]
            if grad:
                found.sum().backward()
        sizes.append(largest.elements)
    assert sizes[1] <= 2.2 * sizes[0]
    assert sizes[1] < 1200 * 1200


def test_sources_are_as_long_as_there_are_positions():
    assert build(max_source_positions=64).max_positions()[0] == 64
    longer = build(max_source_positions=150)
    longer.load_state_dict(build(max_source_positions=64).state_dict())
    table = longer.encoder.embed_positions.weight[2:]
    assert torch.equal(table[64:128], table[:64])


def test_t5_has_none():
    with pytest.raises(ConfigurationError, match="--encoder-attention window is for BART, .* T5Encoder: use chunked"):
        build_model("srformer_t5_tiny", encoder_attention="window")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_window": 0}, "--encoder-window must be at least 1, got 0"),
        ({"encoder_global_tokens": -1}, "--encoder-global-tokens must be at least 0, got -1"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(options, message):
    with pytest.raises(ConfigurationError, match=message):
        EncoderSettings(encoder_attention="window", **options).check()
