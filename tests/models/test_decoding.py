"""Decoding equals training: what incremental beam search scores is what teacher forcing computes."""

import pytest
import torch
from fairseq.search import Sampling
from fairseq.sequence_generator import SequenceGenerator

BY_CONTENT = {"segment_schedule": "content", "segments_per_query": 2}
CHUNKED = {"encoder_attention": "chunked", "encoder_chunk": 6, "encoder_context": 2}
KINDS = [
    {"cross_attention": "srformer"},
    {"cross_attention": "srformer", "kv_clamp": 0.0, "expected_target_length": 3},
    {"cross_attention": "srformer", "segment_schedule": "target", "memory_gate": True},
    {"cross_attention": "segmented"},
    {"cross_attention": "segmented", **BY_CONTENT},
    {"cross_attention": "srformer", **BY_CONTENT},
    {"cross_attention": "pooled", **BY_CONTENT},
    {"cross_attention": "pooled"},
    {"cross_attention": "previous"},
    {"cross_attention": "full"},
    {"cross_attention": "hepos", "head_stride": 2},
    {"cross_attention": "full", **CHUNKED},
    {"cross_attention": "segmented", **BY_CONTENT, **CHUNKED},
]
LENGTHS = [23, 5, 14, 1]


def generate(model, sample, beam, **options):
    options = {"max_len_b": 14, "normalize_scores": True, **options}
    generator = SequenceGenerator([model], model.decoder.dictionary, beam_size=beam, **options)
    return generator.generate([model], sample)


def teacher_forced_scores(model, source, tokens):
    """Log-probability of every token of one hypothesis, its source alone and unpadded."""
    dictionary = model.decoder.dictionary
    previous = torch.cat((torch.tensor([dictionary.eos()]), tokens[:-1])).unsqueeze(0)
    source = source[source != dictionary.pad()].unsqueeze(0)
    encoder_out = model.encoder(source, src_lengths=torch.tensor([source.size(1)]))
    decoder = model.decoder
    if decoder.settings.segment_schedule == "target" and not decoder.settings.is_full:
        # In decoding nobody knows the target's length: compare under the stored one.
        previous = torch.cat((previous, torch.full((1, 64 - previous.size(1)), dictionary.pad())), dim=1)
        output = [
            decoder(previous[:, : t + 1], encoder_out=encoder_out, incremental_state=state)
            for state in [{}]
            for t in range(tokens.numel())
        ]
        logits = torch.cat([step[0] for step in output], dim=1)
    else:
        logits = decoder(previous, encoder_out=encoder_out)[0]
    return logits.log_softmax(-1)[0, : tokens.numel()].gather(1, tokens.unsqueeze(1)).squeeze(1)


def check_scores(model, sample, hypotheses):
    for row, beams in enumerate(hypotheses):
        assert beams
        for hypothesis in beams:
            forced = teacher_forced_scores(model, sample["net_input"]["src_tokens"][row], hypothesis["tokens"])
            torch.testing.assert_close(hypothesis["positional_scores"], forced, rtol=0, atol=1e-4)
            total = hypothesis["score"] * hypothesis["tokens"].numel()
            torch.testing.assert_close(total, forced.sum(), rtol=0, atol=1e-4 * hypothesis["tokens"].numel())


@pytest.mark.parametrize("beam", [1, 4, 10])
@pytest.mark.parametrize("options", KINDS, ids=lambda o: "-".join(map(str, o.values())))
@torch.no_grad()
def test_beam_search_scores_are_those_of_teacher_forcing(build_model, make_sample, options, beam):
    model, sample = build_model(**options), make_sample(LENGTHS)
    check_scores(model, sample, generate(model, sample, beam))


