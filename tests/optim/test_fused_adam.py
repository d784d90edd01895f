"""`--optimizer fused_adam` beside fairseq's `adam`: one training, gradients freed, checkpoints of either."""

import math
import re

import pytest
import torch
from conftest import USER_DIR
from fairseq import options, utils
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim import FP16Optimizer, build_optimizer
from helpers import train_arguments
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optim.training_logs import load, logged

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.optim.fused_adam import FusedAdam, FusedAdamConfig

BOTH = ["adam", "fused_adam"]
SHAPES = [(7, 5), (5,), (3, 2, 4), ()]
LR = 1e-2
# Where there is a GPU, fairseq's norms are on it, and clip nothing else.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def config(name, **settings):
    """What fairseq's trainer builds an optimizer from."""
    cfg = FairseqConfig()
    cfg.optimizer = FusedAdamConfig(lr=[LR], **settings)
    cfg.optimizer._name = name
    return OmegaConf.structured(cfg)


def parameters(dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(device, dtype)) for shape in SHAPES]


def give_gradients(params, generator, scale=1.0):
    for p in params:
        p.grad = (scale * torch.randn(p.shape, generator=generator)).to(p)


def values(params):
    return torch.cat([p.detach().float().flatten() for p in params])


# --- one step after the other -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "clip"),
    [
        ({}, 0.0),
        ({"adam_betas": "(0.9, 0.98)", "weight_decay": 0.1}, 1.0),
        ({"adam_betas": [0.5, 0.7], "adam_eps": 1e-6, "weight_decay": 0.01}, 100.0),
    ],
)
def test_updates_are_those_of_fairseqs_adam(settings, clip):
    ends, norms = [], []
    for name in BOTH:
        params, generator = parameters(device=DEVICE), torch.Generator().manual_seed(1)
        optimizer = build_optimizer(config(name, **settings).optimizer, params)
        for update in range(12):
            give_gradients(params, generator)
            if update % 3:
                params[1].grad = None  # is left as it is, weight decay and averages included
            optimizer.multiply_grads(0.5)
            norms.append(optimizer.clip_grad_norm(clip).item())
            optimizer.set_lr(LR * (1 - update / 24))
            optimizer.step()
            optimizer.zero_grad()
        ends.append(values(params))
    assert norms[:12] == pytest.approx(norms[12:], rel=1e-6)
    # 12 times some roundings in float32 (6e-8 of a weight each), and eps in another place, 1e-4 of a step here where a
    # gradient is 1e-2. The weights moved by 1e-2 to 1e-1.
    torch.testing.assert_close(*ends, rtol=2e-6, atol=1e-6)
    assert (ends[0] - values(parameters(device=DEVICE))).abs().mean() > 1e-2


def test_eps_is_added_after_the_correction_of_the_bias_and_before_it_by_fairseq():
    beta2, eps, gradient = 0.99, 0.5, 2.0
    for name, eps_as_it_acts in (("adam", eps / math.sqrt(1 - beta2)), ("fused_adam", eps)):
        p = torch.nn.Parameter(torch.zeros(1, 1))
        optimizer = build_optimizer(config(name, adam_betas=f"(0.9, {beta2})", adam_eps=eps).optimizer, [p])
        p.grad = torch.full_like(p, gradient)
        optimizer.step()
        assert -p.item() == pytest.approx(LR * gradient / (gradient + eps_as_it_acts), rel=1e-5), name


def test_gradients_are_freed_by_the_step():
    params = parameters()
    optimizer = build_optimizer(config("fused_adam").optimizer, params)
    give_gradients(params, None)
    optimizer.clip_grad_norm(1.0)
    assert all(p.grad is not None for p in params)
    optimizer.step()
    assert all(p.grad is None for p in params)


@pytest.mark.parametrize("updates_before", [0, 2])
def test_a_step_that_is_skipped_changes_nothing_and_the_next_one_goes_on(updates_before):
    ends = []
    for skips in (True, False):
        params, generator = parameters(device=DEVICE), torch.Generator().manual_seed(1)
        optimizer = build_optimizer(config("fused_adam", weight_decay=0.1).optimizer, params)
        for _ in range(updates_before):
            give_gradients(params, generator)
            assert optimizer.skip_next_step_if(torch.tensor(False, device=DEVICE))
            optimizer.step()
        if skips:
            before = values(params)
            give_gradients(params, None, scale=math.nan)
            assert optimizer.skip_next_step_if(torch.tensor(True, device=DEVICE))
            optimizer.step()
            assert torch.equal(values(params), before)
            assert {state["step"] for state in optimizer.state_dict()["state"].values()} == {updates_before}
        give_gradients(params, generator)
        optimizer.step()
        ends.append((values(params), optimizer.state_dict()["state"]))
    assert torch.equal(ends[0][0], ends[1][0])
    for mine, other in zip(ends[0][1].values(), ends[1][1].values()):
        assert mine["step"] == other["step"] == updates_before + 1
        assert all(torch.equal(mine[name], other[name]) for name in ("exp_avg", "exp_avg_sq"))


