"""LED as a fairseq model: sizes, windows, starts from other checkpoints, pruning, training and decoding."""

import argparse
import logging

import pytest
import torch
from fairseq.modules import MultiheadAttention
from models.conftest import build_model, default_options, make_sample

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.encoders.led import parse_windows
from srformer_plugin.models.encoders.window import WindowSelfAttention

LENGTHS = [23, 5, 14, 1, 9]


def led(**options):
    return build_model("srformer_led_tiny", **{"encoder_layers": 2, "attention_window": "4,6", **options})


def encode(model, sample):
    """States of all real tokens, and the output."""
    found = model.encoder(sample["net_input"]["src_tokens"])
    return found["encoder_out"][0].transpose(0, 1)[~found["encoder_padding_mask"][0]], found


@pytest.mark.parametrize(
    ("arch", "layers", "width", "heads"),
    [
        ("srformer_led", 6, 768, 12),
        ("srformer_led_base", 6, 768, 12),
        ("srformer_led_large", 12, 1024, 16),
        ("srformer_led_content", 6, 768, 12),
        ("srformer_led_content_large", 12, 1024, 16),
        ("srformer_led_tiny", 1, 32, 2),
    ],
)
def test_architectures_have_leds_sizes(arch, layers, width, heads):
    args = default_options(arch, layers, width, heads)
    assert args.cross_attention == ("segmented" if "content" in arch else "full")
    assert (args.max_source_positions, args.max_target_positions) == (16384, 1024)
    assert args.attention_window == ("8" if "tiny" in arch else "1024")


@pytest.mark.parametrize(
    ("text", "layers", "windows"), [("8", 3, [8, 8, 8]), ("4,6", 2, [4, 6]), (10, 1, [10]), (" 4 , 8", 2, [4, 8])]
)
def test_windows_are_one_or_one_for_every_layer(text, layers, windows):
    assert parse_windows(text, layers) == windows


@pytest.mark.parametrize("text", ["4,6,8", "4,5", "0", "-2", "all", "", "4,"])
def test_other_windows_are_refused_before_the_model_is_built(text):
    with pytest.raises(
        ConfigurationError, match="--attention-window .* must be an even number from 2 on.*or 2 of them"
    ):
        led(attention_window=text)


def test_every_layer_has_its_window_on_either_side():
    """A token changes those at most 3 places away: 1 by the first layer, 2 by the second. The first is global."""
    model, sample = led(attention_window="2,4"), make_sample([16])
    before, _ = encode(model, sample)
    changed = {"net_input": {"src_tokens": sample["net_input"]["src_tokens"].clone()}}
    changed["net_input"]["src_tokens"][0, 8] += 1
    with torch.no_grad():
        model.encoder.layers[0].self_attn.global_q_proj.weight.zero_()
        for layer in model.encoder.layers:  # the global token reads, but tells nothing
            layer.self_attn.global_v_proj.weight.zero_()
        before, after = (encode(model, x)[0] for x in (sample, changed))
    reached = (before != after).any(dim=1).nonzero().flatten().tolist()
    assert reached == [5, 6, 7, 8, 9, 10, 11]


def test_the_first_token_reads_all_and_is_read_by_all():
    model, sample = led(attention_window="2"), make_sample([16, 9])
    states, _ = encode(model, sample)
    gradients = torch.autograd.grad(states[0, 0], model.encoder.embed_tokens.weight)[0]
    assert (gradients[sample["net_input"]["src_tokens"][0]].norm(dim=1) > 0).all()
    for changed in (0, 15):
        other = {"net_input": {"src_tokens": sample["net_input"]["src_tokens"].clone()}}
        other["net_input"]["src_tokens"][0, changed] = 4 if sample["net_input"]["src_tokens"][0, changed] != 4 else 5
        after, _ = encode(model, other)
        assert (after[:16] != states[:16]).any(dim=1).all()
        assert torch.equal(after[16:], states[16:])  # of the other sentence none


