"""`--memory-lr-scale`: a rate of its own for what a memory owns, the same checkpoints, and where it cannot be."""

import argparse
import copy
import re

import pytest
import torch
from fairseq import options
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.optim import FP16Optimizer, build_optimizer
from fairseq.optim.adam import FairseqAdamConfig
from fairseq.optim.lr_scheduler import build_lr_scheduler
from helpers import train_arguments
from omegaconf import OmegaConf
from stock_bart import TINY_BART

from srformer_plugin.attention.method.memory import MEMORIES
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.compat.refusals import check_command
from srformer_plugin.errors import ConfigurationError
from srformer_plugin.optim.fused_adam import FusedAdam, FusedAdamConfig, log_scale
from srformer_plugin.optim.memory_parameters import mark_memory

LR = 1e-3


def config(scale=1.0, name="fused_adam", **settings):
    cfg = FairseqConfig()
    if name == "adam":
        cfg.optimizer = FairseqAdamConfig(lr=[LR], **settings)
    else:
        cfg.optimizer = FusedAdamConfig(lr=[LR], memory_lr_scale=scale, **settings)
    cfg.optimizer._name = name
    return OmegaConf.structured(cfg)


class Small(torch.nn.Module):
    """Other parameters before, between and behind those of two memories."""

    def __init__(self, seed=0):
        super().__init__()
        settings = SegmentSettings(memory_gate=True)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = torch.nn.Linear(3, 4)
            self.one = MEMORIES["srformer"](2, 3, settings)
            self.between = torch.nn.Linear(2, 2)
            self.two = MEMORIES["srformer"](2, 3, settings)
            self.last = torch.nn.Linear(2, 3)
        mark_memory(self.one)
        mark_memory(self.two)


def give_gradients(params, generator):
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p)


def train(optimizer, params, updates, generator, clip=1.0):
    norms = []
    for _ in range(updates):
        optimizer.zero_grad()
        give_gradients(params, generator)
        if isinstance(optimizer, FP16Optimizer):
            optimizer._needs_sync = True
        norms.append(optimizer.clip_grad_norm(clip).item())
        optimizer.step()
    return norms


def of_memory(name):
    return name.startswith(("one", "two"))


def state_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# --- updates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16"])
def test_a_memorys_first_update_is_as_many_times_as_large_and_all_others_are_as_they_were(half):
    moved, norms = [], []
    for scale in (1.0, 50.0):
        model = Small()
        cfg = config(scale, weight_decay=0.1)
        if half:
            cfg.common.bf16 = True
            model = model.bfloat16()
            params = list(model.parameters())
            optimizer = FP16Optimizer.build_optimizer(cfg, params)
            masters = optimizer.fp32_params
        else:
            params = masters = list(model.parameters())
            optimizer = build_optimizer(cfg.optimizer, params)
        before = [p.detach().clone() for p in masters]
        norms.append(train(optimizer, params, 1, torch.Generator().manual_seed(1)))
        names = [name for name, _ in model.named_parameters()]
        moved.append({name: p.detach() - b for name, p, b in zip(names, masters, before)})
    assert norms[0] == norms[1]
    assert {name for name in moved[0] if of_memory(name)} == {
        f"{place}.{name}" for place in ("one", "two") for name in ("proj.weight", "leak", "threshold", "gate")
    }
    for name, step in moved[0].items():
        if of_memory(name):
            # the difference of two weights has their rounding: 6e-8 of weights below 1, of steps of 1e-3
            torch.testing.assert_close(moved[1][name], 50 * step, rtol=0, atol=50 * 2e-7)
            assert step.abs().min() > 0.9 * LR
        else:
            assert torch.equal(moved[1][name], step), name


def test_others_are_equal_to_the_bit_after_several_updates_with_the_same_gradients():
    ends = []
    for scale in (1.0, 50.0):
        model = Small()
        params = list(model.parameters())
        optimizer = build_optimizer(config(scale).optimizer, params)
        norms = train(optimizer, params, 5, torch.Generator().manual_seed(1))
        ends.append((norms, state_of(model)))
    assert ends[0][0] == ends[1][0]  # a sum in another order would not be
    for name, value in ends[0][1].items():
        assert torch.equal(value, ends[1][1][name]) == (not of_memory(name)), name


