"""SRformer-T5 as a T5 (against `transformers`) and as a fairseq model: sizes, decoding, padding, half precision."""

import argparse
import copy

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.sequence_generator import SequenceGenerator

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.t5_modules import MASKED, RelativePositionBias, WideLinear, relative_position_bucket
from srformer_plugin.models.t5_names import (
    OUTPUT,
    ROWS_ARE_TOKENS,
    SHARED_EMBEDDINGS,
    hf_names,
    t5_names,
    t5_row_of_fairseq_id,
)

PAD, EOS = 1, 2  # fairseq's
VERSIONS = {
    "v1.0": {"feed_forward": "relu", "untied_output": False},
    "v1.1": {"feed_forward": "gated-gelu", "untied_output": True},
}
KINDS = ["srformer", "segmented", "full"]
LENGTHS = [23, 5, 14, 9]


@pytest.fixture
def build_t5(build_model):
    """A tiny T5 of 2 + 3 layers. Its initial weights are T5's times `spread`: attention is far from uniform."""

    def build(spread=1.5, **options):
        options = {"encoder_layers": 2, "decoder_layers": 3, **options}
        return build_model(options.pop("arch", "srformer_t5_tiny"), spread=spread, **options)

    return build


@pytest.fixture(scope="session")
def transformers():
    package = pytest.importorskip("transformers", reason="the development extra (transformers) is not installed")
    # It imports torchaudio wherever that is installed. fairseq requires it, usable or not, and uses it nowhere.
    package.utils.is_torchaudio_available = package.utils.import_utils.is_torchaudio_available = lambda: False
    return package


def targets(lengths, left_pad=False, seed=5):
    """prev_output_tokens (B, T) as fairseq makes them: each row starts with </s>."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in enumerate(lengths):
        words = torch.randint(4, 24, (length,), generator=generator)
        words[0] = EOS
        start = max(lengths) - length if left_pad else 0
        tokens[row, start : start + length] = words
    return tokens


def logits(model, sample, previous):
    return model(**sample["net_input"], prev_output_tokens=previous)[0]


# ---- T5 itself


def hugging_face_t5(transformers, version, rows=24):
    """A random T5 of Hugging Face, of the size of `build_t5`'s."""
    config = transformers.T5Config(
        vocab_size=rows, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=3, num_heads=2,
        feed_forward_proj=version["feed_forward"], tie_word_embeddings=not version["untied_output"],
    )  # fmt: skip
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
    assert hf_names(*shape) == {ours: theirs for theirs, ours in names.items()}
    assert len(hf_names(*shape)) == len(names)
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
        layer.encoder_attn.memory.proj: 64**-0.5 / 3**0.5,  # uniform in +-64^-0.5: MATH.md section 3
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


# ---- the start of a target


@pytest.mark.parametrize("decoding", [False, True])
@torch.no_grad()
def test_a_target_starts_with_pad_in_teacher_forcing_and_decoding(build_t5, make_sample, decoding):
    """What fairseq calls </s> there: the first logits depend on the embedding of <pad>, not of </s>."""
    model, sample, previous = build_t5(untied_output=True), make_sample(LENGTHS), targets([9, 4, 6, 2])
    encoded = model.encoder.forward_torchscript(sample["net_input"])

    def first_logits():
        if decoding:
            return model.decoder(previous[:, :1], encoder_out=encoded, incremental_state={})[0]
        return model.decoder(previous, encoder_out=encoded)[0][:, :1]

    table, before = model.decoder.embed_tokens.weight, first_logits()
    table[EOS] += 1
    assert torch.equal(first_logits(), before)
    table[PAD] += 1
    assert (first_logits() - before).abs().max() > 0.01


def test_only_the_first_token_of_a_target_is_a_start(build_t5):
    start = build_t5().decoder.start_with_pad
    tokens = torch.tensor([[EOS, 7, EOS, PAD], [PAD, EOS, EOS, 8], [9, EOS, 7, PAD]])
    expected = torch.tensor([[PAD, 7, EOS, PAD], [PAD, PAD, EOS, 8], [9, EOS, 7, PAD]])
    assert torch.equal(start(tokens), expected)


