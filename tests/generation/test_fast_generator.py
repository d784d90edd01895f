"""`FastSequenceGenerator` finds what fairseq's `SequenceGenerator` finds."""

import argparse
import copy
import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.search import Sampling
from fairseq.sequence_generator import SequenceGenerator
from hypothesis import given, settings
from hypothesis import strategies as st
from models.conftest import StubTask

from data_prep.errors import UserError
from srformer_plugin.attention.dropout import is_active
from srformer_plugin.attention.method.schedule import SCHEDULES, ClockSchedule
from srformer_plugin.errors import ConfigurationError
from srformer_plugin.generation import FastSequenceGenerator
from srformer_plugin.generation.beam_search import BeamSearch

LENGTHS = [23, 5, 14, 1, 9]
BY_CONTENT = {"segment_schedule": "content", "segments_per_query": 2}
CHUNKED = {"encoder_attention": "chunked", "encoder_chunk": 6, "encoder_context": 2}
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
    {"cross_attention": "hepos", "head_stride": 2},
    {"arch": "srformer_t5_tiny", "cross_attention": "hepos", "head_stride": 2},
    {"arch": "srformer_led_tiny"},
    {"arch": "srformer_led_tiny", "cross_attention": "segmented", **BY_CONTENT},
    {"arch": "srformer_t5_tiny"},
    {"arch": "srformer_t5_tiny", "cross_attention": "segmented", **BY_CONTENT},
    {"cross_attention": "segmented", **BY_CONTENT, **CHUNKED},
    {"arch": "srformer_t5_tiny", "cross_attention": "segmented", **BY_CONTENT, **CHUNKED},
    # a seed with which no two hypotheses have scores within 1e-3: with most, a machine's rounding decides between some
    {"arch": "srformer_t5_tiny", "cross_attention": "full", "feed_forward": "gated-gelu", "seed": 17},
]


@torch.no_grad()
def both(model, sample, beam, first=None, **options):
    """What the stock generator and the fast one find; `first`: the token that every hypothesis begins with."""
    options = {"max_len_b": 14, **options}
    prefix = None if first is None else torch.full((sample["net_input"]["src_tokens"].size(0), 1), first)
    found = []
    for kind in (SequenceGenerator, FastSequenceGenerator):
        generator = kind([model], model.decoder.dictionary, beam_size=beam, **options)
        found.append(generator.generate([model], sample, prefix_tokens=prefix))
    return found


def check_equal(stock, fast):
    assert len(stock) == len(fast)
    for expected, found in zip(stock, fast):
        assert [h["tokens"].tolist() for h in expected] == [h["tokens"].tolist() for h in found]
        for one, other in zip(expected, found):
            torch.testing.assert_close(one["score"], other["score"], rtol=1e-6, atol=2e-5)
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
    ngram=st.sampled_from([0, 1, 2, 3, 4]),
    unk_penalty=st.sampled_from([0.0, 3.0, -3.0]),
    temperature=st.sampled_from([1.0, 0.6, 1.7]),
    normalize_scores=st.booleans(),
    first=st.sampled_from([None, 0, 9]),
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


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[-1]], ids=lambda kind: "-".join(map(str, kind.values())))
def test_one_token_that_begins_every_hypothesis(build_model, make_sample, kind, beam, caplog):
    """BART's <s>: it is forced, and its probability counts. One that is suppressed may be forced all the same."""
    model, sample = build_model(**kind), make_sample(LENGTHS)
    dictionary = model.decoder.dictionary
    options = {"beam_size": beam, "max_len_b": 14, "min_len": 3, "no_repeat_ngram_size": 3}
    for first, suppressed in ((dictionary.bos(), []), (dictionary.nspecial + 3, [dictionary[dictionary.nspecial + 3]])):
        kinds = (SequenceGenerator, FastSequenceGenerator)
        generators = [kind([model], dictionary, tokens_to_suppress=suppressed, **options) for kind in kinds]
        prefix = torch.full((len(LENGTHS), 1), first)
        stock, fast = (generator.generate([model], sample, prefix_tokens=prefix) for generator in generators)
        check_equal(stock, fast)
        assert {beams[0]["tokens"][0].item() for beams in fast} == {first}
        assert ("--fast-generate" in caplog.text) == bool(suppressed)
        # and the next search of the same generator is free again
        check_equal(*(generator.generate([model], sample) for generator in generators))


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


# ---- searches that are kept


@pytest.fixture
def keeping(monkeypatch):
    """Keep buffers between calls on a CPU, too, as a GPU's graphs are."""
    monkeypatch.setattr(FastSequenceGenerator, "_keeps_searches", staticmethod(lambda device: True))


