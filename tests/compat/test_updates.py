"""Updates are made faster, and not otherwise: the same weights, the same log."""

import copy
import json
import pickle
import re
import traceback
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from fairseq.logging import metrics
from fairseq.logging.meters import AverageMeter, MetersDict
from fairseq.models import BaseFairseqModel, FairseqEncoder
from fairseq.optim.fairseq_optimizer import FairseqOptimizer
from fairseq.optim.fp16_optimizer import FP16Optimizer, _FP16OptimizerMixin
from fairseq.trainer import Trainer
from stock_bart import stock
from torch import nn
from update_mends import leave_updates_to_fairseq

from srformer_plugin.compat.statistics import SmoothedLater
from srformer_plugin.compat.updates import modules_of

TIMES = r'"\w*(wps|ups|wall)": "[^"]*"(, )?'


@pytest.mark.parametrize("flags", [[], ["--bf16"], ["--fp16"], ["--bf16", "--optimizer", "fused_adam"]], ids=" ".join)
def test_a_training_is_the_stock_one(train_here, tmp_path, monkeypatch, flags):
    def run(folder):
        arguments = ["--max-update", 4, "--log-format", "json", "--clip-norm", 0.5, "--dropout", 0.1, *flags]
        log = train_here(*arguments, "--disable-validation", "--save-dir", tmp_path / folder)
        saved = torch.load(tmp_path / folder / "checkpoint_last.pt", weights_only=True)
        return saved, [re.sub(TIMES, "", line) for line in re.findall(r'\{"epoch".*\}', log)]

    ours, our_log = run("ours")
    leave_updates_to_fairseq(monkeypatch.setattr)
    theirs, their_log = run("theirs")
    assert our_log == their_log
    assert len(our_log) >= 5
    assert ours["model"].keys() == theirs["model"].keys()
    assert all(torch.equal(weight, theirs["model"][name]) for name, weight in ours["model"].items())


# --- copies -----------------------------------------------------------------------------------------------


class Optimizer(_FP16OptimizerMixin):
    """The copies of an optimizer of two matrices, a vector and a number; `flat`: with one vector of them."""

    def __init__(self, flat, trained=(True, True, True, True)):
        super().__init__()
        shapes = [(2, 3), (3, 2), (4,), ()]
        self.fp16_params = [nn.Parameter(torch.randn(s).bfloat16(), requires_grad=t) for s, t in zip(shapes, trained)]
        self.scaler, self._needs_sync = None, True
        if flat:
            vector = nn.Parameter(torch.cat([p.detach().float().view(-1) for p in self.fp16_params]))
            vector.grad = torch.full_like(vector, 9)
            self.fp32_params = {None: vector}
        else:
            self.fp32_params = FP16Optimizer.build_fp32_params(None, self.fp16_params, flatten=False)

    def masters(self):
        return list(self.fp32_params.values()) if self.has_flat_params else self.fp32_params


@pytest.mark.parametrize("trained", [(True, True, True, True), (True, False, True, True)], ids=["all", "not all"])
@pytest.mark.parametrize("freed", [False, True], ids=["kept", "freed"])
@pytest.mark.parametrize("flat", [False, True], ids=["each", "flat"])
def test_gradients_and_weights_are_copied_as_in_stock(monkeypatch, flat, freed, trained):
    found = []
    for ours in (True, False):
        if not ours:
            for name in ("_sync_fp16_grads_to_fp32", "_sync_fp32_params_to_fp16"):
                monkeypatch.setattr(_FP16OptimizerMixin, name, stock(getattr(_FP16OptimizerMixin, name)))
        torch.manual_seed(1)
        optimizer = Optimizer(flat, trained)
        for p in optimizer.fp16_params[:3]:  # the last has none
            p.grad = torch.randn_like(p) if p.requires_grad else None
        for master in optimizer.masters():
            if freed and not flat:
                master.grad = None
        optimizer._sync_fp16_grads_to_fp32()
        assert not optimizer._needs_sync
        with torch.no_grad():
            for master in optimizer.masters():
                master.mul_(3)
        optimizer._sync_fp32_params_to_fp16()
        found.append([p.detach().clone() for p in optimizer.fp16_params])
        found[-1] += [m.grad for m in optimizer.masters() if m.grad is not None]
    assert len(found[0]) == len(found[1])
    assert all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(*found))


@pytest.mark.parametrize("flat", [False, True], ids=["each", "flat"])
def test_gradients_are_set_to_zero_where_they_are(flat):
    optimizer = Optimizer(flat)
    masters, before = optimizer.masters(), [master.grad.fill_(3) for master in optimizer.masters()]
    if not flat:
        masters[0].grad = None
    for p in optimizer.fp16_params:
        p.grad = torch.ones_like(p)
    optimizer.zero_grad()
    assert all(p.grad is None for p in optimizer.fp16_params)
    assert not optimizer._needs_sync
    assert [master.grad is None for master in masters] == [not flat, *[False] * (len(masters) - 1)]
    assert all(m.grad is g and not g.any() for m, g in zip(masters, before) if m.grad is not None)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [float, torch.float32, torch.float64])
