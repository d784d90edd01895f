"""Head-wise positional strides: full attention in which head h sees every S-th real token of a source, for less."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from srformer_plugin.attention import source_context
from srformer_plugin.attention.hepos import HeposCrossAttention
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.shared_by_beams import FullCrossAttention
from srformer_plugin.attention.source_context import SourceContext
from srformer_plugin.errors import ConfigurationError

HEADS, HEAD_DIM, SOURCE_WIDTH = 6, 3, 10
WIDTH = HEADS * HEAD_DIM


def hepos(stride, width=WIDTH, heads=HEADS, dtype=torch.float64, **options):
    chosen = SegmentSettings(cross_attention="hepos", head_stride=stride).check()
    module = HeposCrossAttention(width, heads, chosen, **{"kdim": SOURCE_WIDTH, **options}).to(dtype).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def padded(lengths, before, after):
    """(B, N) bool, True at padding: `before` places, the tokens, and what is left of the longest and `after`."""
    place = torch.arange(before + max(lengths) + after)
    return torch.stack([(place < before) | (place >= before + length) for length in lengths])


def reference(module, query, states, padding):
    """Attention of every head to all positions, but for a mask, in loops: output (T, B * x, C), weights (H, ...)."""
    targets, rows, _ = query.shape
    keys, values = (
        projection(states).unflatten(2, (HEADS, HEAD_DIM)).permute(1, 2, 0, 3)
        for projection in (module.k_proj, module.v_proj)
    )
    queries = (module.q_proj(query) * module.scaling).unflatten(2, (HEADS, HEAD_DIM)).permute(1, 2, 0, 3)
    outputs, weights = (
        queries.new_zeros(rows, HEADS, targets, HEAD_DIM),
        queries.new_zeros(HEADS, rows, targets, len(states)),
    )
    for row in range(rows):
        sentence = row // (rows // states.size(1))
        tokens = (~padding[sentence]).nonzero().flatten()
        for head in range(HEADS):
            seen = tokens[head % module.stride :: module.stride]
            if len(seen):
                scores = queries[row, head] @ keys[sentence, head, seen].T
                weights[head, row, :, seen] = scores.softmax(-1)
                outputs[row, head] = scores.softmax(-1) @ values[sentence, head, seen]
    return module.out_proj(outputs.permute(2, 0, 1, 3).flatten(2)), weights


def attend(module, query, states, padding, **options):
    return module(query, states, states, key_padding_mask=padding, **options)


@given(
    lengths=st.lists(st.integers(1, 17), min_size=1, max_size=3),
    before=st.integers(0, 3),
    after=st.integers(0, 3),
    targets=st.integers(1, 4),
    hypotheses=st.integers(1, 3),
    stride=st.sampled_from([1, 2, 3, 6]),
    bias=st.booleans(),
    scaled=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_it_is_full_attention_with_a_mask_of_every_head(
    lengths, before, after, targets, hypotheses, stride, bias, scaled, seed
):
    torch.manual_seed(seed)
    module = hepos(stride, bias=bias, scale_query=scaled)
    padding = padded(lengths, before, after)
    query = torch.randn(targets, len(lengths) * hypotheses, WIDTH, dtype=torch.float64, requires_grad=True)
    states = torch.randn(padding.size(1), len(lengths), SOURCE_WIDTH, dtype=torch.float64, requires_grad=True)
    inputs = [query, states, *module.parameters()]
    expected, weights = reference(module, query, states, padding)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, inputs, upstream, allow_unused=True)
    masks = [padding] + ([None] if not padding.any() else [])
    for mask in masks:
        found, _ = attend(module, query, states, mask)
        torch.testing.assert_close(found, expected)
        for mine, other in zip(torch.autograd.grad(found, inputs, upstream, allow_unused=True), gradients):
            torch.testing.assert_close(mine, other)
        output, of_heads = attend(module, query, states, mask, need_head_weights=True)
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(of_heads, weights)
        torch.testing.assert_close(attend(module, query, states, mask, need_weights=True)[1], weights.mean(0))
    # token by token, by fairseq's incremental state and in tensors of fixed shapes
    state, context = {}, SourceContext(padding)
    source = module.open_source(states, context, targets)
    for position, (row, wanted) in enumerate(zip(query.unsqueeze(1), expected.unsqueeze(1))):
        found, seen = attend(module, row, states, padding, incremental_state=state, need_head_weights=True)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(seen, weights[:, :, position : position + 1])
        torch.testing.assert_close(module.step(row, source, torch.tensor([position])), wanted)


def test_a_head_with_nothing_to_read_gives_zeros_and_gradients_that_are_numbers():
    module, lengths = hepos(6), [2, 7]
    padding = padded(lengths, 0, 0)
    query = torch.randn(3, 2, WIDTH, dtype=torch.float64, requires_grad=True)
    states = torch.randn(7, 2, SOURCE_WIDTH, dtype=torch.float64, requires_grad=True)
    module.out_proj = torch.nn.Identity()
    output, _ = attend(module, query, states, padding)
    heads = output.unflatten(2, (HEADS, HEAD_DIM))
    assert heads[:, 0, 2:].eq(0).all() and heads[:, 0, :2].ne(0).all() and heads[:, 1].ne(0).all()
    output.square().sum().backward()
    assert query.grad.isfinite().all() and states.grad.isfinite().all()
    assert states.grad[2:, 0].eq(0).all()


def test_what_a_hook_makes_of_a_projection_is_what_is_read():
    """As quantization noise does, which only the module's own call knows of."""
    module = hepos(3)
    query, states = torch.randn(4, 2, WIDTH).double(), torch.randn(8, 2, SOURCE_WIDTH).double()
    expected, _ = attend(module, query, states, None)
    hooks = [p.register_forward_hook(lambda *_: None) for p in (module.k_proj, module.v_proj)]
    torch.testing.assert_close(attend(module, query, states, None)[0], expected)
    hooks.append(module.v_proj.register_forward_hook(lambda module, inputs, output: 2 * output))
    with_bias = module.out_proj.bias
    torch.testing.assert_close(attend(module, query, states, None)[0] - with_bias, 2 * (expected - with_bias))


