"""SRformer-T5 trains, and starts from checkpoints."""

import pytest
import torch
from models.t5 import KINDS, LENGTHS, PAD, VERSIONS, logits, targets

from srformer_plugin.errors import ConfigurationError


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_receives_a_gradient_even_with_one_segment(build_t5, make_sample, kind, version):
    """Otherwise distributed training stops at an unused parameter."""
    for lengths in ([3, 2], [23, 14]):
        model = build_t5(cross_attention=kind, memory_gate=True, **VERSIONS[version]).train()
        logits(model, make_sample(lengths), targets([9, 5])).logsumexp(-1).sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
    without = {name for name, p in model.named_parameters() if not p.grad.any()}
    assert without == ({n for n, _ in model.named_parameters() if "memory" in n and "gate" not in n})


def test_the_padding_row_learns_as_the_start_of_targets_does(build_t5, make_sample):
    model = build_t5(untied_output=True).train()
    logits(model, make_sample(LENGTHS), targets([9, 4, 6, 2]))[0].logsumexp(-1).sum().backward()
    assert model.decoder.embed_tokens.weight.grad[PAD].any()


@pytest.mark.parametrize("untied", [False, True], ids=["tied", "untied"])
def test_weights_are_drawn_anew_by_the_seed_in_t5s_scales(build_t5, untied):
    def drawn(number, **options):
        model = build_t5(untied_output=untied, encoder_embed_dim=64, decoder_embed_dim=64, d_kv=16, **options)
        torch.manual_seed(number)
        model.draw_initial_weights()
        return model.state_dict()

    weights = drawn(3, cross_attention="full", seed=1)
    again, other = drawn(3, cross_attention="full", seed=2), drawn(4, cross_attention="full")
    scales = {
        "encoder.embed_tokens": 1,
        "encoder.layers.0.self_attn.q_proj": (64 * 16) ** -0.5,
        "decoder.layers.0.encoder_attn.k_proj": 64**-0.5,
        "decoder.layers.0.encoder_attn.out_proj": 32**-0.5,
        "encoder.layers.0.fc1": 64**-0.5,
        "decoder.relative_attention_bias": 64**-0.5,
        "decoder.output_projection": 64**-0.5 if untied else 1,
    }
    for name, scale in scales.items():
        name = f"{name}.weight"
        assert weights[name].std().item() == pytest.approx(scale, rel=0.3), name
        assert torch.equal(weights[name], again[name]), name
        assert not torch.equal(weights[name], other[name]), name
    assert weights["decoder.embed_tokens.weight"][PAD].any()
    segmented = drawn(3, memory_gate=True)  # the same weights beside its memory
    assert [name for name in weights if not torch.equal(weights[name], segmented[name])] == []


def test_activation_checkpointing_changes_no_gradient(build_t5, make_sample):
    gradients = []
    for checkpointed in (False, True):
        model = build_t5(checkpoint_activations=checkpointed).train()
        logits(model, make_sample(LENGTHS), targets([9, 4, 6, 2])).logsumexp(-1).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)


def test_dropout_is_where_t5_has_it(build_t5):
    model = build_t5(dropout=0.25)
    rates = [model.encoder.dropout_module.p, model.decoder.dropout_module.p]
    for layer in (*model.encoder.layers, *model.decoder.layers):
        rates += [layer.dropout_module.p, layer.activation_dropout_module.p, layer.self_attn.dropout_module.p]
    rates += [layer.encoder_attn.dropout_module.p for layer in model.decoder.layers]
    assert set(rates) == {0.25}


@torch.no_grad()
def test_a_full_checkpoint_starts_the_others_and_one_of_another_schedule_is_refused(build_t5):
    full = build_t5(cross_attention="full").state_dict()
    model = build_t5(seed=9)
    leak = model.decoder.layers[0].encoder_attn.memory.leak.clone()
    model.load_state_dict(dict(full))
    assert torch.equal(model.encoder.layers[1].fc2.weight, full["encoder.layers.1.fc2.weight"])
    assert torch.equal(model.decoder.layers[0].encoder_attn.memory.leak, leak)
    with pytest.raises(ConfigurationError, match="trained with --segment-size 4, but this run has 8"):
        build_t5(segment_size=8).load_state_dict(model.state_dict())