def other_weights(model, build_model, kind, way):
    """Give `model` other weights without a new tensor for the output projection."""
    other = build_model(**{**kind, "seed": 7})
    if way == "loaded":
        model.load_state_dict(other.state_dict())
    elif way == "past autograd":
        for mine, theirs in zip(model.parameters(), other.parameters()):
            mine.data.copy_(theirs.data)
    else:
        for mine, theirs in zip(model.decoder.layers, other.decoder.layers):
            mine.self_attn, mine.fc1 = theirs.self_attn, theirs.fc1
        model.eval()


@pytest.mark.parametrize("way", ["loaded", "past autograd", "other modules"])
@pytest.mark.parametrize("kind", [{"cross_attention": "srformer"}, {"arch": "srformer_t5_tiny"}], ids=["bart", "t5"])
@torch.no_grad()
def test_a_kept_search_goes_by_the_weights_of_today(build_model, make_sample, keeping, kind, way):
    model, sample = build_model(**kind), make_sample(LENGTHS)
    options = {"beam_size": 3, "max_len_b": 14}
    stock, fast = (g([model], model.decoder.dictionary, **options) for g in (SequenceGenerator, FastSequenceGenerator))
    before = fast.generate([model], sample)
    check_equal(stock.generate([model], sample), before)
    other_weights(model, build_model, kind, way)
    after = fast.generate([model], sample)
    check_equal(stock.generate([model], sample), after)
    assert [beams[0]["tokens"].tolist() for beams in before] != [beams[0]["tokens"].tolist() for beams in after]


@torch.no_grad()
def test_hypotheses_of_a_kept_search_outlive_the_next_batch(model, make_sample, keeping):
    generator = FastSequenceGenerator(
        [model], model.decoder.dictionary, beam_size=3, max_len_b=14, normalize_scores=False
    )
    first = generator.generate([model], make_sample(LENGTHS))
    expected = copy.deepcopy(first)
    other = generator.generate([model], make_sample(LENGTHS, seed=11))
    assert len(generator._searches) == 1
    check_equal(expected, first)
    assert [beams[0]["tokens"].tolist() for beams in other] != [beams[0]["tokens"].tolist() for beams in first]


@torch.no_grad()
def test_a_kept_search_goes_by_the_options_of_today(model, make_sample, keeping):
    sample = make_sample(LENGTHS)
    generators = [
        kind([model], model.decoder.dictionary, beam_size=3, max_len_b=14)
        for kind in (SequenceGenerator, FastSequenceGenerator)
    ]
    for name, value in (("len_penalty", 2.0), ("min_len", 9), ("temperature", 3.0), ("unk_penalty", 5.0)):
        for generator in generators:
            setattr(generator, name, value)
        check_equal(*(generator.generate([model], sample) for generator in generators))


@torch.no_grad()
def test_buffers_that_go_are_gone_before_the_encoder_needs_memory(model, make_sample, keeping, monkeypatch):
    generator = FastSequenceGenerator([model], model.decoder.dictionary, beam_size=3, max_len_b=14)
    encode, kept = generator.encode, []
    monkeypatch.setattr(generator, "encode", lambda source: (kept.append(len(generator._searches)), encode(source))[1])
    for lengths in (LENGTHS, [12] * 2, [5] * 4, [5] * 4):
        generator.generate([model], make_sample(lengths))
    assert kept == [0, 1, 1, 2]


def fill_memory_once(monkeypatch, generator):
    """Let the next batch find the device's memory full."""
    encode, errors = generator.encode, [torch.OutOfMemoryError("CUDA out of memory.")]

    def encode_or_fail(source):
        if errors:
            raise errors.pop()
        return encode(source)

    monkeypatch.setattr(generator, "encode", encode_or_fail)


@torch.no_grad()
def test_buffers_of_another_batch_give_way_where_memory_is_full(model, make_sample, keeping, monkeypatch):
    options = {"beam_size": 3, "max_len_b": 14}
    stock, fast = (g([model], model.decoder.dictionary, **options) for g in (SequenceGenerator, FastSequenceGenerator))
    fast.generate([model], make_sample([12] * 2))
    fill_memory_once(monkeypatch, fast)
    check_equal(stock.generate([model], make_sample(LENGTHS)), fast.generate([model], make_sample(LENGTHS)))
    assert len(fast._searches) == 1


@torch.no_grad()
def test_full_memory_without_buffers_to_give_up_is_an_error(model, make_sample, keeping, monkeypatch):
    generator = FastSequenceGenerator([model], model.decoder.dictionary, beam_size=3, max_len_b=14)
    fill_memory_once(monkeypatch, generator)
    with pytest.raises(torch.OutOfMemoryError):
        generator.generate([model], make_sample(LENGTHS))