@pytest.mark.parametrize("stride", [1, 2, 6])
def test_projections_of_the_source_and_attention_cost_a_part_of_full_attentions(stride):
    targets, source = 5, 48
    query, states = torch.randn(targets, 1, WIDTH), torch.randn(source, 1, SOURCE_WIDTH)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        attend(hepos(stride, dtype=torch.float32), query, states, None, need_weights=True)  # counted: no fused kernel
    shared = 2 * (2 * WIDTH * targets * WIDTH)  # of queries and output
    of_source = 2 * (2 * SOURCE_WIDTH * source * WIDTH) + 4 * targets * source * WIDTH
    assert counter.get_total_flops() == shared + of_source // stride


def kept_for_gradients(module, *inputs):
    """Bytes that a training step keeps from its forward pass, parameters and inputs left out."""
    own = {x.untyped_storage().data_ptr() for x in (*module.parameters(), *inputs)}
    kept = {}

    def keep(x):
        place = x.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        output = attend(module, *inputs, None, need_weights=False)[0]  # noqa: F841 (keeps what it was made of)
    return sum(kept.values())


def test_training_keeps_a_part_of_the_keys_and_values():
    source = 960
    states = torch.randn(source, 1, SOURCE_WIDTH, requires_grad=True)
    query = torch.randn(2, 1, WIDTH, requires_grad=True)
    full = FullCrossAttention(WIDTH, HEADS, kdim=SOURCE_WIDTH, vdim=SOURCE_WIDTH, encoder_decoder_attention=True)
    keys_and_values = 2 * source * WIDTH * 4
    assert kept_for_gradients(full.train(), query, states) > keys_and_values
    ours = kept_for_gradients(hepos(6, dtype=torch.float32).train(), query, states)
    # and the states in the order of the slots, once for all layers
    assert keys_and_values // 6 <= ours - source * SOURCE_WIDTH * 4 < keys_and_values // 4


def test_states_are_ordered_and_padding_hidden_once_for_all_layers_of_a_pass(monkeypatch):
    made, make = [], source_context.hide
    monkeypatch.setattr(source_context, "hide", lambda *arguments: made.append(make(*arguments)) or made[-1])
    modules, padding = [hepos(3) for _ in range(2)], padded([7, 4], 1, 1)
    query, states = torch.randn(2, 2, WIDTH).double(), torch.randn(9, 2, SOURCE_WIDTH).double()
    context = SourceContext(padding)
    cut = [context.cut_by_stride(states, module.layout(states, context)) for module in modules]
    assert cut[0] is cut[1]
    for module in modules:
        alone = attend(module, query, states, padding)[0]
        torch.testing.assert_close(attend(module, query, states, context)[0], alone, rtol=0, atol=0)
    assert len(made) == 1 + len(modules)
    assert context.cut_by_stride(states, modules[0].layout(states, context)) is cut[0]
    others = [context.cut_by_stride(states.clone(), modules[0].layout(states, context))]
    with torch.no_grad():  # what has no gradients is not given to those who need them
        others.append(context.cut_by_stride(states, modules[0].layout(states, context)))
    others.append(context.cut_by_stride(states, modules[0].layout(states, context)))
    assert len({id(x) for x in (cut[0], *others)}) == 4


@pytest.mark.parametrize(
    ("stride", "message"),
    [
        (0, "--head-stride must be at least 1, got 0"),
        (-2, "--head-stride must be at least 1, got -2"),
        (4, "--head-stride 4 does not divide --decoder-attention-heads 6: .* use one of 1, 2, 3, 6$"),
        (12, "--head-stride 12 does not divide --decoder-attention-heads 6"),
    ],
)
def test_a_stride_that_leaves_heads_unequal_is_refused(stride, message):
    with pytest.raises(ConfigurationError, match=message):
        hepos(stride)