def test_gradients_are_multiplied_at_once_as_in_stock(monkeypatch, precision, kind):
    factor = 1 / 3 if kind is float else torch.tensor(1 / 3, dtype=kind)
    params = [nn.Parameter(torch.zeros(shape, dtype=precision)) for shape in [(2, 3), (4,), (5,)]]
    for p in params[:2]:
        p.grad = torch.randn_like(p)
    before, factors, multiply = [p.grad for p in params], [], torch._foreach_mul_
    monkeypatch.setattr(torch, "_foreach_mul_", lambda grads, c: factors.append(c) or multiply(grads, c))
    found = []
    for function in (FairseqOptimizer.multiply_grads, stock(FairseqOptimizer.multiply_grads)):
        for p, gradient in zip(params, before):
            p.grad = None if gradient is None else gradient.clone()
        function(SimpleNamespace(params=params), factor)
        found.append([p.grad for p in params[:2]])
    assert all(torch.equal(a, b) for a, b in zip(*found))
    ours, theirs = factors
    assert theirs is factor or torch.equal(theirs, factor)
    if precision == torch.float32 and kind is not float:
        assert ours.dtype == torch.float32  # a launch for all on a GPU


@pytest.mark.gpu
def test_on_a_gpu_gradients_are_multiplied_without_a_launch_for_each():
    params = [nn.Parameter(torch.zeros(3, device="cuda")) for _ in range(5)]
    for p in params:
        p.grad = torch.ones_like(p)
    launches = []
    for function in (FairseqOptimizer.multiply_grads, stock(FairseqOptimizer.multiply_grads)):
        with torch.profiler.profile() as profile:
            function(SimpleNamespace(params=params), torch.tensor(0.5, dtype=torch.double, device="cuda"))
        launches.append(sum(event.name == "aten::mul_" for event in profile.events()))
    assert launches == [0, 5]
    assert all(p.grad.eq(0.25).all() for p in params)


# --- walks ------------------------------------------------------------------------------------------------


class Counted(nn.Module):
    """A module that wants to know the number of updates."""

    def __init__(self):
        super().__init__()
        self.seen, self.part = [], nn.Linear(1, 1)

    def set_num_updates(self, number):
        self.seen.append(number)


class Model(BaseFairseqModel):
    def __init__(self):
        super().__init__()
        self.encoder = FairseqEncoder(None)
        self.encoder.counted, self.counted, self.shared = Counted(), Counted(), nn.Linear(1, 1)
        self.again = self.shared


def test_every_module_that_asks_is_told_as_often_as_in_stock(monkeypatch):
    model = Model()
    model.set_num_updates(7)
    seen = [model.encoder.counted.seen, model.counted.seen]
    for owner in (BaseFairseqModel, FairseqEncoder):
        monkeypatch.setattr(owner, "set_num_updates", stock(owner.set_num_updates))
    other = Model()
    other.set_num_updates(7)
    assert seen == [other.encoder.counted.seen, other.counted.seen]
    assert len(seen[0]) == 2


def test_a_walk_meets_every_module_once():
    model = Model()
    assert sorted(map(id, modules_of(model))) == sorted(map(id, model.modules()))


def test_a_model_in_its_mode_is_left_alone_and_another_is_not(monkeypatch):
    model, changed, assign = Model(), [], nn.Module.__setattr__

    def __setattr__(self, name, value):
        changed.append(self)
        assign(self, name, value)

    monkeypatch.setattr(nn.Module, "__setattr__", __setattr__)
    assert model.train() is model
    assert changed == []
    vars(model.counted.part)["training"] = False
    model.train()
    assert model.counted.part.training
    model.eval()
    assert not any(module.training for module in model.modules())
    assert changed


def test_a_module_with_a_mode_of_its_own_is_asked():
    class Own(nn.Module):
        asked = 0

        def train(self, mode=True):
            self.asked += 1
            return super().train(mode)

    model = Model()
    model.own = Own()
    model.train()
    model.train()
    assert model.own.asked == 2


# --- seeds ------------------------------------------------------------------------------------------------


def tracebacks(train_here, monkeypatch):
    """How many a training of two updates writes out while it seeds."""
    texts, seeding, seed = [], [], Trainer._set_seed

    def _set_seed(self):
        seeding.append(1)
        seed(self)
        seeding.pop()

    format_stack = traceback.format_stack
    monkeypatch.setattr(traceback, "format_stack", lambda *a, **k: texts.extend(seeding) or format_stack(*a, **k))
    monkeypatch.setattr(Trainer, "_set_seed", _set_seed)
    train_here()
    return len(texts)