@torch.no_grad()
def test_released_buffers_are_freed(model, make_sample, keeping):
    generator = FastSequenceGenerator([model], model.decoder.dictionary, beam_size=3, max_len_b=14)
    generator.generate([model], make_sample(LENGTHS))
    (kept,) = generator._searches.values()
    buffers = [weakref.ref(cache) for cache in kept.decoder.caches]
    del kept
    generator.release()
    gc.collect()
    assert buffers and all(buffer() is None for buffer in buffers)
    assert len(generator.generate([model], make_sample(LENGTHS))) == len(LENGTHS)


# ---- options that both generators share


@pytest.mark.parametrize("kind", [SequenceGenerator, FastSequenceGenerator])
@pytest.mark.parametrize("more", [0, 30])
@torch.no_grad()
def test_with_n_grams_of_one_every_word_comes_once_and_the_sentence_may_end(model, make_sample, kind, more):
    """Also where the longest hypothesis allows more words than the vocabulary has."""
    dictionary = model.decoder.dictionary
    generator = kind([model], dictionary, beam_size=4, max_len_b=14 + more, min_len=8, no_repeat_ngram_size=1)
    for beams in generator.generate([model], make_sample(LENGTHS)):
        for hypothesis in beams:
            tokens = hypothesis["tokens"].tolist()
            assert tokens[-1] == dictionary.eos() and len(tokens) > 8
            assert len(set(tokens)) == len(tokens)
            assert hypothesis["score"].isfinite()


@torch.no_grad()
def test_scores_that_are_no_numbers_are_one_clear_error(build_model, make_sample):
    model = build_model()
    model.decoder.layers[0].fc2.weight.fill_(float("nan"))
    generator = FastSequenceGenerator([model], model.decoder.dictionary, beam_size=2, max_len_b=6)
    with pytest.raises(UserError, match="the model's scores are not numbers"):
        generator.generate([model], make_sample([5, 3]))


@pytest.mark.parametrize(
    ("options", "longest"),
    [({}, 6), ({"max_len_a": 0.5}, 8), ({"max_len_b": 1000}, 63), ({"match_source_len": True}, 4)],
)
def test_both_refuse_a_shortest_length_above_the_longest(model, make_sample, options, longest, caplog):
    for kind in (SequenceGenerator, FastSequenceGenerator):
        options = {"beam_size": 2, "max_len_b": 6, **options}
        kind([model], model.decoder.dictionary, min_len=longest, **options).generate([model], make_sample([5, 3]))
        generator = kind([model], model.decoder.dictionary, min_len=longest + 1, **options)
        caplog.clear()
        with pytest.raises(ConfigurationError, match=f"^--min-len {longest + 1} .*of 5 tokens, which has {longest}, "):
            generator.generate([model], make_sample([5, 3]))
        assert "--fast-generate cannot" not in caplog.text


def test_both_refuse_a_temperature_of_0(model):
    for kind in (SequenceGenerator, FastSequenceGenerator):
        with pytest.raises(AssertionError, match="--temperature"):
            kind([model], model.decoder.dictionary, temperature=0.0)


@torch.no_grad()
def test_the_same_sentence_several_times_has_the_same_hypotheses(model, make_sample):
    sample = make_sample([9])
    net_input = {name: value.expand(5, *value.shape[1:]).contiguous() for name, value in sample["net_input"].items()}
    stock, fast = both(model, {"id": torch.arange(5), "net_input": net_input}, 3)
    check_equal(stock, fast)
    check_equal(fast, [fast[0]] * 5)


@torch.no_grad()
def test_a_prefix_longer_than_a_hypothesis_may_be_is_cut(model, make_sample):
    dictionary = model.decoder.dictionary
    prefix = torch.arange(dictionary.nspecial, dictionary.nspecial + 9).repeat(2, 1)
    generator = FastSequenceGenerator([model], dictionary, beam_size=2, max_len_b=4)
    for beams in generator.generate([model], make_sample([5, 3]), prefix_tokens=prefix):
        assert beams[0]["tokens"].tolist() == [*prefix[0, :4].tolist(), dictionary.eos()]