@pytest.mark.parametrize("name", BOTH)
def test_the_state_behind_a_first_step_that_was_skipped_is_a_beginning(name):
    """As in crash.pt of a training whose first gradients are no numbers."""
    skipped = build_optimizer(config("fused_adam").optimizer, params := parameters())
    give_gradients(params, None, scale=math.nan)
    skipped.skip_next_step_if(torch.tensor(True))
    skipped.step()
    ends = []
    for is_loaded in (True, False):
        optimizer = build_optimizer(config(name).optimizer, params := parameters())
        if is_loaded:
            optimizer.load_state_dict(skipped.state_dict())
        give_gradients(params, torch.Generator().manual_seed(1))
        optimizer.step()
        ends.append(values(params))
    assert torch.equal(*ends)


def test_a_step_that_others_make_is_not_skipped():
    optimizer = build_optimizer(config("fused_adam").optimizer, parameters())
    optimizer.optimizer = type("Sharded", (torch.optim.AdamW,), {})(parameters())
    assert not optimizer.skip_next_step_if(torch.tensor(True))
    assert not hasattr(optimizer.optimizer, "found_inf")


# --- the norm -------------------------------------------------------------------------------------------------

shapes = st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=6)


@given(shapes=shapes, max_norm=st.sampled_from([0, 0.1, 1.0, 50.0]), data=st.data())
def test_norm_and_clipped_gradients_are_those_of_fairseq(shapes, max_norm, data):
    generator = torch.Generator().manual_seed(0)
    theirs, ours = ([torch.nn.Parameter(torch.zeros(shape, device=DEVICE)) for shape in shapes] for _ in range(2))
    for a, b in zip(theirs, ours):
        if data.draw(st.booleans(), label="has a gradient"):
            a.grad = torch.randn(a.shape, generator=generator).to(DEVICE)
            b.grad = a.grad.clone()
        if data.draw(st.integers(0, 9), label="expert") == 9:
            a.expert = b.expert = True
    aggregate = data.draw(st.sampled_from([None, lambda norm: 3 * norm]), label="aggregate")
    expected = utils.clip_grad_norm_(theirs, max_norm, aggregate)
    found = build_optimizer(config("fused_adam").optimizer, ours).clip_grad_norm(max_norm, aggregate)
    assert found.shape == expected.shape == ()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)  # a sum in another order
    for a, b in zip(theirs, ours):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_norm_that_is_not_finite_is_returned_so_that_fairseq_sees_it(bad):
    params = parameters()
    give_gradients(params, None)
    params[0].grad[2, 3] = bad
    norm = build_optimizer(config("fused_adam").optimizer, params).clip_grad_norm(1.0)
    assert str(norm.item()) == str(bad)


# --- half precision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bf16", "fp16", "fp16, flat"])
def test_half_precision_trains_as_with_fairseqs_adam_and_through_an_overflow(kind, monkeypatch):
    # a machine without CUDA flattens the parameters when it is told a "device"
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float16
    ends, scales = [], []
    for name in BOTH:
        cfg = config(name, weight_decay=0.01, adam_eps=1e-12)  # too small to matter where it stands
        cfg.common.bf16, cfg.common.fp16, cfg.common.fp16_init_scale = kind == "bf16", kind != "bf16", 4
        cfg.common.fp16_no_flatten_grads = kind == "fp16"
        params, generator = parameters(dtype), torch.Generator().manual_seed(1)
        optimizer = FP16Optimizer.build_optimizer(cfg, params)
        flat = optimizer.has_flat_params
        assert flat == (kind == "fp16, flat")
        masters = list(optimizer.fp32_optimizer.params)
        for update in range(8):
            optimizer.zero_grad()
            for _ in range(2):  # --update-freq 2
                loss = sum((p * torch.randn(p.shape, generator=generator).to(dtype)).sum() for p in params)
                optimizer.backward(loss)
            if update == 3 and optimizer.scaler is not None:
                params[0].grad[0, 0] = math.inf
                with pytest.raises(OverflowError):
                    optimizer.clip_grad_norm(1.0)
                continue
            optimizer.multiply_grads(0.5)
            optimizer.clip_grad_norm(1.0)
            optimizer.step()
            if name == "fused_adam":
                assert all((p.grad is None) != flat for p in masters)
        ends.append(values(masters))
        scales.append(optimizer.scaler and optimizer.scaler.loss_scale)
        torch.testing.assert_close(values(params), values(masters), rtol=2**-8, atol=0)
    torch.testing.assert_close(*ends, rtol=2e-6, atol=1e-6)  # the gradients are equal; roundings as above
    assert scales[0] == scales[1] == (None if kind == "bf16" else 2)