@pytest.mark.parametrize("options", [{}, {"cross_attention": "segmented", **BY_CONTENT}], ids=["clock", "content"])
@pytest.mark.parametrize("beam", [1, 4])
@torch.no_grad()
def test_so_are_they_after_a_prefix(build_model, make_sample, beam, options):
    model, sample = build_model(**options), make_sample(LENGTHS)
    dictionary = model.decoder.dictionary
    prefix = torch.randint(dictionary.nspecial, len(dictionary), (len(LENGTHS), 5))
    prefix[1, 2:] = dictionary.pad()  # prefixes of different lengths
    generator = SequenceGenerator([model], dictionary, beam_size=beam, max_len_b=14)
    hypotheses = generator.generate([model], sample, prefix_tokens=prefix)
    for row, beams in enumerate(hypotheses):
        wanted = prefix[row][prefix[row] != dictionary.pad()]
        assert torch.equal(beams[0]["tokens"][: wanted.numel()], wanted)
    check_scores(model, sample, hypotheses)


@torch.no_grad()
def test_so_are_those_of_sampling_and_of_hypotheses_longer_than_the_schedule(build_model, make_sample):
    model, sample = build_model(expected_target_length=3), make_sample(LENGTHS)
    dictionary = model.decoder.dictionary
    check_scores(model, sample, generate(model, sample, 3, search_strategy=Sampling(dictionary), min_len=6))
    check_scores(model, sample, generate(model, sample, 4, min_len=12))