@pytest.mark.parametrize("kind", KINDS[:1] + KINDS[4:6], ids=lambda kind: "-".join(map(str, kind.values())))
def test_threads_share_a_model(build_model, make_sample, kind):
    """Both generators and a scoring, at once and with different beams: each gets what it gets alone."""
    model, sample = build_model(**kind), make_sample(LENGTHS)
    inputs = {**sample["net_input"], "prev_output_tokens": torch.randint(4, 20, (len(LENGTHS), 9))}

    def decode(generator_class, beam):
        generator = generator_class([model], model.decoder.dictionary, beam_size=beam, max_len_b=9)
        found = generator.generate([model], sample)
        return [[hypothesis["tokens"].tolist() for hypothesis in beams] for beams in found]

    def score():
        with torch.no_grad():  # of this thread
            return model(**inputs)[0].tolist()

    jobs = [partial(decode, g, beam) for g in (SequenceGenerator, FastSequenceGenerator) for beam in (1, 4)] + [score]
    alone = [job() for job in jobs]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(5) as pool:
            found = list(pool.map(lambda job: job(), jobs * 3))
    finally:
        sys.setswitchinterval(interval)
    assert found == alone * 3


# ---- dropout while decoding


ATTENTION_NAMES = ["MultiheadAttention"]
DOCUMENTED = ["TransformerEncoder", "TransformerDecoder", "TransformerEncoderLayer", "TransformerDecoderLayer"]


def retaining(model, modules):
    generation = argparse.Namespace(retain_dropout=True, retain_dropout_modules=modules, print_alignment=False)
    model.prepare_for_inference_(argparse.Namespace(generation=generation))
    return model


@pytest.mark.parametrize("modules", [None, *([name] for name in DOCUMENTED + ATTENTION_NAMES)], ids=str)
@pytest.mark.parametrize("kind", ["srformer", "segmented", "full"])
@pytest.mark.parametrize("arch", ["srformer_bart_tiny", "srformer_t5_tiny"])
def test_dropout_is_retained_in_the_modules_that_fairseq_documents(build_model, arch, kind, modules):
    rates = {"dropout": 0.2, "attention_dropout": 0.2, "activation_dropout": 0.2}
    model = retaining(build_model(arch, cross_attention=kind, **rates), modules)
    encoder, decoder = model.encoder, model.decoder
    owners = {
        "TransformerEncoder": [encoder.dropout_module],
        "TransformerDecoder": [decoder.dropout_module],
        "TransformerEncoderLayer": [encoder.layers[0].dropout_module, encoder.layers[0].activation_dropout_module],
        "TransformerDecoderLayer": [decoder.layers[0].dropout_module, decoder.layers[0].activation_dropout_module],
        "MultiheadAttention": [
            attention.dropout_module
            for attention in (encoder.layers[0].self_attn, decoder.layers[0].self_attn, decoder.layers[0].encoder_attn)
        ],
    }
    active = {name for name, dropouts in owners.items() if all(map(is_active, dropouts))}
    silent = {name for name, dropouts in owners.items() if not any(map(is_active, dropouts))}
    assert active == set(modules or owners) and silent == set(owners) - active


@pytest.mark.parametrize("where", ["encoder", "self_attn", "encoder_attn"])
@pytest.mark.parametrize("kind", ["srformer", "segmented", "full"])
@pytest.mark.parametrize("arch", ["srformer_bart_tiny", "srformer_t5_tiny"])
@torch.no_grad()
def test_retained_dropout_of_an_attention_changes_what_is_computed(build_model, make_sample, arch, kind, where):
    """In teacher forcing, in decoding step by step, and nowhere else."""
    model, sample = build_model(arch, cross_attention=kind, attention_dropout=0.5), make_sample(LENGTHS)
    layer = model.encoder.layers[0] if where == "encoder" else model.decoder.layers[0]
    dropout = getattr(layer, "self_attn" if where == "encoder" else where).dropout_module
    previous = torch.randint(4, 20, (len(LENGTHS), 6))

    def outputs():
        encoded = model.encoder.forward_torchscript(sample["net_input"])
        state = {}
        yield model(**sample["net_input"], prev_output_tokens=previous)[0]
        yield [model.decoder(previous[:, : n + 1], encoded, incremental_state=state)[0] for n in range(3)][-1]

    assert all(torch.equal(a, b) for a, b in zip(outputs(), outputs()))
    dropout.apply_during_inference = True
    assert not any(torch.equal(a, b) for a, b in zip(outputs(), outputs()))


@torch.no_grad()
def test_with_dropout_in_the_decoder_the_fast_generator_leaves_the_search_to_the_stock_one(
    build_model, make_sample, caplog
):
    for modules, said in ((["TransformerEncoder"], False), (None, True)):
        model = retaining(build_model(dropout=0.3), modules)
        generator = FastSequenceGenerator([model], model.decoder.dictionary, beam_size=2, max_len_b=9)
        found = [generator.generate([model], make_sample(LENGTHS))[0][0]["score"].item() for _ in range(5)]
        assert len(set(found)) == 5
        assert ("--retain-dropout" in caplog.text) == said


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