def test_a_sentence_does_not_depend_on_its_batch_nor_on_the_side_of_its_padding():
    model = led().double()
    left, right = (make_sample(LENGTHS, left_pad=side) for side in (True, False))
    found = [encode(model, sample)[0] for sample in (left, right)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
    alone = torch.cat(
        [
            encode(model, {"net_input": {"src_tokens": row[row != 1][None]}})[0]
            for row in left["net_input"]["src_tokens"]
        ]
    )
    torch.testing.assert_close(found[0], alone, rtol=0, atol=1e-12)


def test_with_copies_as_global_projections_and_wide_windows_it_is_bart(caplog):
    """How LED began: a BART starts it, its positions repeated."""
    sizes = {"encoder_layers": 2, "cross_attention": "full"}
    bart = build_model("srformer_bart_tiny", max_source_positions=32, **sizes)
    ours = led(attention_window="64", max_source_positions=80)
    with caplog.at_level(logging.INFO):
        ours.load_state_dict(bart.state_dict())
    assert "copied from what all tokens have: 12 global projections" in caplog.text
    assert "extended from 32 to 80 positions" in caplog.text
    sample = make_sample(LENGTHS)
    torch.testing.assert_close(encode(ours, sample)[0], encode(bart, sample)[0], rtol=0, atol=1e-5)
    narrow = led(attention_window="2", max_source_positions=80)
    narrow.load_state_dict(bart.state_dict())
    assert not torch.allclose(encode(narrow, sample)[0], encode(bart, sample)[0], atol=1e-2)


def test_a_checkpoint_that_lacks_some_global_projections_is_damaged():
    state = led().state_dict()
    del state["encoder.layers.1.self_attn.global_k_proj.weight"]
    with pytest.raises(ConfigurationError, match="it has no encoder.layers.1.self_attn.global_k_proj.weight; use"):
        led().load_state_dict(state)


@pytest.mark.parametrize("windows", ["4,6,8", "6"])
def test_pruned_layers_keep_their_windows(windows):
    whole = led(encoder_layers=3, attention_window=windows)
    args = argparse.Namespace(arch="srformer_led_tiny", encoder_layers_to_keep="2,0", decoder_layers_to_keep=None)
    pruned = led(encoder_layers=3, attention_window=windows, encoder_layers_to_keep="2,0")
    pruned.load_state_dict(whole.state_dict(), model_cfg=args)
    chosen = [whole.encoder.layers[number].self_attn for number in (0, 2)]
    assert [layer.self_attn.window for layer in pruned.encoder.layers] == [one.window for one in chosen]
    assert torch.equal(pruned.encoder.layers[1].self_attn.global_q_proj.weight, chosen[1].global_q_proj.weight)
    # what is saved next is the pruned model
    assert args.encoder_layers_to_keep is None
    again = led(encoder_layers=pruned.args.encoder_layers, attention_window=pruned.args.attention_window)
    again.load_state_dict(pruned.state_dict())
    assert torch.equal(encode(again, make_sample(LENGTHS))[0], encode(pruned, make_sample(LENGTHS))[0])


@pytest.mark.parametrize("keep", ["0,5,1", "a,b", "7,0"])
def test_layers_that_are_not_there_are_refused(keep):
    with pytest.raises(ConfigurationError, match="--encoder-layers-to-keep .* 0 to 3"):
        led(encoder_layers=4, attention_window="4,4,6,6", encoder_layers_to_keep=keep)


@pytest.mark.parametrize("options", [{}, {"checkpoint_activations": True}, {"encoder_layerdrop": 0.5}], ids=str)
def test_every_parameter_of_the_attention_is_trained(options):
    model = led(**options).train()
    sample = make_sample(LENGTHS)["net_input"]
    for _ in range(4 if "encoder_layerdrop" in options else 1):  # until every layer has had its turn
        model(**sample, prev_output_tokens=sample["src_tokens"][:, -4:])[0].square().sum().backward()
    for name, parameter in model.encoder.layers.named_parameters():
        if name.endswith("weight"):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_dropout_of_attention_weights_is_fairseqs():
    model = led(attention_dropout=0.5)
    attentions = [module for module in model.modules() if isinstance(module, WindowSelfAttention)]
    assert len(attentions) == 2
    assert {one.dropout_module.module_name for one in attentions} == {MultiheadAttention.__name__}
    sample = make_sample(LENGTHS)
    assert torch.equal(encode(model, sample)[0], encode(model, sample)[0])
    model.train()
    assert not torch.equal(encode(model, sample)[0], encode(model, sample)[0])


def test_a_training_is_not_resumed_with_another_global_symbol():
    """But for a checkpoint from before there was the setting."""
    ours, other = led(encoder_global_symbol="w3"), led()
    ours.check_resumed(ours.args)
    with pytest.raises(ConfigurationError, match="trained with no --encoder-global-symbol, but this run has .*w3"):
        ours.check_resumed(other.args)
    ours.check_resumed(argparse.Namespace(encoder_attention="full", encoder_layers=2, attention_window="4,6"))


def test_masks_and_weights_are_refused():
    attention, x = WindowSelfAttention(8, 2, has_global=True), torch.zeros(3, 1, 8)
    for asked in ({"attn_mask": torch.zeros(3, 3)}, {"need_weights": True}):
        with pytest.raises(ConfigurationError, match="no attn_mask and returns no weights"):
            attention(x, x, x, **asked)


def test_chunks_are_encoded_as_leds_sentences():
    """Which lets it read more tokens than it has positions."""
    options = {"encoder_chunk": 6, "encoder_context": 2, "encoder_positions": 64}
    stock, ours = led(), led(encoder_attention="chunked", **options)
    ours.load_state_dict(stock.state_dict())
    tokens = make_sample([100])["net_input"]["src_tokens"]
    states = ours.encoder(tokens)["encoder_out"][0]
    expected = stock.encoder(tokens[:, :10])["encoder_out"][0]  # the first row, of which 8 are kept
    torch.testing.assert_close(states[:8], expected[:8], rtol=0, atol=1e-5)
    assert len(states) == 100


def test_another_encoder_is_refused():
    with pytest.raises(ConfigurationError, match="--encoder-attention window is not for LED.*full or chunked"):
        led(encoder_attention="window")
