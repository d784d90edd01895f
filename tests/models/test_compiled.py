"""`--compile`: compiled layers compute what the plain ones do, are compiled once, and leave no trace in a checkpoint.

Most tests have Dynamo trace the layers and PyTorch run what it traced, which takes no compiler; one generates code.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
from helpers import trace_without_a_compiler
from torch._dynamo.utils import counters

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models import compiled
from srformer_plugin.models.compiled import compile_layers

# tokens of every source, tokens of the targets: all sizes vary, one batch has one sentence, one is square
BATCHES = [([9, 5, 7], 8), ([11, 5, 7, 10], 9), ([12], 6), ([9, 16], 8), ([13] * 5, 5), ([4] * 7, 5), ([24, 3], 24)]
SMALL = {
    f"{side}_{size}": value
    for side in ("encoder", "decoder")
    for size, value in (("embed_dim", 32), ("ffn_embed_dim", 64), ("attention_heads", 2))
}
PRE_NORM = {"encoder_normalize_before": True, "decoder_normalize_before": True}
MODELS = {
    "BART": ("srformer_bart_tiny", {}),
    "BART, norm first": ("srformer_bart_tiny", PRE_NORM),
    "full": ("srformer_bart_tiny", {"cross_attention": "full"}),
    "hepos": ("srformer_bart_tiny", {"cross_attention": "hepos", "head_stride": 2}),
    "content": ("srformer_bart_content", {**SMALL, "segment_size": 2, "segments_per_query": 2}),
    "chunked": ("srformer_bart_tiny", {"encoder_attention": "chunked", "encoder_chunk": 6, "encoder_context": 2}),
    "window": ("srformer_bart_tiny", {"encoder_attention": "window", "encoder_window": 3}),
    "LED": ("srformer_led_tiny", {"attention_window": "4"}),
    "T5": ("srformer_t5_tiny", {}),
    "T5 v1.1": ("srformer_t5_tiny", {"feed_forward": "gated-gelu"}),
    "no cross-attention": ("srformer_bart_tiny", {"no_cross_attention": True}),
}


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    """Without a compiler, and nothing compiled by another test."""
    trace_without_a_compiler(monkeypatch, "aot_eager")


@pytest.fixture
def pair(build_model):
    """The same model twice, of 3 + 3 layers: as it is, and with compiled layers."""

    def build(kind, **more):
        arch, settings = MODELS[kind]
        settings = {"encoder_layers": 3, "decoder_layers": 3, **settings, **more}
        return build_model(arch, **settings), build_model(arch, compile=True, **settings)

    return build


@pytest.fixture
def inputs(make_sample):
    def make(lengths, targets):
        previous = torch.randint(4, 20, (len(lengths), targets), generator=torch.Generator().manual_seed(5))
        return {**make_sample(lengths)["net_input"], "prev_output_tokens": previous}

    return make


def gradients(model, batch):
    """Logits, and the gradient of every parameter."""
    torch.manual_seed(3)
    model.zero_grad()
    logits = model(**batch)[0]
    logits.float().square().mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_near(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def assert_same(found, expected, tolerance=5e-4):
    """Logits and gradients, but for rounding; a gradient that must be 0, as that of a key's bias, is rounding alone."""
    (logits, found), (expected_logits, expected) = found, expected
    torch.testing.assert_close(logits, expected_logits, rtol=tolerance, atol=tolerance)
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        scale = max(gradient.abs().max(), 1e-4 * largest)
        assert (found[name] - gradient).abs().max() < tolerance * scale, name


def graphs():
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("kind", MODELS)
def test_logits_and_gradients_are_those_of_the_plain_layers(pair, inputs, kind):
    plain, fast = pair(kind)
    assert graphs() == 0  # not before the first batch
    for lengths, targets in BATCHES[:3]:
        batch = inputs(lengths, targets)
        for model in (plain, fast):
            model.train()
        assert_same(gradients(fast, batch), gradients(plain, batch))
        with torch.no_grad():
            assert_near(fast.eval()(**batch)[0], plain.eval()(**batch)[0])
    assert graphs() > 0 and not counters["graph_break"]


@pytest.mark.parametrize(("kind", "functions"), [("BART", 2), ("BART, norm first", 3), ("T5", 3), ("window", 2)])
def test_no_batch_and_no_layer_compiles_anew(pair, inputs, kind, functions):
    """Encoder and decoder and all their layers share what stands around an attention, whatever a batch's sizes are."""
    _, fast = pair(kind)
    for lengths, targets in BATCHES:
        gradients(fast.train(), inputs(lengths, targets))
        assert graphs() == functions
    for lengths, targets in BATCHES:
        with torch.no_grad():
            fast.eval()(**inputs(lengths, targets))
        assert graphs() == 2 * functions


@pytest.mark.parametrize("name", ["recompile_limit", "cache_size_limit"])  # of PyTorch's later releases, and of 2.6
def test_the_limit_of_variants_is_found_by_either_name(name, monkeypatch):
    monkeypatch.setattr(torch._dynamo, "config", SimpleNamespace(**{name: 8}))
    assert compiled.limit_name() == name


