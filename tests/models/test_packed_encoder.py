"""BART's encoder without padding: fairseq's numbers at real positions, and nothing computed at padding."""

import pytest
import torch
from fairseq.modules import MultiheadAttention
from hypothesis import given
from hypothesis import strategies as st

from srformer_plugin.attention.packed import PackedSelfAttention
from srformer_plugin.models import packed_encoder
from srformer_plugin.models.packed_encoder import PackedEncoder

SIZES = {
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 2,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
}


@pytest.fixture(scope="module")
def pair(build_model):
    """Stock BART's encoder and ours, of two layers with the same weights, to be trained in float64."""

    def build(**options):
        options = {"encoder_layers": 2, "spread": 2.0, "activation_fn": "relu", **options}  # stock GELU is in float32
        stock = build_model("bart_base", **SIZES, **options).double().train()
        ours = build_model(cross_attention="full", **options).double().train()
        ours.load_state_dict(stock.state_dict())
        assert isinstance(ours.encoder, PackedEncoder)
        return stock.encoder, ours.encoder

    return build


def batch_of(rows):
    """Tokens (B, N) from strings, padding at a dot."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(4, 20, (len(rows), len(rows[0])), generator=generator)
    return tokens.masked_fill(torch.tensor([[mark == "." for mark in row] for row in rows]), 1)


def graded(encoder, tokens):
    """The output at real positions, and all gradients of a function of those."""
    output = encoder(tokens)["encoder_out"][0][tokens.ne(1).T]
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    used = [p for p in encoder.parameters() if p.requires_grad]
    return [output, *torch.autograd.grad((output * weights).sum(), used, allow_unused=True)]


def shapes_in_layers(encoder, tokens):
    """Of what goes into every layer."""
    shapes = []
    hooks = [layer.register_forward_pre_hook(lambda _, x: shapes.append(x[0].shape[:-1])) for layer in encoder.layers]
    encoder(tokens)
    for hook in hooks:
        hook.remove()
    return shapes


ROWS = st.lists(st.text("x.", min_size=7, max_size=7).filter(lambda row: "x" in row), min_size=1, max_size=4)


@given(rows=ROWS)
def test_outputs_and_gradients_are_stocks(pair, rows):
    """Padding on either side, or between tokens."""
    stock, ours = pair()
    tokens = batch_of(rows)
    for got, wanted in zip(graded(ours, tokens), graded(stock, tokens), strict=True):
        assert (got is wanted is None) or (got - wanted).abs().max() <= 1e-11 * (1 + wanted.abs().max())


def test_only_tokens_go_through_the_layers(pair):
    stock, ours = pair()
    tokens = batch_of(["xxxx...", "..xxxxx", "xxxxxxx"])
    assert shapes_in_layers(stock, tokens) == [(7, 3)] * 2
    assert shapes_in_layers(ours, tokens) == [(16,)] * 2


def test_a_models_training_packs(build_model, make_sample):
    """Called as a criterion calls it: fairseq's BART asks its encoder for the states of all layers."""
    model = build_model(cross_attention="full", encoder_layers=2).train()
    found = []
    model.encoder.layers[0].register_forward_pre_hook(lambda _, x: found.append(x[0].shape[:-1]))
    model(**make_sample([5, 3])["net_input"], prev_output_tokens=torch.full((2, 4), 5))
    assert found == [(8,)]


def test_the_output_says_where_padding_is_and_has_zeros_there(pair):
    stock, ours = pair()
    tokens = batch_of(["xxxx...", "..xxxxx", "......."])
    expected, found = stock(tokens), ours(tokens)
    assert found.keys() == expected.keys()
    for name in ("encoder_padding_mask", "encoder_embedding", "src_lengths"):
        assert torch.equal(found[name][0], expected[name][0])
    assert found["encoder_out"][0].shape == (7, 3, 32)
    assert not found["encoder_out"][0][tokens.eq(1).T].any()


