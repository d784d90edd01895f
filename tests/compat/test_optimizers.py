"""Optimizers take the learning rate that they are given."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.dataclass.configs import EMAConfig
from fairseq.models.ema.ema import EMA
from fairseq.models.transformer import TransformerConfig, TransformerModelBase
from fairseq.optim.adafactor import Adafactor
from stock_bart import stock
from torch import nn

import srformer_plugin  # noqa: F401 (applies the mends)

SIZES = (1.0, 0.05, 0.2, 0.05)  # root mean squares of the parameters
RATE = 0.01


def relative_steps(scale_parameter, updates=1):
    """By how much of its own size each parameter of the given `SIZES` is moved, and the rate of the group after it."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(size * torch.randn(30, 40)) for size in SIZES]
    optimizer = Adafactor(parameters, lr=RATE, scale_parameter=scale_parameter, relative_step=False)
    for _ in range(updates):
        before = [p.detach().clone() for p in parameters]
        for p in parameters:
            p.grad = torch.randn_like(p)
        optimizer.step()
    return [((p - b).norm() / b.norm()).item() for p, b in zip(parameters, before)], optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("updates", [1, 3])
def test_adafactor_moves_every_parameter_by_the_same_share_of_its_size(updates):
    steps, rate = relative_steps(True, updates)
    assert steps == pytest.approx([RATE] * len(SIZES), rel=0.05)
    assert rate == RATE


def test_without_scale_parameter_adafactor_steps_are_stocks(monkeypatch):
    steps, _ = relative_steps(False)
    for name in ("step", "_get_lr"):
        monkeypatch.setattr(Adafactor, name, stock(getattr(Adafactor, name)))
    assert steps == relative_steps(False)[0]


def test_stock_multiplies_the_sizes_of_all_parameters_before(monkeypatch):
    for name in ("step", "_get_lr"):
        monkeypatch.setattr(Adafactor, name, stock(getattr(Adafactor, name)))
    steps, rate = relative_steps(True)
    assert steps == pytest.approx([RATE, RATE, RATE * 0.05, RATE * 0.05 * 0.2], rel=0.1)
    assert rate < RATE / 1000


class Tied(torch.nn.Module):
    """Two names of one weight, and a weight of its own with the same values."""

    def __init__(self, value, dtype):
        super().__init__()
        self.a, self.alone = (torch.nn.Linear(2, 2, bias=False, dtype=dtype) for _ in range(2))
        self.b = torch.nn.Linear(2, 2, bias=False)
        self.b.weight = self.a.weight
        torch.nn.init.constant_(self.a.weight, value)
        torch.nn.init.constant_(self.alone.weight, value)


def averages(fp32, dtype=torch.float32):
    """The averages of the weights 1 and, after an update, 2."""
    ema = EMA(Tied(1.0, dtype), EMAConfig(store_ema=True, ema_decay=0.5, ema_fp32=fp32))
    ema.step(Tied(2.0, dtype))
    return {name: value.mean().item() for name, value in ema.get_model().state_dict().items()}


@pytest.mark.parametrize("fp32, dtype", [(False, torch.float32), (True, torch.float32), (True, torch.float16)])
def test_tied_weights_are_averaged_once(fp32, dtype):
    assert averages(fp32, dtype) == {"a.weight": 1.5, "b.weight": 1.5, "alone.weight": 1.5}


def test_stock_averages_them_once_a_name(monkeypatch):
    monkeypatch.setattr(EMA, "_step_internal", stock(EMA._step_internal))
    assert averages(False) == {"a.weight": 1.75, "b.weight": 1.75, "alone.weight": 1.5}


def averages_of_last_norms(fp32):
    """Of a stock model that normalizes before its layers: the averages of what behind them is 1 and becomes 2."""
    cfg, words = TransformerConfig(), Dictionary()
    for side in (cfg.encoder, cfg.decoder):
        side.layers, side.embed_dim, side.ffn_embed_dim, side.attention_heads, side.normalize_before = 1, 4, 4, 1, True
    cfg.decoder.input_dim = cfg.decoder.output_dim = 4  # else interpolated by Hydra
    model = TransformerModelBase.build_model(cfg, SimpleNamespace(source_dictionary=words, target_dictionary=words))
    ema = EMA(model, EMAConfig(store_ema=True, ema_decay=0.5, ema_fp32=fp32))
    for side in (model.encoder, model.decoder):
        torch.nn.init.constant_(side.layer_norm.weight, 2.0)
    ema.step(model)
    found = ema.get_model().state_dict()
    return {
        name: value.mean().item() for name, value in found.items() if name.endswith(("r.layer_norm.weight", "version"))
    }


@pytest.mark.parametrize("fp32", [False, True])
def test_averages_keep_the_norms_behind_the_last_layers(fp32):
    assert averages_of_last_norms(fp32) == {
        "encoder.layer_norm.weight": 1.5, "encoder.version": 3, "decoder.layer_norm.weight": 1.5, "decoder.version": 3,
    }  # fmt: skip


def test_stock_takes_them_out_of_the_averages(monkeypatch):
    monkeypatch.setattr(EMA, "restore", stock(EMA.restore))
    assert averages_of_last_norms(False) == {"encoder.version": 1, "decoder.version": 1}
