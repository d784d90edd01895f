"""SRformer-BART as a fairseq model: sizes, checkpoints, settings."""

import argparse
import copy
import logging
import re

import numpy as np
import pytest
import torch
from fairseq import utils
from largest_tensor import largest_tensor
from models.conftest import default_options

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.schedule_record import decode_schedule
from srformer_plugin.models.segmented_model import mean_target_length
from srformer_plugin.models.srformer_bart import SRformerBARTModel

TINY = {
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
}


def logits(model, sample, targets=9):
    generator = torch.Generator().manual_seed(5)
    previous = torch.randint(4, 20, (len(sample["id"]), targets), generator=generator)
    return model(**sample["net_input"], prev_output_tokens=previous)[0]


@pytest.fixture
def stock(build_model):
    """fairseq's own BART, small."""
    return build_model("bart_base", **TINY)


@pytest.mark.parametrize(
    ("arch", "layers", "width", "heads"),
    [
        ("srformer_bart", 6, 768, 12),
        ("srformer_bart_base", 6, 768, 12),
        ("srformer_bart_large", 12, 1024, 16),
        ("srformer_bart_tiny", 1, 32, 2),
    ],
)
def test_architectures_have_barts_sizes(arch, layers, width, heads):
    args = default_options(arch, layers, width, heads)
    assert args.share_all_embeddings


def test_gelu_makes_no_float32_copies_and_gives_fairseqs_numbers(build_model):
    model, stock = build_model("srformer_bart_base", **TINY), utils.get_activation_fn("gelu")
    ours = {layer.activation_fn for layer in (*model.encoder.layers, *model.decoder.layers)}
    assert len(ours) == 1 and stock not in ours
    (gelu,) = ours
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.dtype), lambda x: x):
        gelu(torch.ones(3, dtype=torch.bfloat16, requires_grad=True))
    assert kept == [torch.bfloat16]
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [torch.randn(999, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_() for _ in "ab"]
        outputs = [f(x) for f, x in zip((gelu, stock), inputs)]
        gradients = [torch.autograd.grad(y, x, torch.ones_like(y))[0] for y, x in zip(outputs, inputs)]
        assert torch.equal(*outputs) and torch.equal(*gradients)
        with torch.no_grad():  # in place
            assert torch.equal(gelu(inputs[0]), outputs[0]) and torch.equal(inputs[0], outputs[0])


@torch.no_grad()
def test_full_cross_attention_is_stock_bart_to_the_bit(build_model, make_sample, stock):
    model = build_model("srformer_bart_base", cross_attention="full", seed=9, **TINY)
    assert model.state_dict().keys() == stock.state_dict().keys()
    model.load_state_dict(stock.state_dict())
    sample = make_sample([23, 5, 14, 9])
    assert torch.equal(logits(model, sample), logits(stock, sample))


@pytest.mark.parametrize("left", [False, True])
def test_full_cross_attention_trains_as_stock_bart(build_model, make_sample, stock, left):
    """By fused kernels: real positions have its logits, and parameters its gradients, but for rounding."""
    model = build_model("srformer_bart_base", cross_attention="full", seed=9, **TINY).train()
    model.load_state_dict(stock.state_dict())
    sample = make_sample([23, 5, 14, 9])["net_input"]
    previous = make_sample([9, 4, 7, 1], left_pad=left, seed=5)["net_input"]["src_tokens"]
    aligned = make_sample([9, 4, 7, 1], left_pad=False, seed=5)["net_input"]["src_tokens"]  # stock counts pads
    results = []
    for one, tokens in ((copy.deepcopy(stock).train(), aligned), (model, previous)):
        logits = one(**sample, prev_output_tokens=tokens)[0][tokens.ne(1)]
        logits.square().sum().backward()
        results.append((logits, {name: p.grad for name, p in one.named_parameters()}))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-3)


def test_training_makes_no_masks_of_every_head_of_a_decoder(build_model, make_sample):
    """Stock BART makes one of a target's order and padding in every layer."""
    sample = make_sample([5, 3])["net_input"]
    previous = make_sample([30, 20], left_pad=False)["net_input"]["src_tokens"]
    elements = []
    for arch in ("bart_base", "srformer_bart_base"):
        model = build_model(arch, cross_attention="full", **{**TINY, "decoder_attention_heads": 8}).train()
        with largest_tensor() as largest:
            model.decoder.extract_features(previous, model.encoder(sample["src_tokens"], sample["src_lengths"]))
        elements.append(largest.elements)
    assert elements[0] >= 2 * 8 * 30 * 30 > elements[1]


@pytest.mark.parametrize("kind", ["srformer", "segmented"])
@torch.no_grad()
def test_one_segment_is_stock_bart(build_model, make_sample, stock, kind):
    model = build_model("srformer_bart_base", cross_attention=kind, segment_size=23, seed=9, **TINY)
    model.load_state_dict(stock.state_dict())
    sample = make_sample([23, 5, 14, 9])
    torch.testing.assert_close(logits(model, sample), logits(stock, sample), rtol=1e-4, atol=1e-4)


def test_a_stock_checkpoint_leaves_new_parameters_at_their_initial_values_and_says_which(build_model, stock, caplog):
    model = build_model("srformer_bart_base", memory_gate=True, seed=9, **TINY)
    initial = {k: v.clone() for k, v in model.state_dict().items()}
    with caplog.at_level(logging.INFO):
        model.load_state_dict(dict(stock.state_dict()))
    for key, value in model.state_dict().items():
        expected = stock.state_dict()[key] if key in stock.state_dict() else initial[key]
        assert torch.equal(value, expected), key
    new = {k.split(".memory.")[1] for k in initial if ".memory." in k}
    assert new == {"proj.weight", "leak", "threshold", "gate"}
    for parameter in new:
        assert f"keeps its initial value: encoder_attn.memory.{parameter} in 2 decoder layers" in caplog.text


