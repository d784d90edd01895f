"""What becomes of an SRformer's state: averaged, scaled, cast, pruned, and loaded again."""

import copy

import pytest
import torch
from fairseq.checkpoint_utils import load_ema_from_checkpoint, load_model_ensemble_and_task
from fairseq.dataclass.configs import EMAConfig
from fairseq.models.ema.ema import EMA
from helpers import train_arguments
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.checkpoint_file import write_checkpoint
from srformer_plugin.models.schedule_record import decode_schedule, encode_schedule

# 57 and 59 are numbers that float arithmetic likes to turn into 56.999
LENGTH = 57
ARCHITECTURES = ["srformer_bart_tiny", "srformer_t5_tiny"]
RECORD = "decoder.segment_schedule"


def schedule_of(state):
    return decode_schedule(state[RECORD])


@pytest.fixture
def build(build_model):
    return lambda arch="srformer_bart_tiny", **options: build_model(arch, expected_target_length=LENGTH, **options)


def average(states):
    """What fairseq's scripts/average_checkpoints.py computes: sums, half precision in float32; integers by //."""
    result = {}
    for name in states[0]:
        values = [state[name].float() if state[name].dtype == torch.float16 else state[name] for state in states]
        total = values[0].clone()
        for value in values[1:]:
            total += value
        result[name] = total / len(states) if total.is_floating_point() else total // len(states)
    return result


def ema(model, steps, decay, dtype, fp32):
    """fairseq's exponential moving average of a model that does not change."""
    model = model.to(dtype)
    moving = EMA(model, EMAConfig(store_ema=True, ema_decay=decay, ema_fp32=fp32))
    for number in range(steps):
        moving.step(model, number)
    return moving.get_model().state_dict()


def swa(model, **options):
    averaged = AveragedModel(model, use_buffers=True, **options)
    for _ in range(5):
        averaged.update_parameters(model)
    return averaged.module.state_dict()