def test_a_seed_writes_no_traceback(train_here, monkeypatch):
    assert tracebacks(train_here, monkeypatch) == 0


def test_stock_seeds_write_tracebacks_for_devices_that_are_not_there(train_here, monkeypatch):
    monkeypatch.setattr(Trainer, "_set_seed", stock(Trainer._set_seed))
    assert tracebacks(train_here, monkeypatch) >= 4


def test_the_seed_is_that_of_stock():
    cfg = SimpleNamespace(common=SimpleNamespace(seed=5))
    trainer = SimpleNamespace(device=torch.device("cpu"), cfg=cfg, get_num_updates=lambda: 7)
    Trainer._set_seed(trainer)
    ours = torch.rand(3)
    stock(Trainer._set_seed)(trainer)
    assert torch.equal(ours, torch.rand(3))


# --- statistics -------------------------------------------------------------------------------------------


def numbers_read_by_the_log(train_here, monkeypatch):
    """Of one update on a trainer whose log is not printed."""
    counts, log = [], Trainer._reduce_and_log_stats

    def _reduce_and_log_stats(*args, **kwargs):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            found = log(*args, **kwargs)
        counts.append(sum(event.name == "aten::_local_scalar_dense" for event in profiler.events()))
        return found

    monkeypatch.setattr(Trainer, "_reduce_and_log_stats", _reduce_and_log_stats)
    train_here("--log-interval", 100, "--clip-norm", 0.5)
    return max(counts)


def test_an_updates_log_reads_nothing_from_the_device(train_here, monkeypatch):
    assert numbers_read_by_the_log(train_here, monkeypatch) == 0


def test_stock_reads_the_statistics_of_every_update(train_here, monkeypatch):
    leave_updates_to_fairseq(monkeypatch.setattr)
    assert numbers_read_by_the_log(train_here, monkeypatch) >= 4


def some_meters():
    meters = MetersDict()
    for name, value in (("loss", 1.23456), ("bsz", 4), ("_hidden", 2)):
        meter = AverageMeter(round=2)
        meter.update(torch.tensor(value), 1)
        meters.add_meter(name, meter, 10)
    return meters


@pytest.mark.parametrize(
    "use",
    [
        json.dumps, repr, copy.copy, copy.deepcopy, OrderedDict,
        lambda stats: isinstance(stats, type(some_meters().get_smoothed_values())),
        lambda stats: json.dumps(stats, indent=2),
        lambda stats: dict(**stats),
        lambda stats: pickle.loads(pickle.dumps(stats)),
        lambda stats: (stats | {"more": 1}, {"more": 1} | stats),
        lambda stats: (stats == {"loss": 1.23, "bsz": 4}, stats != {"loss": 1.23, "bsz": 4}),
        lambda stats: (stats.get("loss"), stats.get("other", 7), stats.setdefault("bsz", 0), list(reversed(stats))),
        lambda stats: (stats.pop("loss"), stats.pop("other", 7), stats.popitem(), len(stats)),
        lambda stats: (list(stats.values()), stats.update(loss=2), list(stats.items())),
    ],
)  # fmt: skip
def test_statistics_can_be_used_like_stocks(use):
    meters = some_meters()
    assert use(SmoothedLater(meters)) == use(meters.get_smoothed_values())


def test_statistics_that_are_asked_for_are_those_of_stock():
    meters = some_meters()
    later, now = SmoothedLater(meters), meters.get_smoothed_values()
    assert isinstance(now, dict)
    assert dict(later) == dict(now) == {"loss": 1.23, "bsz": 4}
    later["sample_size"] = 3
    del later["bsz"]
    assert "bsz" not in later
    assert dict(later) == {"loss": 1.23, "sample_size": 3}
    with pytest.raises(KeyError):
        later["_hidden"]


def test_a_norm_that_is_not_finite_is_not_logged_with_amp(train_here):
    """The trainer goes on with an overflow there, and asks."""
    trainer = SimpleNamespace(
        cfg=SimpleNamespace(common=SimpleNamespace(amp=True), optimization=SimpleNamespace(clip_norm=1.0)),
        task=SimpleNamespace(reduce_metrics=lambda *_: metrics.log_scalar("loss", 1.0)),
        get_criterion=lambda: None,
        tpu=False,
    )
    with metrics.aggregate(new_root=True) as found:
        Trainer._reduce_and_log_stats(trainer, [], 1, torch.tensor(float("inf")))
        assert "gnorm" not in found
        Trainer._reduce_and_log_stats(trainer, [], 1, torch.tensor(2.0))
        assert found["gnorm"].avg == 2