def test_more_variants_than_pytorch_allows_are_compiled_too(pair, inputs):
    _, fast = pair("BART")
    with torch._dynamo.config.patch({compiled.limit_name(): 1}):
        gradients(fast.train(), inputs(*BATCHES[0]))
        with torch.no_grad():
            fast.eval()(**inputs(*BATCHES[0]))
        assert getattr(torch._dynamo.config, compiled.limit_name()) == 1  # that of the process
    assert graphs() == 4


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activation_checkpointing_recomputes_the_same(pair, inputs, dropout):
    """With the same dropout in the recomputed pass, that is: else the gradients would be those of another function."""
    more = {"dropout": dropout, "attention_dropout": dropout, "activation_dropout": dropout}
    _, kept = pair("BART", **more)
    _, recomputed = pair("BART", checkpoint_activations=True, **more)
    for batch in (inputs(*BATCHES[0]), inputs(*BATCHES[1])):
        assert_same(gradients(recomputed.train(), batch), gradients(kept.train(), batch))
    assert graphs() == 4  # with gradients, and the first pass without


def test_the_same_seed_drops_the_same_activations_and_layers(pair, inputs, monkeypatch):
    """Where PyTorch runs what was traced: generated code has random numbers of its own."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    rates = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.3)
    plain, fast = pair("BART", encoder_layerdrop=0.5, decoder_layerdrop=0.5, **rates)
    for lengths, targets in BATCHES[:3]:
        batch = inputs(lengths, targets)
        assert_same(gradients(fast.train(), batch), gradients(plain.train(), batch))


def test_layers_that_are_frozen_and_trained_again_have_the_gradients_of_the_plain_ones(pair, inputs):
    """The function that all layers share was compiled for a frozen one first."""
    models, batch = pair("BART"), inputs([9, 5, 7], 8)
    for trained in (False, True):
        for model in models:
            frozen = [model.encoder.embed_tokens, model.encoder.layers[0], model.decoder.layers[1].fc1]
            for parameter in (parameter for module in frozen for parameter in module.parameters()):
                parameter.requires_grad_(trained)
        expected, found = (gradients(model, batch) for model in models)
        assert_same(found, expected)
        assert ("encoder.layers.0.fc1.weight" in found[1]) == ("decoder.layers.1.fc1.weight" in found[1]) == trained


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_copy_computes_with_its_own_weights(pair, inputs, checkpointed):
    """--store-ema copies the model."""
    plain, fast = pair("BART", checkpoint_activations=checkpointed)
    batch = inputs(*BATCHES[0])
    before = plain(**batch)[0]
    other = copy.deepcopy(fast)
    with torch.no_grad():
        for model in (plain, other):
            for layer in (*model.encoder.layers, *model.decoder.layers):
                layer.fc2.weight.mul_(2)
    assert_near(other(**batch)[0], plain(**batch)[0])
    assert_near(fast(**batch)[0], before)
    assert not torch.allclose(before, plain(**batch)[0], rtol=0.1)


def test_decoding_step_by_step_is_not_compiled(pair, inputs):
    plain, fast = pair("BART")
    batch = inputs(*BATCHES[0])
    with torch.no_grad():
        for model in (plain, fast):
            encoded = model.encoder(batch["src_tokens"], batch["src_lengths"])
            before, state = graphs(), {}
            steps = [model.decoder(batch["prev_output_tokens"][:, : t + 1], encoded, state)[0] for t in range(8)]
            assert graphs() == before
            assert_near(torch.cat(steps, dim=1), plain(**batch)[0])


def test_stock_models_can_be_compiled_as_well(build_model, inputs):
    sizes = {**SMALL, "encoder_layers": 2, "decoder_layers": 2}
    plain, fast = build_model("bart_base", **sizes), build_model("bart_base", **sizes)
    compile_layers(fast)
    batch = inputs(*BATCHES[0])
    assert_same(gradients(fast, batch), gradients(plain, batch))
    assert graphs() > 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("quant_noise_pq", 0.1), *((f"scale_{part}", True) for part in ("heads", "attn", "fc", "resids"))],
)
def test_what_is_not_compiled_is_refused_by_its_flag(build_model, option, value):
    flag = f"--{option.replace('_', '-')}"
    with pytest.raises(ConfigurationError, match=f"--compile cannot compute {flag}: leave one of them out"):
        build_model("srformer_bart_tiny", compile=True, **{option: value})


@pytest.mark.slow
def test_generated_code_drops_out_anew_every_time_and_recomputes_the_same(pair, inputs, monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    rates = dict.fromkeys(("dropout", "activation_dropout"), 0.3)
    _, kept = pair("BART", **rates)
    _, recomputed = pair("BART", checkpoint_activations=True, **rates)
    batch = inputs(*BATCHES[0])
    assert_same(gradients(recomputed.train(), batch), gradients(kept.train(), batch))
    first, second = kept(**batch)[0], kept(**batch)[0]
    assert not torch.allclose(first, second, rtol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["BART", "T5 v1.1"])
def test_generated_code_computes_the_same(pair, inputs, monkeypatch, kind):
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    plain, fast = pair(kind)
    for lengths, targets in BATCHES[:3]:
        batch = inputs(lengths, targets)
        assert_same(gradients(fast.train(), batch), gradients(plain.train(), batch), tolerance=1e-3)
