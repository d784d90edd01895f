"""Keys and values of the source for all layers of a decoder at once, in training: the numbers of one by one."""

import pytest
import torch

from srformer_plugin.attention import source_context
from srformer_plugin.models.segmented_decoder import SegmentedDecoder

KINDS = [
    ("srformer_bart_tiny", {"cross_attention": "srformer"}),
    ("srformer_bart_tiny", {"cross_attention": "full"}),
    ("srformer_bart_content", {"encoder_layers": 1, "segment_size": 4}),
    ("srformer_bart_tiny", {"attention_backend": "triton"}),  # interpreted, in float32: kernels read slices
    ("srformer_t5_tiny", {"cross_attention": "srformer"}),
    ("srformer_t5_tiny", {"cross_attention": "full"}),
]
TINY = {
    f"{side}_{name}": size
    for side in ("encoder", "decoder")
    for name, size in (("embed_dim", 32), ("ffn_embed_dim", 64), ("attention_heads", 2))
}


@pytest.fixture
def asked(monkeypatch):
    """How many projections were computed together, of every source."""
    found, original = [], source_context.project_together

    def counting(states, projections):
        found.append(len(projections))
        return original(states, projections)

    monkeypatch.setattr(source_context, "project_together", counting)
    return found


def run(model, sample, repeated=1):
    """Logits and all gradients of a batch with padding, `repeated` targets a source."""
    generator = torch.Generator().manual_seed(5)
    targets = torch.randint(4, 20, (repeated * len(sample["id"]), 6), generator=generator)
    logits = model.decoder(targets, encoder_out=model.encoder(**sample["net_input"]))[0]
    model.zero_grad()
    logits.logsumexp(-1).sum().backward()
    return [logits, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize(("arch", "options"), KINDS)
@pytest.mark.parametrize("repeated", [1, 2])
def test_losses_and_gradients_are_those_of_one_by_one(
    build_model, make_sample, monkeypatch, asked, arch, options, repeated
):
    model = build_model(arch, decoder_layers=2, spread=2.0, **{**TINY, **options}).train()
    tolerance = 1e-5
    if "attention_backend" not in options:
        model, tolerance = model.double(), 1e-11
    results = [run(model, make_sample([13, 5]), repeated)]
    assert asked == [2 * 2]
    monkeypatch.setattr(SegmentedDecoder, "project_source", lambda *_: None)
    results.append(run(model, make_sample([13, 5]), repeated))
    assert asked == [2 * 2]
    for got, expected in zip(*results, strict=True):
        assert (got is expected is None) or (got - expected).abs().max() <= tolerance * (1 + expected.abs().max())


@pytest.mark.parametrize(
    "options",
    [
        {"decoder_layerdrop": 0.5},
        {"checkpoint_activations": True},
        {"quant_noise_pq": 0.1, "quant_noise_pq_block_size": 4},
        {"cross_attention": "hepos", "head_stride": 2},
    ],
    ids=str,
)
def test_layers_that_may_not_read_it_as_it_is_project_for_themselves(build_model, make_sample, asked, options):
    run(build_model(decoder_layers=3, **options).train(), make_sample([13, 5]))
    assert asked == []


def test_evaluation_projects_layer_by_layer(build_model, make_sample, asked):
    model = build_model(decoder_layers=3)
    run(model, make_sample([13, 5]))
    with torch.no_grad():
        model.train()(**make_sample([13, 5])["net_input"], prev_output_tokens=torch.full((2, 3), 5))
    assert asked == []