@torch.no_grad()
def test_a_first_call_with_several_tokens_knows_where_it_is(build_model, make_sample):
    """A prompt of n tokens handed over at once: the last token is position n - 1, not 0, for the schedule."""
    model, sample = build_model(decoder_layers=1), make_sample([23])
    attention = model.decoder.layers[0].encoder_attn
    plans = []
    original = attention.schedule.plan
    attention.schedule.plan = lambda *args, **kwargs: plans.append(original(*args, **kwargs)) or plans[-1]
    encoder_out = model.encoder.forward_torchscript(sample["net_input"])
    model.decoder(torch.full((1, 6), 5), encoder_out=encoder_out, incremental_state={})
    assert plans[0].segments.flatten().tolist() == [5 * 6 // 8]


@pytest.mark.parametrize("options", KINDS, ids=lambda o: "-".join(map(str, o.values())))
@torch.no_grad()
def test_a_hypothesis_depends_neither_on_the_batch_nor_on_the_padding(build_model, make_sample, options):
    model = build_model(**options)
    together = generate(model, make_sample(LENGTHS, left_pad=True), 4)
    for other in (make_sample(LENGTHS, left_pad=False, width=30), make_sample(LENGTHS, width=41)):
        for a, b in zip(together, generate(model, other, 4)):
            assert torch.equal(a[0]["tokens"], b[0]["tokens"])
            torch.testing.assert_close(a[0]["score"], b[0]["score"], rtol=0, atol=1e-4)
    sources = make_sample(LENGTHS)["net_input"]["src_tokens"]
    for row, length in enumerate(LENGTHS):
        alone = sources[row, -length:].unsqueeze(0)
        sample = {"net_input": {"src_tokens": alone, "src_lengths": torch.tensor([length])}}
        hypothesis = generate(model, sample, 4)[0][0]
        assert torch.equal(hypothesis["tokens"], together[row][0]["tokens"])


@pytest.mark.parametrize("kind", ["srformer", "full"])
@torch.no_grad()
def test_source_tensors_are_kept_once_per_sentence(build_model, make_sample, kind):
    model, sample, beam = build_model(cross_attention=kind), make_sample(LENGTHS), 5
    states = []
    forward = model.decoder.forward
    model.decoder.forward = lambda *a, **k: states.append(k["incremental_state"]) or forward(*a, **k)
    generate(model, sample, beam)
    attention = model.decoder.layers[0].encoder_attn
    saved = attention.get_incremental_state(states[-1], "attn_state")
    hypotheses = model.decoder.layers[0].self_attn.get_incremental_state(states[-1], "attn_state")["prev_key"].size(0)
    for name in ("prev_key", "prev_value") + (("memory",) if kind == "srformer" else ()):
        assert saved[name].size(0) * beam == hypotheses, name


@torch.no_grad()
def test_sentences_that_finish_early_leave_the_others_their_own_sources(build_model, make_sample):
    """The batch shrinks while decoding; every remaining sentence keeps its keys, values, memory and length."""
    model = build_model()
    lengths = [23, 5, 14, 9, 19, 2, 11, 7]
    sample = make_sample(lengths)
    hypotheses = generate(model, sample, 4, max_len_b=20)
    finished_at = {beams[0]["tokens"].numel() for beams in hypotheses}
    assert len(finished_at) > 1
    check_scores(model, sample, hypotheses)


@pytest.mark.parametrize("kind", ["srformer", "full"])
@torch.no_grad()
def test_a_generator_leaves_no_beam_size_behind(build_model, make_sample, kind):
    """After decoding with beam 4, teacher forcing and greedy decoding of the same model are unchanged."""
    model, sample = build_model(cross_attention=kind), make_sample([23, 5, 14, 9])
    previous = torch.randint(4, 20, (4, 6))
    before = model(**sample["net_input"], prev_output_tokens=previous)[0]
    greedy = generate(model, sample, 1)
    generate(model, sample, 4)
    torch.testing.assert_close(model(**sample["net_input"], prev_output_tokens=previous)[0], before)
    for a, b in zip(greedy, generate(model, sample, 1)):
        assert torch.equal(a[0]["tokens"], b[0]["tokens"])


@torch.no_grad()
def test_loss_of_a_sentence_does_not_depend_on_its_batch(build_model, make_sample):
    model, sample = build_model(segment_schedule="target"), make_sample(LENGTHS)
    previous = torch.randint(4, 20, (4, 9))
    target_lengths = [9, 4, 6, 2]
    for row, length in enumerate(target_lengths):
        previous[row, length:] = model.decoder.padding_idx
    together = model(**sample["net_input"], prev_output_tokens=previous)[0]
    for row, (source, target) in enumerate(zip(LENGTHS, target_lengths)):
        tokens = sample["net_input"]["src_tokens"][row, -source:].unsqueeze(0)
        alone = model(tokens, torch.tensor([source]), previous[row, :target].unsqueeze(0))[0]
        torch.testing.assert_close(together[row, :target], alone[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", KINDS, ids=lambda o: "-".join(map(str, o.values())))
@torch.no_grad()
def test_alignment_is_returned_only_when_asked(build_model, make_sample, options):
    model, sample = build_model(**options), make_sample(LENGTHS)
    previous = torch.randint(4, 20, (4, 6))
    assert model(**sample["net_input"], prev_output_tokens=previous)[1]["attn"] == [None]
    assert model.train()(**sample["net_input"], prev_output_tokens=previous)[1]["attn"] == [None]
    asked = model.eval()(**sample["net_input"], prev_output_tokens=previous, alignment_layer=0)[1]["attn"][0]
    assert asked.shape == (4, 6, 23)
    total = torch.ones(4, 6)
    if "head_stride" in options:
        total[3] = 1 / 2  # the mean over heads, of which every second one has nothing to read in a single token
    torch.testing.assert_close(asked.sum(-1), total)
    assert "attention" in generate(model, sample, 4)[0][0]
    assert generate(model, sample, 4)[0][0]["attention"].numel() == 0
    model.make_generation_fast_(need_attn=True)  # what fairseq-generate --print-alignment does
    hypothesis = generate(model, sample, 4)[0][0]
    assert hypothesis["attention"].shape == (23, hypothesis["tokens"].numel())
    torch.testing.assert_close(hypothesis["attention"].sum(0), torch.ones(hypothesis["tokens"].numel()))


@torch.no_grad()
def test_target_schedule_trains_by_the_true_length_and_decodes_by_the_stored_one(build_model, make_sample):
    """Teacher forcing of 5 tokens goes as a fixed schedule of length 5 does; decoding as one of the stored 8."""
    sample, previous = make_sample([23]), torch.randint(4, 20, (1, 5))
    target, five, eight = (
        build_model(segment_schedule=name, expected_target_length=length)
        for name, length in (("target", 8), ("fixed", 5), ("fixed", 8))
    )
    scored = [model(**sample["net_input"], prev_output_tokens=previous)[0] for model in (target, five, eight)]
    torch.testing.assert_close(scored[0], scored[1])
    assert not torch.allclose(scored[0], scored[2])
    decoded = [generate(model, sample, 2)[0][0]["positional_scores"] for model in (target, eight)]
    torch.testing.assert_close(*decoded)