def test_initial_values_are_the_papers(build_model):
    memory = build_model("srformer_bart_base", spread=1.0, **TINY).decoder.layers[0].encoder_attn.memory
    assert memory.leak.item() == 0.5
    assert memory.threshold.item() == pytest.approx(0.1)
    assert memory.clamp == 2
    assert memory.proj.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert memory.proj.bias is None


def test_a_damaged_checkpoint_is_not_filled_up(build_model):
    model = build_model("srformer_bart_base", **TINY)
    state = dict(model.state_dict())
    del state["decoder.layers.1.encoder_attn.memory.leak"]
    with pytest.raises(ConfigurationError, match="it has no decoder.layers.1.encoder_attn.memory.leak; use"):
        model.load_state_dict(state)


@pytest.mark.parametrize(
    ("trained", "run", "message"),
    [
        ({}, {"segment_size": 8}, "trained with --segment-size 4, but this run has 8; use --segment-size 4"),
        ({"segment_schedule": "target"}, {}, "trained with --segment-schedule target, but this run has fixed"),
        ({}, {"cross_attention": "segmented"}, "holds memory parameters .* use the --cross-attention"),
        ({"memory_gate": True}, {}, "holds memory parameters .*gate"),
        ({"cross_attention": "segmented"}, {"cross_attention": "full"}, "not with --cross-attention full"),
        ({"max_source_positions": 99}, {}, "has 99 positions, but this run has --max-source-positions 64"),
    ],
)
def test_a_checkpoint_of_another_kind_is_one_clear_error(build_model, trained, run, message):
    with pytest.raises(ConfigurationError, match=message):
        build_model(**run).load_state_dict(build_model(**trained).state_dict())


def test_another_expected_length_is_a_warning_and_the_runs_own_is_kept(build_model, caplog):
    model = build_model(expected_target_length=5)
    model.load_state_dict(build_model(expected_target_length=8).state_dict())
    assert "trained with --expected-target-length 8; this run goes on with 5" in caplog.text
    assert decode_schedule(model.state_dict()["decoder.segment_schedule"])["expected_target_length"] == 5


def test_a_segmented_checkpoint_may_grow_a_memory(build_model, caplog):
    with caplog.at_level(logging.INFO):
        build_model().load_state_dict(build_model(cross_attention="segmented").state_dict())
    assert "encoder_attn.memory.leak" in caplog.text


@torch.no_grad()
def test_positions_are_extended_past_the_checkpoints_and_the_log_says_how(build_model, make_sample, caplog):
    short = build_model(max_source_positions=24)
    long = build_model(max_source_positions=60)
    with caplog.at_level(logging.INFO):
        long.load_state_dict(short.state_dict())
    assert "extended from 24 to 60 positions by repeating the learned ones" in caplog.text
    learned, extended = (m.encoder.embed_positions.weight[2:] for m in (short, long))
    assert torch.equal(extended, torch.cat((learned, learned, learned))[:60])
    sample = make_sample([23, 5])
    torch.testing.assert_close(logits(long, sample), logits(short, sample))
    assert logits(long, make_sample([60, 31])).isfinite().all()


def test_heads_that_do_not_divide_are_refused(build_model):
    with pytest.raises(ConfigurationError, match="--encoder-attention-heads 5 does not divide --encoder-embed-dim 32"):
        build_model(encoder_attention_heads=5)


class TaskWithTargets:
    """A task whose training targets have these sizes."""

    def __init__(self, sizes):
        self.datasets = {"train": argparse.Namespace(tgt_sizes=np.array(sizes))}

    def dataset(self, split):
        return self.datasets[split]


def test_the_default_length_is_the_mean_training_target_as_training_sees_it():
    args = argparse.Namespace(max_target_positions=50)
    assert mean_target_length(args, TaskWithTargets([10, 13, 400])) == round((10 + 13 + 50) / 3)


def test_without_training_data_the_length_must_be_given():
    task = argparse.Namespace(datasets={})
    with pytest.raises(ConfigurationError, match="--expected-target-length is not set and cannot be read off"):
        mean_target_length(argparse.Namespace(max_target_positions=50), task)


def test_a_training_set_that_is_missing_is_named():
    def load_dataset(split, epoch):
        raise FileNotFoundError(f"Dataset not found: {split} (folder)")

    task = argparse.Namespace(datasets={}, load_dataset=load_dataset)
    with pytest.raises(ConfigurationError, match=re.escape("'a,b' (Dataset not found: a,b (folder)); set it")):
        mean_target_length(argparse.Namespace(max_target_positions=50, train_subset="a,b"), task)


def test_the_settings_are_kept_in_the_arguments_that_a_checkpoint_stores(build_model):
    model = build_model(segment_size=7)
    for name, value in {"segment_size": 7, "segment_schedule": "fixed", "raf_leak": 0.5}.items():
        assert getattr(model.cfg, name) == value


def test_activation_checkpointing_changes_no_gradient(build_model, make_sample):
    gradients = []
    for checkpointed in (False, True):
        model = build_model(checkpoint_activations=checkpointed).train()
        logits(model, make_sample([23, 5, 14, 9])).logsumexp(-1).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)


def test_every_parameter_receives_a_gradient_even_with_one_segment(build_model, make_sample):
    """Otherwise distributed training stops at an unused parameter."""
    model = build_model(memory_gate=True).train()
    logits(model, make_sample([3, 2])).logsumexp(-1).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_no_pretrained_model_is_claimed():
    assert SRformerBARTModel.hub_models() == {}