# --- fairseq-train --------------------------------------------------------------------------------------------


def adam_arguments(corpus, save_dir, optimizer, *more):
    own = ["--dropout", "0.1", "--optimizer", optimizer, "--adam-betas", "(0.9, 0.98)", "--weight-decay", "0.01"]
    own += ["--clip-norm", "1", "--batch-size", "5", "--update-freq", "2", "--disable-validation"]
    return train_arguments(corpus, save_dir, *own, *more)


PRECISIONS = {"float32": [], "bf16": ["--bf16"], "fp16": ["--fp16", "--fp16-init-scale", "4"]}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_fairseq_train_prints_the_losses_of_adam_and_resumes(tiny_corpus, train_in_process, tmp_path, precision):
    flags = ["--max-update", 6, "--save-interval-updates", 3, *PRECISIONS[precision]]
    logs = [train_in_process(*adam_arguments(tiny_corpus, tmp_path / name, name, *flags)) for name in BOTH]
    # the last digit printed; a weight that is rounded to another half changes what follows
    tolerance = {"abs": 2e-3} if precision == "float32" else {"rel": 0.02}
    for number in ("loss", "gnorm"):
        theirs, ours = (logged(log, number) for log in logs)
        assert len(theirs) == 6
        assert ours == pytest.approx(theirs, **tolerance)

    saved = next((tmp_path / "fused_adam").glob("checkpoint_*_3.pt"))
    resumed = adam_arguments(tiny_corpus, tmp_path / "resumed", "fused_adam", *flags, "--restore-file", saved)
    losses, whole = logged(train_in_process(*resumed), "loss"), logged(logs[1], "loss")[3:]
    assert losses == pytest.approx(whole, rel=2e-3)
    if precision != "float32":
        return  # fairseq's checkpoints lack the weights in float32, whatever the optimizer
    first, second = load(tmp_path / "fused_adam"), load(tmp_path / "resumed")
    assert all(torch.equal(value, second["model"][name]) for name, value in first["model"].items())
    states = [checkpoint["last_optimizer_state"]["state"] for checkpoint in (first, second)]
    assert states[0].keys() == states[1].keys() and len(states[0]) > 20
    for key, state in states[0].items():
        assert state["step"] == states[1][key]["step"] == 6
        assert all(torch.equal(state[name], states[1][key][name]) for name in ("exp_avg", "exp_avg_sq"))


@pytest.mark.parametrize("first", BOTH)
def test_a_training_in_bf16_goes_on_with_the_other_optimizer(tiny_corpus, train_in_process, tmp_path, first):
    second = BOTH[1 - BOTH.index(first)]
    flags = ["--bf16", "--max-update", 6, "--save-interval-updates", 3]
    whole = train_in_process(*adam_arguments(tiny_corpus, tmp_path / "whole", first, *flags))
    saved = next((tmp_path / "whole").glob("checkpoint_*_3.pt"))
    more = ["--restore-file", saved]
    changed = train_in_process(*adam_arguments(tiny_corpus, tmp_path / "changed", second, *flags, *more))
    assert logged(changed, "loss") == pytest.approx(logged(whole, "loss")[3:], rel=2e-3)
    states = [load(tmp_path / folder)["last_optimizer_state"]["state"].values() for folder in ("whole", "changed")]
    assert {state["step"] for values in states for state in values} == {6}
    # averages that start from 0 would differ by half; bf16 makes the last gradients differ by a few per cent
    squares = [torch.cat([state["exp_avg_sq"].double().flatten() for state in values]) for values in states]
    assert (squares[0] - squares[1]).norm() < 0.1 * squares[0].norm()


def test_in_float32_fairseq_refuses_to_go_on_from_adam_and_says_what_helps(tiny_corpus, train_in_process, tmp_path):
    train_in_process(*adam_arguments(tiny_corpus, tmp_path, "adam", "--max-update", 1))
    arguments = adam_arguments(tiny_corpus, tmp_path, "fused_adam", "--max-update", 2)
    with pytest.raises(AssertionError, match="please reset the optimizer .--reset-optimizer.*FusedAdam"):
        train_in_process(*arguments)


def test_a_state_of_fairseqs_adam_is_handed_on_as_the_kernel_takes_it(monkeypatch):
    """As --zero-sharding os puts it into the optimizer of a process: key by key, and nothing converted."""
    source, params = parameters(), parameters()
    theirs, ours = (build_optimizer(config(name).optimizer, p) for name, p in zip(BOTH, (source, params)))
    give_gradients(source, torch.Generator().manual_seed(1))
    theirs.step()
    inner = ours.optimizer
    monkeypatch.setattr(
        inner, "load_state_dict", lambda given: inner.state.update(zip(params, given["state"].values()))
    )
    ours.load_state_dict(theirs.state_dict())
    give_gradients(params, torch.Generator().manual_seed(2))
    ours.step()
    assert [state["step"] for state in ours.state_dict()["state"].values()] == [2] * len(params)