def test_without_a_scale_a_state_is_pytorchs_own_of_one_group():
    model, plain = Small(), Small()
    params, theirs = list(model.parameters()), list(plain.parameters())
    optimizer = build_optimizer(config(1.0, weight_decay=0.1).optimizer, params)
    peer = torch.optim.AdamW(theirs, lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, fused=True)
    for _ in range(3):
        train(optimizer, params, 1, torch.Generator().manual_seed(1), clip=0)
        give_gradients(theirs, torch.Generator().manual_seed(1))
        peer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, theirs))
    found, expected = optimizer.state_dict(), peer.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    assert list(found["state"]) == list(expected["state"])
    for key, value in expected["state"].items():
        assert all(torch.equal(value[name], found["state"][key][name]) for name in ("exp_avg", "exp_avg_sq"))


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_a_schedule_sets_the_others_rate_and_the_memorys_is_its_multiple(scale):
    cfg = config(scale)
    arguments = argparse.Namespace(
        lr_scheduler="polynomial_decay", lr=[LR], warmup_updates=2, force_anneal=None, end_learning_rate=0.0,
        power=1.0, total_num_update=10,
    )  # fmt: skip
    optimizer = build_optimizer(cfg.optimizer, list(Small().parameters()))
    assert [group["lr"] for group in optimizer.param_groups] == [LR, scale * LR]
    scheduler = build_lr_scheduler(arguments, optimizer)
    for update, share in ((0, 0), (1, 0.5), (2, 1), (6, 0.5)):
        scheduler.step_update(update)
        assert optimizer.get_lr() == pytest.approx(share * LR)
        assert [group["lr"] for group in optimizer.param_groups] == [optimizer.get_lr(), scale * optimizer.get_lr()]


# --- checkpoints --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(50.0, 50.0), (1.0, 50.0), (50.0, 1.0), (50.0, 3.0)])
def test_a_stored_state_goes_on_with_any_scale(first, second):
    params = [list(Small().parameters()) for _ in range(2)]
    one = build_optimizer(config(first).optimizer, params[0])
    train(one, params[0], 2, torch.Generator().manual_seed(1))
    stored = copy.deepcopy(one.state_dict())
    assert [group["params"] for group in stored["param_groups"]] == [list(range(len(params[0])))]
    assert stored["param_groups"][0]["lr"] == LR
    for index, p in enumerate(params[0]):  # in the model's order
        assert stored["state"][index]["exp_avg"].shape == p.shape
        assert torch.equal(stored["state"][index]["exp_avg"], one.optimizer.state[p]["exp_avg"])

    other = build_optimizer(config(second).optimizer, params[1])
    other.load_state_dict(stored, {"weight_decay": 0.1, "lr": 2 * LR})
    for a, b in zip(*params):
        mine, theirs = one.optimizer.state[a], other.optimizer.state[b]
        assert theirs["step"] == 2
        assert all(torch.equal(mine[name], theirs[name]) for name in ("exp_avg", "exp_avg_sq"))
    assert [group["lr"] for group in other.param_groups] == [2 * LR, 2 * LR * second][: len(other.param_groups)]
    assert len(other.param_groups) == (1 if second == 1 else 2)
    assert {group["weight_decay"] for group in other.param_groups} == {0.1}


def test_fairseqs_adam_goes_on_from_a_state_with_a_scale_and_its_state_is_gone_on_from():
    models = [Small(), Small()]
    params = [list(model.parameters()) for model in models]
    ours, theirs = (
        build_optimizer(config(50.0).optimizer, params[0]),
        build_optimizer(config(name="adam").optimizer, params[1]),
    )
    train(ours, params[0], 2, torch.Generator().manual_seed(1))
    theirs.load_state_dict(ours.state_dict())
    for a, b in zip(*params):
        assert torch.equal(ours.optimizer.state[a]["exp_avg"], theirs.optimizer.state[b]["exp_avg"])
    train(theirs, params[1], 1, torch.Generator().manual_seed(2))
    ours.load_state_dict(theirs.state_dict())
    for a, b in zip(*params):
        assert torch.equal(ours.optimizer.state[a]["exp_avg"], theirs.optimizer.state[b]["exp_avg"])
        assert ours.optimizer.state[a]["step"] == 3