@pytest.mark.parametrize("rows", [["xxxxxxx", "xxxxxxx"], [".......", "......."]])
def test_without_padding_and_without_tokens_it_is_stocks_to_the_bit(pair, rows):
    stock, ours = pair()
    outputs = [encoder(batch_of(rows))["encoder_out"][0] for encoder in (stock, ours)]
    torch.testing.assert_close(*outputs, rtol=0, atol=0, equal_nan=True)


def test_evaluation_of_short_sources_is_stocks_to_the_bit_and_of_long_ones_packed(pair, monkeypatch):
    stock, ours = (encoder.eval() for encoder in pair())
    tokens = batch_of(["xxxx...", "..xxxxx"])
    for least, packed in ((8, False), (7, True)):
        monkeypatch.setattr(packed_encoder, "LONG_SOURCE", least)
        expected, found = (encoder(tokens)["encoder_out"][0] for encoder in (stock, ours))
        real = tokens.ne(1).T
        torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-12)
        assert torch.equal(found, expected) == (not packed)


def test_whoever_asks_for_the_states_of_all_layers_gets_fairseqs(pair):
    stock, ours = pair()
    tokens = batch_of(["xxxx...", "..xxxxx"])
    expected, found = (encoder(tokens, return_all_hiddens=True)["encoder_states"] for encoder in (stock, ours))
    assert len(expected) == 3 and all(torch.equal(*states) for states in zip(expected, found, strict=True))


@pytest.mark.parametrize("option", ["onnx_trace", "skip_embed_dim_check", "add_zero_attn", "use_xformers"])
def test_what_fairseq_computes_otherwise_is_left_to_it(pair, option, monkeypatch):
    _, ours = pair()
    monkeypatch.setattr(MultiheadAttention, "_xformers_attn_forward", lambda self, query, *_: (query, None))
    setattr(ours.layers[1].self_attn, option, True)
    assert shapes_in_layers(ours, batch_of(["xxxx...", "..xxxxx"])) == [(7, 2)] * 2


def test_embeddings_in_place_of_tokens(pair):
    stock, ours = pair()
    tokens = batch_of(["xxxx...", "..xxxxx"])
    embeddings = torch.randn(2, 7, 32, dtype=torch.float64)
    outputs = [encoder(tokens, token_embeddings=embeddings)["encoder_out"][0] for encoder in (stock, ours)]
    torch.testing.assert_close(*(x[tokens.ne(1).T] for x in outputs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{"encoder_normalize_before": True}, {"encoder_layerdrop": 0.5}])
def test_other_layers(pair, options):
    stock, ours = pair(**options)
    tokens = batch_of(["xxxx...", "..xxxxx"])
    results = []
    for encoder in (stock, ours):
        torch.manual_seed(4)  # which layers are dropped
        results.append(encoder(tokens)["encoder_out"][0][tokens.ne(1).T])
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)


def test_quantization_noise_leaves_the_attentions_weights_alone_as_in_fairseqs(pair):
    _, ours = pair(quant_noise_pq=0.5, quant_noise_pq_block_size=4)
    before = [p.clone() for p in ours.layers[0].self_attn.parameters()]
    ours.layers[0].self_attn.q_proj.register_forward_pre_hook(lambda *_: pytest.fail("a hook of the projection ran"))
    ours(batch_of(["xxxx...", "..xxxxx"]))
    assert all(torch.equal(*pair) for pair in zip(before, ours.layers[0].self_attn.parameters()))


def test_dropout_of_weights_is_on_in_training_only_unless_retained(pair, monkeypatch):
    monkeypatch.setattr(packed_encoder, "LONG_SOURCE", 1)
    _, ours = pair(attention_dropout=0.5)
    tokens = batch_of(["xxxx...", "..xxxxx"])

    def differs():
        return not torch.equal(*(ours(tokens)["encoder_out"][0] for _ in range(2)))

    assert differs()
    ours.eval()
    assert not differs()
    for layer in ours.layers:
        dropout = layer.self_attn.dropout_module
        dropout.make_generation_fast_("", retain_dropout=True, retain_dropout_modules=["MultiheadAttention"])
    assert differs()