@pytest.mark.parametrize("arch", ["srformer_t5_tiny", "srformer_bart_tiny"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_targets_may_be_padded_on_either_side_and_do_not_depend_on_the_batch(build_t5, make_sample, kind, arch):
    model, sample, lengths = build_t5(arch=arch, cross_attention=kind), make_sample(LENGTHS), [9, 4, 6, 2]
    right, left = targets(lengths), targets(lengths, left_pad=True)
    a, b = (logits(model, sample, previous)[previous.ne(PAD)] for previous in (right, left))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    for row, (source, target) in enumerate(zip(LENGTHS, lengths)):
        tokens = sample["net_input"]["src_tokens"][row, -source:].unsqueeze(0)
        alone = model(tokens, torch.tensor([source]), right[row, :target].unsqueeze(0))[0][0]
        torch.testing.assert_close(a[sum(lengths[:row]) :][:target], alone, rtol=0, atol=1e-5)
    extras = [model(**sample["net_input"], prev_output_tokens=x, alignment_layer=0)[1] for x in (left, right)]
    for a, b in zip(*((extra["attn"][0], extra["inner_states"][-1].transpose(0, 1)) for extra in extras)):
        torch.testing.assert_close(a[left.ne(PAD)], b[right.ne(PAD)], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_several_targets_may_share_a_source(build_t5, make_sample, kind):
    model, sample = build_t5(cross_attention=kind), make_sample(LENGTHS)
    previous = targets([9, 4, 6, 2, 7, 9, 3, 8])
    encoded = model.encoder.forward_torchscript(sample["net_input"])
    rows = torch.arange(4).repeat_interleave(2)
    copied = model.encoder.reorder_encoder_out(encoded, rows)
    expected, shared = (model.decoder(previous, encoder_out=sources)[0] for sources in (copied, encoded))
    torch.testing.assert_close(shared[previous.ne(PAD)], expected[previous.ne(PAD)], rtol=0, atol=1e-5)


@torch.no_grad()
def test_without_a_causal_mask_padding_is_not_seen_either(build_t5, make_sample):
    """`full_context_alignment`, which fairseq's alignment training asks for."""
    model, sample, previous = build_t5(), make_sample(LENGTHS), targets([9, 4, 6, 2])
    encoded = model.encoder.forward_torchscript(sample["net_input"])
    together = model.decoder(previous, encoder_out=encoded, full_context_alignment=True)[0]
    for row, length in enumerate([9, 4, 6, 2]):
        source = model.encoder.reorder_encoder_out(encoded, torch.tensor([row]))
        alone = model.decoder(previous[row : row + 1, :length], encoder_out=source, full_context_alignment=True)[0]
        torch.testing.assert_close(together[row, :length], alone[0], rtol=0, atol=1e-5)


# ---- decoding


def generate(model, sample, beam, **options):
    generator = SequenceGenerator([model], model.decoder.dictionary, beam_size=beam, **{"max_len_b": 14, **options})
    return generator.generate([model], sample)


def check_scores(model, sample, hypotheses):
    """Every token's score is what teacher forcing computes for the sentence alone."""
    for row, beams in enumerate(hypotheses):
        assert beams
        source = sample["net_input"]["src_tokens"][row]
        source = source[source.ne(PAD)].unsqueeze(0)
        for hypothesis in beams:
            tokens = hypothesis["tokens"]
            previous = torch.cat((torch.tensor([EOS]), tokens[:-1])).unsqueeze(0)
            scores = model(source, torch.tensor([source.size(1)]), previous)[0].log_softmax(-1)[0]
            forced = scores.gather(1, tokens.unsqueeze(1)).squeeze(1)
            torch.testing.assert_close(hypothesis["positional_scores"], forced, rtol=0, atol=1e-4)


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_decoding_equals_teacher_forcing(build_t5, make_sample, kind, version, beam):
    """Beyond relative positions of one bucket, and beyond the schedule's expected length."""
    model = build_t5(
        cross_attention=kind, relative_position_buckets=8, relative_position_max_distance=10, **VERSIONS[version]
    )
    sample = make_sample([23, 5, 14, 9, 2, 1])
    hypotheses = generate(model, sample, beam, max_len_b=20, min_len=1 if beam > 1 else 12)
    check_scores(model, sample, hypotheses)


@torch.no_grad()
def test_so_it_does_after_a_prefix(build_t5, make_sample):
    model, sample = build_t5(), make_sample(LENGTHS)
    prefix = torch.randint(4, 24, (4, 5))
    prefix[1, 2:] = PAD
    hypotheses = generate(model, sample, 4, max_len_b=14, min_len=6)
    generator = SequenceGenerator([model], model.decoder.dictionary, beam_size=4, max_len_b=14)
    hypotheses += generator.generate([model], sample, prefix_tokens=prefix)
    check_scores(model, {"net_input": {"src_tokens": sample["net_input"]["src_tokens"].repeat(2, 1)}}, hypotheses)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_hypothesis_depends_neither_on_the_batch_nor_on_the_padding(build_t5, make_sample, kind):
    model = build_t5(cross_attention=kind)
    together = generate(model, make_sample(LENGTHS), 4)
    others = [generate(model, make_sample(LENGTHS, left_pad=False, width=30), 4)]
    sources = make_sample(LENGTHS)["net_input"]["src_tokens"]
    alone = [
        {"net_input": {"src_tokens": sources[row : row + 1, -length:], "src_lengths": torch.tensor([length])}}
        for row, length in enumerate(LENGTHS)
    ]
    others.append([generate(model, sample, 4)[0] for sample in alone])
    for other in others:
        for a, b in zip(together, other):
            assert torch.equal(a[0]["tokens"], b[0]["tokens"])
            torch.testing.assert_close(a[0]["score"], b[0]["score"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_source_tensors_are_kept_once_per_sentence_and_own_ones_once_per_beam(build_t5, make_sample, kind):
    model, states = build_t5(cross_attention=kind), []
    forward = model.decoder.forward
    model.decoder.forward = lambda *a, **k: states.append(k["incremental_state"]) or forward(*a, **k)
    generate(model, make_sample(LENGTHS), 5)
    layer = model.decoder.layers[0]
    kept = layer.encoder_attn.get_incremental_state(states[-1], "attn_state")["prev_key"]
    own = layer.self_attn.get_incremental_state(states[-1], "attn_state")["prev_key"]
    assert kept.size(0) * 5 == own.size(0)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_alignment_is_returned_only_when_asked(build_t5, make_sample, kind):
    model, sample, previous = build_t5(cross_attention=kind), make_sample(LENGTHS), targets([6] * 4)
    assert model(**sample["net_input"], prev_output_tokens=previous)[1]["attn"] == [None]
    asked = model(**sample["net_input"], prev_output_tokens=previous, alignment_layer=1)
    torch.testing.assert_close(asked[1]["attn"][0].sum(-1), torch.ones(4, 6))
    assert asked[1]["attn"][0][sample["net_input"]["src_tokens"].eq(PAD)[:, None].expand(-1, 6, -1)].max() == 0
    torch.testing.assert_close(asked[0], logits(model, sample, previous), rtol=0, atol=1e-5)


# ---- training


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


# ---- half precision


def with_large_activations(model, factor):
    """Let the feed-forward of `model` produce `factor`^2 times as much."""
    with torch.no_grad():
        for layer in (*model.encoder.layers, *model.decoder.layers):
            layer.fc1.weight.mul_(factor)
            layer.fc2.weight.mul_(factor)
    return model


def states_of(model, sample, previous):
    encoded = model.encoder(**{**sample["net_input"], "return_all_hiddens": True})
    output, extra = model.decoder(previous, encoder_out=encoded)
    return output, [*encoded["encoder_states"], *extra["inner_states"]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_fp16_computes_what_float32_does_where_activations_pass_its_largest_number(
    build_t5, make_sample, version, kind
):
    model = build_t5(spread=1.0, cross_attention=kind, **VERSIONS[version])
    with_large_activations(model, 300 if version == "v1.0" else 200).half()
    sample, previous = make_sample(LENGTHS), targets([9, 4, 6, 2])
    expected, wide = states_of(copy.deepcopy(model).float(), sample, previous)
    assert max(state.abs().max() for state in wide) > 2 * torch.finfo(torch.float16).max
    output, states = states_of(model, sample, previous)
    assert output.dtype == torch.float16
    for ours, theirs in zip(states, wide):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.float(), theirs, rtol=0.05, atol=0.01 * theirs.abs().max().item())
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("factor", [1, 300, 60_000])
def test_fp16_trains_to_finite_gradients_whatever_overflows(build_t5, make_sample, version, factor):
    """With 60,000 the first projection overflows as well, and dropout scales what was clamped."""
    model = build_t5(spread=1.0, dropout=0.2, **VERSIONS[version]).half().train()
    with torch.no_grad():
        for layer in (*model.encoder.layers, *model.decoder.layers):
            layer.fc1.weight.mul_(factor).clamp_(-60_000, 60_000)
            layer.fc2.weight.mul_(min(factor, 1000))
    output = logits(model, make_sample(LENGTHS), targets([9, 4, 6, 2]))
    assert output.isfinite().all()
    output.float().log_softmax(-1)[..., 5].mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_the_scaled_product_has_the_values_and_gradients_of_a_plain_one():
    torch.manual_seed(0)
    scaled = WideLinear(64, 16).half()
    plain = copy.deepcopy(scaled).float()
    x = (torch.randn(5, 64) * torch.tensor([1e-3, 1.0, 30.0, 1e3, 1e4]).unsqueeze(1)).half()
    a, b = x.clone().requires_grad_(), x.float().requires_grad_()
    scaled(a).sum().backward()
    plain(b).sum().backward()
    torch.testing.assert_close(scaled(x), plain(x.float()), rtol=2e-3, atol=2e-3 * x.abs().max().item() * 1e-3)
    torch.testing.assert_close(a.grad.float(), b.grad, rtol=5e-3, atol=5e-3)
    torch.testing.assert_close(scaled.weight.grad.float(), plain.weight.grad, rtol=1e-2, atol=20)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_bf16_is_close_to_float32_and_decodes(build_t5, make_sample, kind):
    model = build_t5(spread=1.0, cross_attention=kind).bfloat16()
    sample, previous = make_sample(LENGTHS), targets([9, 4, 6, 2])
    expected = logits(copy.deepcopy(model).float(), sample, previous)
    torch.testing.assert_close(logits(model, sample, previous).float(), expected, rtol=0.05, atol=0.15)
    assert all(beams for beams in generate(model, sample, 4))
