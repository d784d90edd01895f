"""SRformer-T5 is a T5: the numbers, names, sizes and initial values of `transformers` and of the paper."""

import argparse

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from models.t5 import KINDS, LENGTHS, PAD, VERSIONS, logits, targets

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.t5_modules import MASKED, RelativePositionBias, relative_position_bucket
from srformer_plugin.models.t5_names import (
    OUTPUT,
    ROWS_ARE_TOKENS,
    SHARED_EMBEDDINGS,
    t5_names,
    t5_row_of_fairseq_id,
)


@pytest.fixture(scope="session")
def transformers():
    package = pytest.importorskip("transformers", reason="the development extra (transformers) is not installed")
    # It imports torchaudio wherever that is installed. fairseq requires it, usable or not, and uses it nowhere.
    package.utils.is_torchaudio_available = package.utils.import_utils.is_torchaudio_available = lambda: False
    return package


def hugging_face_t5(transformers, version, rows=24):
    """A random T5 of Hugging Face, of the size of `build_t5`'s."""
    config = transformers.T5Config(
        vocab_size=rows,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=3,
        num_heads=2,
        feed_forward_proj=version["feed_forward"],
        tie_word_embeddings=not version["untied_output"],
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    if version["untied_output"]:  # today's transformers ties it in a new model whatever the configuration says
        model.lm_head.weight = torch.nn.Parameter(torch.randn(rows, 32) * 32**-0.5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            if "relative_attention_bias" in name:
                parameter.mul_(8)
    return model


def in_fairseqs_names(theirs, version):
    """The state of Hugging Face's model as one that `load_state_dict` takes."""
    tied = not version["untied_output"]
    state = {ours: theirs[name] for name, ours in t5_names(2, 3, version["feed_forward"], tied).items()}
    for key in SHARED_EMBEDDINGS + ((OUTPUT,) if tied else ()):
        state[key] = theirs["shared.weight"]
    for key in ROWS_ARE_TOKENS:
        rows = len(state[key])
        state[key] = state[key][t5_row_of_fairseq_id(torch.arange(rows), rows)]
    return state


@pytest.mark.parametrize("left_pad", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
@torch.no_grad()
def test_logits_are_those_of_transformers(transformers, build_t5, make_sample, version, kind, left_pad):
    """With full cross-attention, and with the others where one segment holds the source."""
    theirs = hugging_face_t5(transformers, VERSIONS[version])
    ours = build_t5(cross_attention=kind, segment_size=23, **VERSIONS[version])
    ours.load_state_dict(in_fairseqs_names(theirs.state_dict(), VERSIONS[version]))

    sample, previous = make_sample(LENGTHS, left_pad=left_pad), targets([40, 4, 26, 2])
    source = sample["net_input"]["src_tokens"]
    start = previous.clone()
    start[:, 0] = PAD
    rows = t5_row_of_fairseq_id(torch.arange(24), 24)
    expected = theirs(
        input_ids=rows[source], attention_mask=source.ne(PAD).long(), decoder_input_ids=rows[start]
    ).logits[:, :, rows]
    real = previous.ne(PAD)
    torch.testing.assert_close(logits(ours, sample, previous)[real], expected[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (16, 20), (32, 1000)])
def test_buckets_are_those_of_transformers(transformers, bidirectional, buckets, max_distance):
    from transformers.models.t5.modeling_t5 import T5Attention

    relative = torch.arange(-3000, 3001)
    expected = T5Attention._relative_position_bucket(relative, bidirectional, buckets, max_distance)
    assert torch.equal(relative_position_bucket(relative, bidirectional, buckets, max_distance), expected)


@pytest.mark.parametrize(
    ("relative", "bidirectional", "bucket"),
    [
        (0, True, 0), (-7, True, 7), (7, True, 23), (-8, True, 8), (-127, True, 15), (-5000, True, 15),
        (5000, True, 31), (0, False, 0), (-15, False, 15), (-16, False, 16), (-5000, False, 31), (3, False, 0),
    ],
)  # fmt: skip
def test_near_positions_have_a_bucket_each_and_far_ones_share(relative, bidirectional, bucket):
    assert relative_position_bucket(torch.tensor(relative), bidirectional).item() == bucket


@pytest.mark.parametrize("causal", [True, False])
def test_the_bias_of_a_pair_is_that_of_its_bucket(causal):
    table = RelativePositionBias(2, bidirectional=not causal, num_buckets=8, max_distance=10)
    padding = torch.zeros(3, 15, dtype=torch.bool)
    padding[1, :4] = padding[2, 9:] = True
    bias = table(5, 7, 15, padding, causal)
    assert bias.shape == (3, 2, 7, 15)
    for row in range(3):
        for i in range(7):
            for n in range(15):
                masked = padding[row, n] or (causal and n > 5 + i)
                bucket = relative_position_bucket(torch.tensor(n - 5 - i), not causal, 8, 10)
                expected = torch.full((2,), MASKED) if masked else table.weight[bucket]
                assert torch.equal(bias[row, :, i, n], expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_parameter_has_one_name_in_both_worlds(transformers, build_t5, version):
    options = VERSIONS[version]
    shape = (2, 3, options["feed_forward"], not options["untied_output"])
    names = t5_names(*shape)
    assert names.keys() == dict(hugging_face_t5(transformers, options).named_parameters()).keys()
    model = build_t5(cross_attention="full", **options)
    assert set(names.values()) == {name for name, _ in model.named_parameters()}
    assert len(set(names.values())) == len(names)
    copies = set(model.state_dict()) - set(names.values()) - {"encoder.version", "decoder.version"}
    assert copies == {SHARED_EMBEDDINGS[1], *(() if options["untied_output"] else (OUTPUT,))}


@pytest.mark.parametrize(
    ("arch", "parameters", "layers", "width", "heads"),
    [
        ("srformer_t5", 60_506_624, 6, 512, 8),
        ("srformer_t5_small", 60_506_624, 6, 512, 8),
        ("srformer_t5_base", 222_903_552, 12, 768, 12),
        ("srformer_t5_large", 737_668_096, 24, 1024, 16),
        ("srformer_t5_v1_1_small", 76_961_152, 8, 512, 6),
        ("srformer_t5_v1_1_base", 247_577_856, 12, 768, 12),
        ("srformer_t5_v1_1_large", 783_150_080, 24, 1024, 16),
        ("srformer_t5_tiny", None, 1, 32, 2),
    ],
)
def test_architectures_have_t5s_sizes(arch, parameters, layers, width, heads):
    """The numbers of parameters are those of the published models."""
    args = argparse.Namespace(arch=arch, task="translation", cross_attention="full", expected_target_length=8)
    ARCH_CONFIG_REGISTRY[arch](args)
    for side in ("encoder", "decoder"):
        assert getattr(args, f"{side}_layers") == layers
        assert getattr(args, f"{side}_embed_dim") == width
        assert getattr(args, f"{side}_attention_heads") == heads
    if parameters is not None:
        dictionary = Dictionary()
        for number in range(32_128 - len(dictionary)):
            dictionary.add_symbol(str(number))
        task = argparse.Namespace(source_dictionary=dictionary, target_dictionary=dictionary, datasets={})
        with torch.device("meta"):  # no memory
            model = ARCH_MODEL_REGISTRY[arch].build_model(args, task)
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_papers_t5_preset_is_the_default():
    args = argparse.Namespace()
    ARCH_CONFIG_REGISTRY["srformer_t5"](args)
    assert (args.segment_size, args.raf_leak, args.raf_threshold, args.kv_clamp) == (64, 0.1, 0.1, 0.0)
    assert (args.dropout, args.attention_dropout, args.activation_dropout) == (0.1, 0.1, 0.1)


def test_initial_values_are_t5s(build_t5):
    model = build_t5(spread=1.0, encoder_embed_dim=256, d_kv=64, encoder_ffn_embed_dim=512)
    layer = model.decoder.layers[0]
    expected = {
        layer.encoder_attn.q_proj: (256 * 64) ** -0.5,
        layer.self_attn.q_proj: (256 * 64) ** -0.5,
        layer.self_attn.k_proj: 256**-0.5,
        layer.encoder_attn.v_proj: 256**-0.5,
        layer.encoder_attn.out_proj: 128**-0.5,
        layer.fc1: 256**-0.5,
        layer.fc2: 512**-0.5,
        model.decoder.relative_attention_bias: 256**-0.5,
        model.encoder.embed_tokens: 1.0,
        layer.encoder_attn.memory.proj: 64**-0.5 / 3**0.5,  # uniform in +-64^-0.5: docs/attention.md, section 3
    }
    for module, std in expected.items():
        assert module.weight.std().item() == pytest.approx(std, rel=0.2)
    assert layer.encoder_attn.memory.proj.weight.abs().max() <= 64**-0.5
    assert (layer.encoder_attn.memory.leak.item(), layer.encoder_attn.scaling) == (pytest.approx(0.1), 1.0)
    assert layer.encoder_attn.memory.clamp is None
    assert [name for name, _ in model.named_parameters() if name.endswith("bias")] == []


@torch.no_grad()
def test_logits_start_at_unit_variance_tied_or_not(build_t5, make_sample):
    for version in VERSIONS.values():
        model = build_t5(spread=1.0, encoder_embed_dim=256, **version)
        assert 0.5 < logits(model, make_sample(LENGTHS), targets([9] * 4)).std() < 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"feed_forward": "swish"}, "--feed-forward 'swish' is unknown; choose one of: gated-gelu, relu"),
        ({"d_kv": 0}, "--d-kv must be at least 1"),
        ({"relative_position_buckets": 30}, "--relative-position-buckets must be a multiple of 4"),
        ({"relative_position_max_distance": 16}, "--relative-position-max-distance must be above half"),
        ({"segment_size": 0}, "--segment-size must be at least 1"),
    ],
)
def test_a_bad_setting_is_refused(build_t5, flags, message):
    with pytest.raises(ConfigurationError, match=message):
        build_t5(**flags)