@pytest.mark.parametrize("overrides", [None, {"weight_decay": 0.1}])
def test_a_stored_state_goes_on_bit_for_bit(tmp_path, overrides):
    first, second = parameters(), parameters()
    settings = {"adam_betas": "(0.8, 0.95)", "weight_decay": (overrides or {}).get("weight_decay", 0.3)}
    generator = torch.Generator().manual_seed(1)
    optimizers = [build_optimizer(config("fused_adam", **settings).optimizer, first)]
    for _ in range(3):
        give_gradients(first, generator)
        optimizers[0].step()
    torch.save(optimizers[0].state_dict(), tmp_path / "state.pt")
    optimizers.append(build_optimizer(config("fused_adam").optimizer, second))
    optimizers[1].load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), overrides)
    with torch.no_grad():
        for a, b in zip(first, second):
            b.copy_(a)
    for _ in range(3):
        give_gradients(first, generator)
        for a, b in zip(first, second):
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(values(first), values(second))


def test_a_loaded_state_of_fairseqs_adam_runs_on_the_kernel():
    """Its groups know nothing of `fused`, and its count of updates is an int."""
    params = parameters()
    theirs = build_optimizer(config("adam").optimizer, params)
    give_gradients(params, None)
    theirs.step()
    ours = build_optimizer(config("fused_adam", adam_eps=0.1).optimizer, params)
    ours.load_state_dict(theirs.state_dict(), {"weight_decay": 0.5})
    group = ours.param_groups[0]
    assert group["fused"] is True
    assert (group["eps"], group["weight_decay"]) == (1e-8, 0.5)  # the checkpoint's, and what overrides it
    assert all(torch.is_tensor(ours.optimizer.state[p]["step"]) for p in params)
    give_gradients(params, None)
    ours.step()
    assert {state["step"] for state in ours.state_dict()["state"].values()} == {2}


# --- flags ----------------------------------------------------------------------------------------------------


def test_flags_and_defaults_are_those_of_adam(tmp_path):
    parsed = []
    for name in BOTH:
        arguments = [str(tmp_path), "--user-dir", str(USER_DIR), "--arch", "srformer_bart_tiny", "--optimizer", name]
        parsed.append(vars(options.parse_args_and_arch(options.get_training_parser(), arguments)))
    assert [found.pop("optimizer") for found in parsed] == BOTH
    assert parsed[1].pop("memory_lr_scale") == 1
    assert parsed[0] == parsed[1]
    assert "adam_betas" in parsed[1]


@pytest.mark.parametrize(
    "betas", ["(0.9", "0.9", "(0.9, 1.0)", "(-0.1, 0.9)", "(0.9, 0.99, 0.9)", "(a, b)", "print('run')", [0.9]]
)
def test_betas_that_cannot_work_are_refused_and_not_run(betas, capsys):
    with pytest.raises(ConfigurationError, match=re.escape(f"--adam-betas {betas!r} is not two numbers")):
        build_optimizer(config("fused_adam", adam_betas=betas).optimizer, parameters())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adam_eps": -1e-8}, "--adam-eps -1e-08 is below 0"),
        ({"weight_decay": math.nan}, "--weight-decay nan is below 0"),
        ({"fp16_adam_stats": True}, "--fp16-adam-stats does not go with --optimizer fused_adam"),
        ({"use_old_adam": True}, "--use-old-adam does not go with --optimizer fused_adam"),
    ],
)
def test_other_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        build_optimizer(config("fused_adam", **settings).optimizer, parameters())


def test_a_device_without_the_kernel_is_refused_by_name():
    params = [torch.nn.Parameter(torch.zeros(2, 2, device="meta"))]
    with pytest.raises(ConfigurationError, match="has no kernel for it on meta: use --optimizer adam"):
        build_optimizer(config("fused_adam").optimizer, params)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_memory_efficient_half_precision_is_refused(tiny_corpus, train_in_process, tmp_path, precision):
    arguments = adam_arguments(tiny_corpus, tmp_path, "fused_adam", f"--memory-efficient-{precision}")
    with pytest.raises(ConfigurationError, match="or --fp16 or --bf16 in place of --memory-efficient-fp16"):
        train_in_process(*arguments)


def test_it_supports_what_fairseq_asks_it():
    optimizer = build_optimizer(config("fused_adam").optimizer, parameters())
    assert isinstance(optimizer, FusedAdam)
    assert optimizer.supports_flat_params and not optimizer.supports_memory_efficient_fp16
