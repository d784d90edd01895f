"""`--optimizer foreach_adafactor` beside fairseq's `adafactor`: one training, few launches, checkpoints of either."""

import pytest
import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim import FP16Optimizer, build_optimizer
from fairseq.optim.adafactor import Adafactor
from helpers import train_arguments
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optim.training_logs import load, logged
from torch.utils._python_dispatch import TorchDispatchMode

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.optim import foreach_adafactor
from srformer_plugin.optim.foreach_adafactor import ForeachAdafactor, ForeachAdafactorConfig

BOTH = ["adafactor", "foreach_adafactor"]
SHAPES = [(7, 5), (5,), (7, 5), (3, 2, 4), (), (5, 7), (5,), (7, 5)]
LR = 1e-2
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = {
    "eps": (1e-30, 1e-3), "clip_threshold": 1.0, "decay_rate": -0.8, "beta1": None, "weight_decay": 0.0,
    "scale_parameter": False, "relative_step": False, "warmup_init": False,
}  # fmt: skip


def parameters(shapes=SHAPES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(DEVICE, dtype)) for shape in shapes]


def give_gradients(params, generator, scale=1.0):
    for p in params:
        p.grad = (scale * torch.randn(p.shape, generator=generator)).to(p)


def values(params):
    return torch.cat([p.detach().float().flatten() for p in params])


def both(params, **options):
    """fairseq's optimizer of some parameters, and ours of copies of them: `[(optimizer, parameters), ...]`."""
    options = {"lr": LR, **OPTIONS, **options}
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    theirs = {**options, "lr": None} if options["relative_step"] else options
    return [(Adafactor(params, **theirs), params), (ForeachAdafactor(copies, **options), copies)]


# --- one step after the other -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale_parameter": True},
        {"scale_parameter": True, "weight_decay": 0.3, "beta1": 0.9, "clip_threshold": 0.5},
        {"weight_decay": 0.3, "decay_rate": -0.5},
        {"beta1": 0.5, "eps": (1e-3, 1e-3)},
        {"scale_parameter": True, "eps": (1e-30, 1.5)},  # some parameters are smaller than that, others larger
        {"relative_step": True},
        {"relative_step": True, "warmup_init": True, "scale_parameter": True},
    ],
    ids=lambda options: ", ".join(options) or "as they are",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_updates_are_those_of_fairseqs_adafactor(options, dtype):
    optimizers = both(parameters(dtype=dtype), **options)
    before = values(optimizers[0][1])
    for update in range(10):
        for optimizer, params in optimizers:
            give_gradients(params, torch.Generator().manual_seed(update))
            params[1].grad = None if update % 3 else params[1].grad  # is left as it is, averages included
            for group in optimizer.param_groups:
                group["lr"] = LR * (1 - update / 20)
            optimizer.step()
    theirs, ours = (values(params) for _, params in optimizers)
    # ten times some roundings; in half precision a weight is rounded to one of two neighbours after every update
    tolerance = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 4e-2}[dtype]
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    moved = (theirs - before).abs().mean()
    if dtype == torch.float32 or "warmup_init" not in options:  # whose rates of up to 1e-5 halves do not show
        assert moved > (1e-5 if "warmup_init" in options else 1e-2)
        assert (ours - theirs).abs().mean() < 0.02 * moved


@given(
    shapes=st.lists(st.lists(st.integers(1, 5), max_size=3).map(tuple), min_size=1, max_size=6),
    scale=st.booleans(),
    largest=st.sampled_from([1, 20, 10**6]),
    data=st.data(),
)
def test_parameters_are_updated_together_as_each_alone(shapes, scale, largest, data):
    params, alone = parameters(shapes), parameters(shapes)
    options = {"lr": LR, **OPTIONS, "scale_parameter": scale, "weight_decay": 0.1}
    together, each = ForeachAdafactor(params, **options), [ForeachAdafactor([p], **options) for p in alone]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreach_adafactor, "LARGEST_STACK", dict.fromkeys(("cpu", "cuda"), largest))
        for update in range(3):
            give_gradients(params, torch.Generator().manual_seed(update))
            for p, its in zip(params, alone):
                p.grad = p.grad if data.draw(st.booleans(), label="has a gradient") else None
                its.grad = None if p.grad is None else p.grad.clone()
            together.step()
            for optimizer in each:
                optimizer.step()
    torch.testing.assert_close(values(params), values(alone), rtol=1e-6, atol=1e-7)


class Operations(TorchDispatchMode):
    """Counts what is asked of the device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, {"scale_parameter": True, "weight_decay": 0.1, "beta1": 0.9}])
def test_many_parameters_of_a_shape_take_no_more_operations_than_two(options):
    counts = []
    for number in (2, 40):
        params = parameters([(4, 3)] * number)
        optimizer = ForeachAdafactor(params, **{"lr": LR, **OPTIONS, **options})
        for update in range(2):
            give_gradients(params, torch.Generator().manual_seed(update))
            with Operations() as operations:
                optimizer.step()
        counts.append(operations.count)
    assert counts[0] == counts[1] < 60


# --- within fairseq -----------------------------------------------------------------------------------------


def config(name, **settings):
    """What fairseq's trainer builds an optimizer from."""
    cfg = FairseqConfig()
    cfg.optimizer = ForeachAdafactorConfig(lr=[LR], **settings)
    cfg.optimizer._name = name
    return OmegaConf.structured(cfg)