def test_a_state_of_other_parameters_is_refused():
    ours = build_optimizer(config(50.0).optimizer, list(Small().parameters()))
    other = build_optimizer(config().optimizer, [torch.nn.Parameter(torch.zeros(2, 2))])
    with pytest.raises(ConfigurationError, match="optimizer has 1 parameters, and this one 14: .* --reset-optimizer"):
        ours.load_state_dict(other.state_dict())


# --- fairseq-train ------------------------------------------------------------------------------------------


def arguments_of(corpus, save_dir, *more):
    own = ["--optimizer", "fused_adam", "--adam-betas", "(0.9, 0.98)", "--clip-norm", "1", "--batch-size", "5"]
    own += ["--dropout", "0", "--segment-size", "4", "--memory-gate", "--update-freq", "2", "--disable-validation"]
    return train_arguments(corpus, save_dir, *own, *more)


def load(folder):
    return torch.load(folder / "checkpoint_last.pt", weights_only=False)


@pytest.mark.parametrize(("scale", "expected"), [(1, 0), (50, 1)])
def test_a_scale_is_logged_once(scale, expected, caplog):
    log_scale.cache_clear()
    model = Small()
    numbers = sum(p.numel() for name, p in model.named_parameters() if of_memory(name))
    with caplog.at_level("INFO"):
        for _ in range(2):  # as a trainer that goes on from a checkpoint
            FusedAdam(config(scale).optimizer, model.parameters())
    assert caplog.messages == [f"the memory's {numbers} parameters learn at 50 times --lr"] * expected


@pytest.mark.parametrize("arch", ["srformer_bart_tiny", "srformer_t5_tiny"])
@pytest.mark.parametrize("precision", [[], ["--bf16"]], ids=["float32", "bf16"])
def test_fairseq_train_scales_the_memory_alone(tiny_corpus, train_in_process, tmp_path, arch, precision):
    # with BART's threshold of 0.1 no neuron of so small a model fires
    flags = ["--arch", arch, *precision, "--max-update", 1, "--store-ema", "--raf-threshold", 0.001]
    found = {}
    for scale in ("1", "50"):
        train_in_process(*arguments_of(tiny_corpus, tmp_path / scale, *flags, "--memory-lr-scale", scale))
        found[scale] = load(tmp_path / scale)
    models = {scale: checkpoint["model"] for scale, checkpoint in found.items()}
    differing = {name for name, value in models["1"].items() if not torch.equal(value, models["50"][name])}
    own = {name for name in models["1"] if ".memory." in name}
    assert {name.rpartition(".memory.")[2] for name in own} == {"proj.weight", "leak", "threshold", "gate"}
    # the gate is 0, and stops what all others would learn from
    assert differing and differing <= own and any(name.endswith("gate") for name in differing)
    if not precision:
        gates = [torch.cat([v for n, v in models[scale].items() if n.endswith("gate")]) for scale in ("1", "50")]
        torch.testing.assert_close(gates[1], 50 * gates[0])
    groups = {scale: checkpoint["last_optimizer_state"]["param_groups"] for scale, checkpoint in found.items()}
    assert groups["1"] == groups["50"]


def test_two_updates_and_two_more_are_four(tiny_corpus, train_in_process, tmp_path):
    flags = ["--memory-lr-scale", 50, "--lr-scheduler", "polynomial_decay", "--total-num-update", 6]
    whole = [*flags, "--max-update", 4, "--save-interval-updates", 2]
    train_in_process(*arguments_of(tiny_corpus, tmp_path / "whole", *whole))
    saved = next((tmp_path / "whole").glob("checkpoint_*_2.pt"))
    train_in_process(*arguments_of(tiny_corpus, tmp_path / "parts", *whole, "--restore-file", saved))
    first, second = load(tmp_path / "whole"), load(tmp_path / "parts")
    assert all(torch.equal(value, second["model"][name]) for name, value in first["model"].items())
    states = [checkpoint["last_optimizer_state"]["state"] for checkpoint in (first, second)]
    assert states[0].keys() == states[1].keys()
    for key, state in states[0].items():
        assert state["step"] == states[1][key]["step"] == 4
        assert torch.equal(state["exp_avg"], states[1][key]["exp_avg"])


