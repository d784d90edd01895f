"""`FastSequenceGenerator` finds what fairseq's `SequenceGenerator` finds."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.search import Sampling
from fairseq.sequence_generator import SequenceGenerator
from hypothesis import given, settings
from hypothesis import strategies as st
from models.conftest import StubTask

from srformer_plugin.attention.method.schedule import SCHEDULES, ClockSchedule
from srformer_plugin.generation import FastSequenceGenerator
from srformer_plugin.generation.beam_search import BeamSearch

LENGTHS = [23, 5, 14, 1, 9]
BY_CONTENT = {"segment_schedule": "content", "segments_per_query": 2}
KINDS = [
    {"cross_attention": "srformer"},
    {"cross_attention": "srformer", "kv_clamp": 0.0, "expected_target_length": 3},
    {"cross_attention": "srformer", "segment_schedule": "target", "memory_gate": True},
    {"cross_attention": "segmented", "decoder_normalize_before": True, "encoder_normalize_before": True},
    {"cross_attention": "full"},
    {"cross_attention": "segmented", **BY_CONTENT},
    {"cross_attention": "srformer", **BY_CONTENT},
    {"cross_attention": "pooled", **BY_CONTENT},
    {"cross_attention": "pooled"},
    {"cross_attention": "previous", "expected_target_length": 3},
    {"arch": "srformer_t5_tiny"},
    {"arch": "srformer_t5_tiny", "cross_attention": "segmented", **BY_CONTENT},
    # another seed: with the first, two hypotheses have exactly the same score
    {"arch": "srformer_t5_tiny", "cross_attention": "full", "feed_forward": "gated-gelu", "seed": 2},
]


@torch.no_grad()
def both(model, sample, beam, **options):
    """What the stock generator and the fast one find."""
    options = {"max_len_b": 14, **options}
    found = []
    for kind in (SequenceGenerator, FastSequenceGenerator):
        generator = kind([model], model.decoder.dictionary, beam_size=beam, **options)
        found.append(generator.generate([model], sample))
    return found


def check_equal(stock, fast):
    assert len(stock) == len(fast)
    for expected, found in zip(stock, fast):
        assert [h["tokens"].tolist() for h in expected] == [h["tokens"].tolist() for h in found]
        for one, other in zip(expected, found):
            torch.testing.assert_close(one["score"], other["score"], rtol=0, atol=2e-5)
            torch.testing.assert_close(one["positional_scores"], other["positional_scores"], rtol=0, atol=2e-4)


@pytest.mark.parametrize("beam", [1, 4, 6])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_hypotheses_are_those_of_the_stock_generator(build_model, make_sample, kind, beam):
    model = build_model(**kind)
    options = {"len_penalty": 2.0, "min_len": 3, "no_repeat_ngram_size": 3}
    stock, fast = both(model, make_sample(LENGTHS), beam, **options)
    check_equal(stock, fast)
    assert len({tuple(beams[0]["tokens"].tolist()) for beams in stock}) > 1


@pytest.fixture(scope="module")
def model(build_model):
    return build_model()


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    left_pad=st.booleans(),
    beam=st.integers(1, 7),
    min_len=st.integers(1, 6),
    more=st.integers(0, 40),  # hypotheses longer than the schedule, and than one window
    len_penalty=st.sampled_from([0.0, 0.7, 1.0, 2.5]),
    ngram=st.sampled_from([0, 2, 3, 4]),
    unk_penalty=st.sampled_from([0.0, 3.0, -3.0]),
    temperature=st.sampled_from([1.0, 0.6, 1.7]),
    normalize_scores=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_whatever_the_options_and_the_batch(
    model, make_sample, lengths, left_pad, beam, min_len, more, ngram, seed, **options
):
    sample = make_sample(lengths, left_pad=left_pad, width=max(lengths) + 2, seed=seed)
    stock, fast = both(
        model, sample, beam, min_len=min_len, max_len_b=min_len + more, no_repeat_ngram_size=ngram, **options
    )
    check_equal(stock, fast)


def test_a_suppressed_word_and_another_first_token(model, make_sample):
    sample, dictionary = make_sample(LENGTHS), model.decoder.dictionary
    word = both(model, sample, 2)[0][0][0]["tokens"][0].item()
    stock, fast = both(model, sample, 2, tokens_to_suppress=[dictionary[word]])
    check_equal(stock, fast)
    assert all(word not in hypothesis["tokens"] for beams in fast for hypothesis in beams)
    found = []
    for kind in (SequenceGenerator, FastSequenceGenerator):
        generator = kind([model], dictionary, beam_size=2, max_len_b=9)
        found.append(generator.generate([model], sample, bos_token=word))
    check_equal(*found)


def test_the_search_ends_when_every_sentence_has_its_hypotheses(model, make_sample, monkeypatch):
    steps = []
    advance = BeamSearch.advance
    monkeypatch.setattr(BeamSearch, "advance", lambda self, logits: (steps.append(1), advance(self, logits))[1])
    eos = model.decoder.dictionary.eos()
    always_eos = F.one_hot(torch.tensor(eos), len(model.decoder.dictionary)) * 9.0
    monkeypatch.setattr(model.decoder, "output_layer", lambda x: always_eos + 0 * x[..., :1])
    (_, fast) = both(model, make_sample(LENGTHS), 2, max_len_b=50)
    assert all(len(beams) == 2 for beams in fast)
    assert len(steps) < 10


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"search_strategy": Sampling(StubTask().target_dictionary)}, "beam search"),
        ({"match_source_len": True}, "--match-source-len"),
        ({"beam_size": 12}, "vocabulary"),
    ],
)
def test_what_it_cannot_do_is_left_to_the_stock_generator_and_said_once(model, make_sample, caplog, options, reason):
    sample, dictionary = make_sample([5, 3]), model.decoder.dictionary
    generator = FastSequenceGenerator([model], dictionary, **{"beam_size": 2, "max_len_b": 6, **options})
    for _ in range(2):
        assert len(generator.generate([model], sample)) == 2
    (warning,) = [record.getMessage() for record in caplog.records if "--fast-generate" in record.getMessage()]
    assert reason in warning


def test_prefixes_and_other_models_are_left_to_the_stock_generator(model, make_sample, caplog):
    sample, dictionary = make_sample([5, 3]), model.decoder.dictionary
    prefix = torch.full((2, 2), dictionary.nspecial + 3)
    generator = FastSequenceGenerator([model], dictionary, beam_size=2, max_len_b=6)
    hypotheses = generator.generate([model], sample, prefix_tokens=prefix)
    assert all(beams[0]["tokens"][:2].tolist() == prefix[0].tolist() for beams in hypotheses)
    FastSequenceGenerator([model, model], dictionary, beam_size=2, max_len_b=6).generate([model], sample)
    text = caplog.text
    assert "prefix tokens" in text and "several models" in text


def test_a_schedule_it_does_not_know_is_left_to_the_stock_generator(build_model, make_sample, caplog, monkeypatch):
    class Twice(ClockSchedule):
        """Two segments, the clock's and the first."""

        def plan(self, *arguments, **options):
            plan = super().plan(*arguments, **options)
            first = torch.where(plan.segments == 0, -1, 0)
            segments = torch.cat((plan.segments, first), dim=3)
            return replace(plan, segments=segments, state_follows_segment=False, in_order=False)

    monkeypatch.setitem(SCHEDULES, "twice", Twice)
    model = build_model(segment_schedule="twice")
    stock, fast = both(model, make_sample(LENGTHS), 2)
    check_equal(stock, fast)
    assert "several segments" in caplog.text


