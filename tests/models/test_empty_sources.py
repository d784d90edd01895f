"""A source of padding alone reads nothing: zeros before the output projection, in every way of being called."""

import pytest
import torch
from torch.nn import Parameter

from srformer_plugin.attention.fused import hide
from srformer_plugin.attention.method.reference import segmented_recurrent_attention
from srformer_plugin.attention.source_context import SourceContext

FULL = {"cross_attention": "full"}
CONTENT = {"segment_schedule": "content", "segment_size": 2, "segments_per_query": 2}
KINDS = [
    *((arch, FULL) for arch in ("srformer_bart_tiny", "srformer_t5_tiny", "srformer_led_tiny")),
    *((arch, {"segment_size": 3}) for arch in ("srformer_bart_tiny", "srformer_t5_tiny")),
    ("srformer_bart_tiny", {"cross_attention": "segmented", "segment_size": 3}),
    ("srformer_bart_tiny", {"cross_attention": "segmented", **CONTENT}),
    ("srformer_t5_tiny", {"cross_attention": "segmented", **CONTENT, "segments_per_query": 20}),  # all of them
    ("srformer_bart_tiny", {"cross_attention": "pooled", **CONTENT}),
    *((arch, {"cross_attention": "hepos", "head_stride": 2}) for arch in ("srformer_bart_tiny", "srformer_t5_tiny")),
]
kinds = pytest.mark.parametrize(("arch", "options"), KINDS, ids=lambda value: str(value))
EMPTY, OTHERS = 1, [0, 2]
TARGETS, SOURCE = 5, 9


@pytest.fixture
def call(build_model):
    """Function (arch, options) -> a cross-attention in float64; queries, states and mask of three sources."""

    def make(arch, options):
        attention = build_model(arch, **options).double().decoder.layers[0].encoder_attn
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
            if projection.bias is not None:
                torch.nn.init.normal_(projection.bias)
        query = torch.randn(TARGETS, 3, attention.q_proj.in_features, dtype=torch.float64)
        states = torch.randn(SOURCE, 3, attention.k_proj.in_features, dtype=torch.float64)
        mask = torch.zeros(3, SOURCE, dtype=torch.bool)
        mask[0, 6:] = mask[2, :2] = mask[EMPTY] = True
        return attention, query, states, mask

    return make


def at_once(attention, query, states, mask, **options):
    options = {"static_kv": True, "need_weights": False, **options}
    return attention(query, states, states, key_padding_mask=mask, **options)[0]


def with_weights(attention, query, states, mask):
    return at_once(attention, query, states, mask, need_weights=True)


def step_by_step(attention, query, states, mask):
    state = {}
    steps = [at_once(attention, row.unsqueeze(0), states, mask, incremental_state=state) for row in query]
    return torch.cat(steps)


def in_fixed_shapes(attention, query, states, mask):
    source = attention.open_source(states, SourceContext(mask), TARGETS)
    return torch.cat([attention.step(row[None], source, torch.tensor([t])) for t, row in enumerate(query)])


@kinds
@pytest.mark.parametrize("way", [at_once, with_weights, step_by_step, in_fixed_shapes], ids=lambda way: way.__name__)
@torch.no_grad()
def test_an_empty_source_is_read_as_nothing_and_harms_no_other(way, arch, options, call):
    attention, query, states, mask = call(arch, options)
    output = way(attention, query, states, mask)
    nothing = attention.out_proj(torch.zeros(attention.out_proj.in_features, dtype=torch.float64))
    torch.testing.assert_close(output[:, EMPTY], nothing.expand(TARGETS, -1), rtol=0, atol=0)
    torch.testing.assert_close(output[:, OTHERS], way(attention, query[:, OTHERS], states[:, OTHERS], mask[OTHERS]))


@kinds
@torch.no_grad()
def test_the_weights_of_an_empty_source_are_zeros(arch, options, call):
    attention, query, states, mask = call(arch, options)
    for several in (query, query.repeat_interleave(2, dim=1)):  # hypotheses of a source
        _, weights = attention(several, states, states, key_padding_mask=mask, static_kv=True, need_weights=True)
        rows = weights.unflatten(0, (3, -1))
        assert rows.masked_select(mask[:, None, None]).eq(0).all()
        torch.testing.assert_close(rows[OTHERS].sum(3), torch.ones_like(rows[OTHERS][..., 0]), rtol=0, atol=1e-5)


@kinds
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_source_has_no_gradient_and_leaves_those_of_others(training, arch, options, call):
    attention, query, states, mask = call(arch, options)
    attention.train(training)
    found = []
    for rows in ([0, 1, 2], OTHERS):
        attention.zero_grad()
        inputs = [Parameter(x[:, rows]) for x in (query, states)]
        output = at_once(attention, *inputs, mask[rows])
        (output * torch.linspace(-1, 1, query.size(2), dtype=output.dtype)).sum().backward()
        found.append([x.grad for x in inputs] + [p.grad for p in (attention.k_proj.weight, attention.v_proj.weight)])
    together, alone = found
    assert together[0][:, EMPTY].eq(0).all() and together[1][:, EMPTY].eq(0).all()
    for mine, other in zip([x[:, OTHERS] for x in together[:2]] + together[2:], alone):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)  # fairseq's softmax is float32's


@pytest.mark.parametrize("per_query", [None, 2])
def test_the_plain_reference_reads_nothing_of_it(per_query):
    query, keys, values = (torch.randn(2, 2, length, 4, dtype=torch.float64) for length in (TARGETS, SOURCE, SOURCE))
    found = segmented_recurrent_attention(query, keys, values, [0, 7], 3, 4, segments_per_query=per_query)
    assert found[0].eq(0).all() and found[1].abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.bool, torch.uint8])
def test_what_hides_padding_is_finite_in_every_dtype(dtype, kind):
    mask = torch.tensor([[0, 1], [1, 1]], dtype=kind)
    bias, empty = hide(mask, torch.zeros((), dtype=dtype))
    assert bias.dtype == dtype and bias.isfinite().all() and bias.lt(0).squeeze().tolist() == mask.bool().tolist()
    assert empty.flatten().tolist() == [False, True]
    scores = torch.randn(2, 1, 3, 2, dtype=dtype) * 100 + bias
    assert scores.softmax(-1).isfinite().all()