WAYS = {
    **{f"average of {n} in {dtype}": lambda model, n=n, dtype=dtype: average([model.to(dtype).state_dict()] * n)
       for n in (3, 10) for dtype in (torch.float32, torch.float16, torch.bfloat16)},
    **{f"ema {decay} in {dtype} {fp32=}": lambda model, a=(40, decay, dtype, fp32): ema(model, *a)
       for decay in (0.9, 0.999, 0.9999) for dtype, fp32 in
       ((torch.float32, False), (torch.float16, False), (torch.bfloat16, False), (torch.float16, True))},
    "swa": swa,
    "swa with an ema": lambda model: swa(model, multi_avg_fn=get_ema_multi_avg_fn(0.97)),
    "half and back": lambda model: model.half().float().state_dict(),
    "deep copy": lambda model: copy.deepcopy(model).state_dict(),
    "scaled": lambda model: {name: value * 0.3 for name, value in model.state_dict().items()},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_the_schedule_survives_whatever_averages_or_scales_a_state(build, caplog, way):
    state = WAYS[way](build())
    expected = {"segment_size": 4, "segment_schedule": "fixed", "expected_target_length": LENGTH}
    assert schedule_of(state) == expected
    caplog.clear()
    model = build()
    model.load_state_dict({name: value.float() for name, value in state.items()})
    assert "trained with" not in caplog.text  # the same expected length
    assert schedule_of(model.state_dict()) == expected


@pytest.mark.parametrize("length", [1, 57, 256, 100_000])
@pytest.mark.parametrize("policy", ["fixed", "target"])
def test_a_record_says_what_was_written_long_after_the_average_began_to_drift(length, policy):
    settings = SegmentSettings(segment_size=64, segment_schedule=policy, expected_target_length=length)
    record = encode_schedule(settings)
    assert record.unique().tolist() == [-1, 1]
    for dtype in (torch.bfloat16, torch.float16):
        moving = record.to(dtype)
        for _ in range(3000):
            moving.mul_(0.97).add_(record.to(dtype), alpha=0.03)
        assert decode_schedule(moving) == decode_schedule(record)
    written = {"segment_size": 64, "segment_schedule": policy, "expected_target_length": length}
    assert decode_schedule(record) == written


@pytest.mark.parametrize("shares", [(0.5, 0.5), (2 / 3, 1 / 3), (0.9, 0.1)])
def test_an_average_over_different_schedules_is_refused(build, shares):
    """Not even the majority's is taken."""
    states = [
        build().state_dict(),
        {**build().state_dict(), RECORD: encode_schedule(SegmentSettings(segment_size=4, expected_target_length=59))},
    ]
    mixed = dict(states[0])
    mixed[RECORD] = shares[0] * states[0][RECORD] + shares[1] * states[1][RECORD]
    with pytest.raises(ConfigurationError, match="an average of checkpoints that differ in --segment-size"):
        build().load_state_dict(mixed)


@pytest.mark.parametrize("damage", [lambda r: r[:-3], lambda r: -r, lambda r: r * 0, lambda r: r * float("nan")])
def test_a_damaged_record_is_one_clear_error(build, damage):
    state = build().state_dict()
    state[RECORD] = damage(state[RECORD])
    with pytest.raises(ConfigurationError, match="record of its schedule .* cannot be read: it is damaged"):
        build().load_state_dict(state)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("more", [[], ["--ema-fp32", "--fp16"]], ids=["float32", "fp16"])
def test_training_with_a_moving_average_of_the_weights(train_in_process, tiny_corpus, tmp_path, arch, more):
    flags = ["--arch", arch, "--store-ema", "--ema-decay", 0.5, "--dropout", 0, *more]
    train_in_process(*train_arguments(tiny_corpus, tmp_path, *flags, "--max-update", 2))
    train_in_process(*train_arguments(tiny_corpus, tmp_path, *flags, "--max-update", 3))  # resumes the average, too
    path = str(tmp_path / "checkpoint_last.pt")
    state = load_ema_from_checkpoint(path)
    last = torch.load(path, weights_only=True)["model"]
    assert schedule_of(state["model"]) == schedule_of(last)
    weight = "decoder.layers.0.encoder_attn.q_proj.weight"
    assert not torch.equal(state["model"][weight].float(), last[weight].float())
    (model,), _, _ = load_model_ensemble_and_task([path], arg_overrides={"data": str(tiny_corpus.binarised)})
    model.load_state_dict(state["model"])


# ---- LayerDrop: layers are pruned when a checkpoint is loaded


@pytest.fixture
def saved(build, tmp_path):
    """A model with these options, and its checkpoint in the folder of its dictionaries."""

    def save(arch="srformer_bart_tiny", **options):
        model = build(arch, **options)
        for side in ("source", "target"):
            model.decoder.dictionary.save(str(tmp_path / f"dict.{side}.txt"))
        sizes = {"expected_target_length": LENGTH, "max_source_positions": 64, "max_target_positions": 64}
        write_checkpoint(tmp_path / "model.pt", arch, {**sizes, **options}, model.state_dict())
        return model

    return save


def load(folder, **overrides):
    overrides["data"] = str(folder)
    (model,), _, _ = load_model_ensemble_and_task([str(folder / "model.pt")], arg_overrides=overrides)
    return model.eval()


def logits(model, sample):
    previous = torch.randint(4, 20, (len(sample["id"]), 9), generator=torch.Generator().manual_seed(5))
    return model(**sample["net_input"], prev_output_tokens=previous)[0]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    "keep",
    [
        {"decoder_layers_to_keep": "0,2"},
        {"encoder_layers_to_keep": "1"},
        {"encoder_layers_to_keep": "1", "decoder_layers_to_keep": "2,0"},
    ],
    ids=lambda keep: "-".join(f"{side[:3]}{text}" for side, text in keep.items()),
)
@torch.no_grad()
def test_a_pruned_checkpoint_is_the_model_without_the_other_layers(saved, make_sample, tmp_path, arch, keep):
    whole = saved(arch, encoder_layers=2, decoder_layers=3, decoder_layerdrop=0.3)
    pruned = load(tmp_path, **keep)
    for side, stack in (("encoder", whole.encoder), ("decoder", whole.decoder)):
        if f"{side}_layers_to_keep" in keep:
            kept = sorted(map(int, keep[f"{side}_layers_to_keep"].split(",")))
            stack.layers = torch.nn.ModuleList(stack.layers[number] for number in kept)
            stack.num_layers = len(kept)
    sample = make_sample([23, 5, 14])
    assert torch.equal(logits(pruned, sample), logits(whole, sample))
    assert [name for name, _ in pruned.named_parameters()] == [name for name, _ in whole.named_parameters()]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_full_checkpoint_is_pruned_into_an_srformer(saved, tmp_path, arch):
    full = saved(arch, cross_attention="full", encoder_layers=2, decoder_layers=3)
    model = load(tmp_path, decoder_layers_to_keep="0,2", cross_attention="srformer")
    assert len(model.decoder.layers) == 2 and len(model.encoder.layers) == 2
    assert torch.equal(model.decoder.layers[1].fc1.weight, full.decoder.layers[2].fc1.weight)
    assert all(layer.encoder_attn.memory.leak.isfinite().all() for layer in model.decoder.layers)


@pytest.mark.parametrize("text", ["0,3", "1,1", "a", "-1"])
def test_layers_that_are_not_there_are_refused_by_flag_and_value(saved, tmp_path, text):
    saved(decoder_layers=3)
    with pytest.raises(ConfigurationError, match=f"--decoder-layers-to-keep '{text}' must be .* 0 to 2"):
        load(tmp_path, decoder_layers_to_keep=text)


def test_memory_of_another_kind_is_refused_after_pruning_as_well(saved, tmp_path):
    saved(decoder_layers=3, memory_gate=True)
    with pytest.raises(ConfigurationError, match="holds memory parameters .*gate"):
        load(tmp_path, decoder_layers_to_keep="0,2", memory_gate=False)
