"""What SRformer-T5 makes of targets: their start, their padding, and decoding as in teacher forcing."""

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from models.t5 import EOS, KINDS, LENGTHS, PAD, VERSIONS, generate, logits, targets


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