def ours(params, **settings):
    return build_optimizer(config("foreach_adafactor", **settings).optimizer, params)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adafactor_eps": "(1, -1)"}, "--adafactor-eps '(1, -1)' is not two numbers of at least 0"),
        ({"clip_threshold": 0.0}, "--clip-threshold 0.0 must be above 0"),
        ({"decay_rate": 0.8}, "--decay-rate 0.8 must be below 0: try -0.8"),
        ({"beta1": 1.0}, "--beta1 1.0 must be at least 0 and below 1"),
        ({"weight_decay": -0.1}, "--weight-decay -0.1 is below 0"),
        ({"warmup_init": True}, "--warmup-init does nothing without --relative-step"),
    ],
)
def test_options_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigurationError) as error:
        ours(parameters(), **settings)
    assert str(error.value).startswith(message)


def test_gradients_are_clipped_by_their_norm_and_freed_by_the_step():
    optimizer = ours(params := parameters())
    give_gradients(params, torch.Generator().manual_seed(0))
    norm = torch.cat([p.grad.flatten() for p in params]).norm()
    assert optimizer.clip_grad_norm(1.0).item() == pytest.approx(norm.item(), rel=1e-6)
    assert torch.cat([p.grad.flatten() for p in params]).norm().item() == pytest.approx(1, rel=1e-5)
    optimizer.step()
    assert all(p.grad is None for p in params)


def test_flat_parameters_are_refused_with_the_flag_that_helps(monkeypatch):
    # a machine without CUDA flattens the parameters when it is told a "device"
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    cfg = config("foreach_adafactor")
    cfg.common.fp16 = True
    with pytest.raises(RuntimeError, match="--fp16-no-flatten-grads"):
        FP16Optimizer.build_optimizer(cfg, parameters(dtype=torch.float16))


@pytest.mark.parametrize("first", BOTH)
@pytest.mark.parametrize("second", BOTH)
def test_a_stored_state_goes_on(tmp_path, first, second):
    """From either optimizer with either; with the same one to the bit."""
    settings = {"scale_parameter": True, "beta1": 0.9}
    names, ends = (first, second), []
    for breaks in (False, True):
        params, generator = parameters(), torch.Generator().manual_seed(1)
        optimizer = Adafactor(params, LR, **{**OPTIONS, **settings}) if first == BOTH[0] else ours(params, **settings)
        for update in range(6):
            if update == 3 and breaks:
                torch.save(optimizer.state_dict(), tmp_path / "state.pt")
                kind = Adafactor if names[1] == BOTH[0] else ForeachAdafactor
                optimizer = kind(params, LR, **{**OPTIONS, **settings})
                optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
            give_gradients(params, generator)
            optimizer.step()
        ends.append(values(params))
    if first == second:
        assert torch.equal(*ends)
    torch.testing.assert_close(*ends, rtol=2e-6, atol=1e-6)


def t5_arguments(corpus, save_dir, optimizer, *more):
    own = ["--arch", "srformer_t5_tiny", "--optimizer", optimizer, "--scale-parameter", "--lr", "0.05"]
    own += ["--clip-norm", "1", "--batch-size", "5", "--update-freq", "2", "--disable-validation", "--dropout", "0.1"]
    return train_arguments(corpus, save_dir, *own, *more)


PRECISIONS = {"float32": [], "bf16": ["--bf16"], "fp16": ["--fp16", "--fp16-init-scale", "4"]}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_fairseq_train_prints_the_losses_of_adafactor_and_resumes(tiny_corpus, train_in_process, tmp_path, precision):
    flags = ["--fp16-no-flatten-grads", "--max-update", 6, "--save-interval-updates", 3, *PRECISIONS[precision]]
    logs = [train_in_process(*t5_arguments(tiny_corpus, tmp_path / name, name, *flags)) for name in BOTH]
    tolerance = {"abs": 2e-3} if precision == "float32" else {"rel": 0.02}
    for number in ("loss", "gnorm"):
        theirs, its = (logged(log, number) for log in logs)
        assert len(theirs) == 6
        assert its == pytest.approx(theirs, **tolerance)
    assert logged(logs[0], "loss")[5] < logged(logs[0], "loss")[0] - 0.1

    saved = next((tmp_path / "foreach_adafactor").glob("checkpoint_*_3.pt"))
    resumed = t5_arguments(tiny_corpus, tmp_path / "resumed", "foreach_adafactor", *flags, "--restore-file", saved)
    losses, whole = logged(train_in_process(*resumed), "loss"), logged(logs[1], "loss")[3:]
    assert losses == pytest.approx(whole, rel=2e-3)
    states = load(tmp_path / "resumed")["last_optimizer_state"]["state"]
    assert {state["step"] for state in states.values()} == {6}