def loss_and_gradients(model, *samples):
    previous = torch.randint(4, 20, (len(samples[0]["id"]), 9), generator=torch.Generator().manual_seed(5))
    # all forward passes before the backward pass
    losses = [model(**x["net_input"], prev_output_tokens=previous)[0].logsumexp(-1).sum() for x in samples]
    sum(losses).backward()
    return [*losses, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("kind", ["srformer", "segmented", "full", "hepos"])
@pytest.mark.parametrize("encoder", ["full", "chunked"])
@pytest.mark.parametrize("left_pad", [True, False])
def test_a_models_loss_and_gradients_are_those_with_the_mask(
    build_model, make_sample, monkeypatch, kind, encoder, left_pad
):
    chunks = {"encoder_chunk": 8, "encoder_context": 2} if encoder == "chunked" else {}
    results = []
    for packs in (True, False):
        if not packs:
            monkeypatch.setattr(PackedEncoder, "_packs", lambda *_: False)
        options = {"cross_attention": kind, "head_stride": 2, "encoder_attention": encoder, **chunks}
        model = build_model(encoder_layers=2, spread=2.0, **options).double().train()
        results.append(loss_and_gradients(model, make_sample([23, 5, 14, 14], left_pad=left_pad)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kind", ["srformer", "hepos"])
def test_recomputation_gives_the_gradients_of_its_own_batch(build_model, make_sample, kind):
    """Two forward passes before one backward pass: the second one's packing is not the first one's."""
    results = []
    for checkpointed in (False, True):
        options = {"encoder_layers": 2, "decoder_layers": 2, "cross_attention": kind, "head_stride": 2}
        model = build_model(checkpoint_activations=checkpointed, **options).double().train()
        results.append(loss_and_gradients(model, make_sample([23, 5]), make_sample([9, 23])))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_layers_are_fairseqs_but_for_the_class_of_their_attention(build_model):
    options = {"encoder_layers": 2, "encoder_layerdrop": 0.2, "checkpoint_activations": True}
    ours = build_model("srformer_bart_tiny", cross_attention="full", **options)
    stock = build_model("bart_base", **SIZES, **options)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    attentions = [type(module) for module in ours.encoder.modules() if isinstance(module, MultiheadAttention)]
    assert attentions == [PackedSelfAttention] * 2
    for a, b in zip(ours.encoder.modules(), stock.encoder.modules(), strict=True):
        assert type(a) is type(b) or isinstance(a, (PackedSelfAttention, PackedEncoder))
        assert hasattr(a, "precheckpoint_forward") == hasattr(b, "precheckpoint_forward")
        # for --retain-dropout-modules: fairseq documents TransformerEncoderLayer, and its own layer has the other name
        documented = getattr(b, "module_name", None)
        assert getattr(a, "module_name", None) == (documented and documented.removesuffix("Base"))
    assert not any(isinstance(module, PackedSelfAttention) for module in ours.decoder.modules())


def test_a_window_keeps_its_mask(build_model):
    model = build_model(encoder_attention="window", encoder_window=2).train()
    assert shapes_in_layers(model.encoder, batch_of(["xxxx...", "..xxxxx"])) == [(7, 2)]


@pytest.mark.gpu
def test_in_half_precision_on_a_gpu_short_sources_are_packed_and_in_float32_not(build_model):
    tokens = batch_of(["xxxx...", "..xxxxx"]).cuda()
    for dtype, shape in ((torch.bfloat16, (9,)), (torch.float32, (7, 2))):
        model = build_model(encoder_layers=1, encoder_attention_heads=4).cuda().to(dtype).train()
        assert shapes_in_layers(model.encoder, tokens) == [shape]