# --- what is refused ----------------------------------------------------------------------------------------

SRFORMER = ["data", "--arch", "srformer_bart_tiny", "--source-lang", "a", "--target-lang", "b", "--batch-size", "8"]


def training(arguments, *flags):
    arguments = [*arguments, "--optimizer", "fused_adam", *flags]
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), arguments))


def check(arguments, *flags):
    check_command(training(arguments, *flags), "train")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-1"], "--memory-lr-scale -1.0 must be from 0 to 10,000"),
        (["inf"], "--memory-lr-scale inf must be from 0 to 10,000"),
        (["1e30"], "--memory-lr-scale 1e+30 must be from 0 to 10,000"),
        (["nan"], "--memory-lr-scale nan is no number"),
        *(
            (["50", "--cross-attention", memory], f"--cross-attention {memory} has no parameters of a memory: leave")
            for memory in ("full", "segmented", "pooled", "previous")
        ),
        (["50", "--cross-attention", "hepos", "--head-stride", "2"], "--cross-attention hepos has no parameters of a"),
        (["50", "--fp16"], "--fp16 makes one vector of all parameters, in which none is the memory's: add --fp16-no"),
    ],
)
def test_fairseq_train_refuses_it_at_the_start(flags, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        check(SRFORMER, "--memory-lr-scale", *flags)


@pytest.mark.parametrize(
    "flags",
    [["50"], ["0"], ["50", "--fp16", "--fp16-no-flatten-grads"], ["50", "--bf16"], ["1", "--cross-attention", "full"],
     ["1", "--fp16"]],
)  # fmt: skip
def test_what_can_be_is_left_alone(flags, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check(SRFORMER, "--memory-lr-scale", *flags)


def test_a_check_draws_no_random_numbers():
    before = torch.get_rng_state()
    check(SRFORMER, "--memory-lr-scale", "50")
    assert torch.equal(before, torch.get_rng_state())


def test_a_model_of_fairseqs_is_refused_by_its_architecture():
    stock = ["data", "--source-lang", "a", "--target-lang", "b", "--batch-size", "8", *TINY_BART]
    check(stock)
    with pytest.raises(ConfigurationError, match=r"--memory-lr-scale 50: --arch \w+ has no memory: leave"):
        check(stock, "--memory-lr-scale", "50")


def test_shards_of_parameters_are_refused():
    cfg = training(SRFORMER, "--memory-lr-scale", "50", "--ddp-backend", "fully_sharded")
    with pytest.raises(ConfigurationError, match="--ddp-backend fully_sharded makes one vector of all parameters"):
        FusedAdam.check_training(cfg)


def test_an_optimizer_without_marked_parameters_is_refused(monkeypatch):
    params = list(torch.nn.Linear(2, 2).parameters())
    with pytest.raises(ConfigurationError, match="none of the parameters is a memory's: leave"):
        build_optimizer(config(50.0).optimizer, params)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)  # without CUDA it flattens where it is told one
    cfg = config(50.0)
    cfg.common.fp16 = True
    with pytest.raises(ConfigurationError, match="flat ones know nothing of it: add --fp16-no-flatten-grads"):
        FP16Optimizer.build_optimizer(cfg, list(Small().half().parameters()))


def test_an_optimizer_of_several_finds_no_group_that_its_configuration_lacks():
    """`--optimizer composite` chooses by ``param_group``, and configurations for stock models have but a default."""
    model = Small()
    cfg = OmegaConf.create(
        {
            "_name": "composite",
            "dynamic_groups": False,
            "groups": {
                "default": {
                    "lr_float": LR,
                    "optimizer": {**vars(FairseqAdamConfig(lr=[LR], tpu=False)), "_name": "adam"},
                    "lr_scheduler": {"_name": "fixed", "lr": [LR], "warmup_updates": 0},
                }
            },
        }
    )
    optimizer = build_optimizer(cfg, list(model.parameters()))
    assert list(optimizer.optimizers) == ["default"]
    assert len(optimizer.optimizers["default"].param_groups[0]["params"]) == len(list(model.parameters()))