@torch.no_grad()
def test_nothing_is_left_on_the_model(model, make_sample):
    sample = make_sample(LENGTHS)
    inputs = {**sample["net_input"], "prev_output_tokens": sample["net_input"]["src_tokens"][:, -5:]}
    logits = model(**inputs)[0]
    generator = FastSequenceGenerator([model], model.decoder.dictionary, beam_size=4, max_len_b=6)
    before = {name: set(vars(module)) for name, module in model.named_modules()}  # after fairseq's own marks
    generator.generate([model], sample)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert torch.equal(model(**inputs)[0], logits)


def test_the_batch_makes_no_difference(model, make_sample):
    together = both(model, make_sample(LENGTHS), 3)[1]
    for row in range(len(LENGTHS)):
        sample = make_sample(LENGTHS)
        net_input = {name: value[row : row + 1] for name, value in sample["net_input"].items()}
        alone = both(model, {"id": sample["id"][:1], "net_input": net_input}, 3)[1]
        check_equal([together[row]], alone)


@pytest.mark.gpu
@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_on_a_gpu_the_graphs_find_the_same_for_one_batch_after_the_other(build_model, make_sample, kind, beam):
    model = build_model(**kind).cuda()
    options = {"len_penalty": 2.0, "min_len": 3, "no_repeat_ngram_size": 3, "beam_size": beam, "max_len_b": 40}
    kinds = (SequenceGenerator, FastSequenceGenerator)
    generators = [kind([model], model.decoder.dictionary, **options) for kind in kinds]
    shapes = []
    for seed, lengths in enumerate([LENGTHS, [30, 2, 2, 17, 8], [12] * 11, LENGTHS, [64, 3, 3]]):
        sample = utils.move_to_cuda(make_sample(lengths, seed=seed))
        check_equal(*(generator.generate([model], sample) for generator in generators))
        shapes.append(len(generators[1]._searches))
    assert max(shapes) <= 2  # shapes that are kept
    generators[1].release()
    assert not generators[1]._searches
