"""An update whose gradients are no numbers ends with that error, and with the name of the module it began in."""

import logging
import math

import helpers
import pytest
import torch
from fairseq.nan_detector import NanDetector
from fairseq.tasks import FairseqTask
from stock_bart import TINY_BART, stock
from torch import nn

MODELS = {
    "stock BART": TINY_BART,
    "BART": [],
    "BART, full": ["--cross-attention", "full"],
    "BART, content": ["--segment-schedule", "content"],
    "BART, chunked": ["--encoder-attention", "chunked"],
    "BART, window": ["--encoder-attention", "window", "--encoder-window", "4"],
    "BART, fused": ["--criterion", "fused_label_smoothed_cross_entropy", "--optimizer", "fused_adam", "--bf16"],
    "BART, activations again": ["--checkpoint-activations"],
    "T5": ["--arch", "srformer_t5_tiny"],
    "LED": ["--arch", "srformer_led_tiny"],
}


@pytest.fixture
def train_with_a_nan(tiny_corpus, tmp_path, train_in_process, monkeypatch):
    """Function (weight, flags): a training in which one number of the weight is NaN from the second update on."""

    def run(weight, *flags):
        train_step = FairseqTask.train_step

        def poisoned(self, sample, model, criterion, optimizer, update_num, **more):
            if update_num == 1:
                model.get_parameter(weight).data.view(-1)[0] = math.nan
            return train_step(self, sample, model, criterion, optimizer, update_num, **more)

        monkeypatch.setattr(FairseqTask, "train_step", poisoned)
        train_in_process(
            *helpers.train_arguments(tiny_corpus, tmp_path, "--max-update", 3, "--no-save", "--dropout", 0.1, *flags)
        )

    return run


@pytest.mark.parametrize("module", ["encoder.layers.0.fc1", "decoder.layers.0.fc2"])
@pytest.mark.parametrize("model", MODELS)
def test_the_first_module_that_gives_a_nan_is_named(train_with_a_nan, caplog, model, module):
    with pytest.raises(FloatingPointError, match="^gradients are Nan/Inf\n") as caught:
        train_with_a_nan(f"{module}.weight", *MODELS[model])
    found = [record.message for record in caplog.records if "detected in output of" in record.message]
    assert found[0].startswith(f"NaN detected in output of {module}, shape: ")
    (note,) = caught.value.__notes__
    assert found[0].startswith(note)
    assert note.endswith("forward")
    assert any(message.endswith("backward") for message in found)


def test_an_error_of_an_update_without_a_nan_is_left_alone():
    with pytest.raises(FloatingPointError) as caught:
        try:
            raise FloatingPointError("gradients are inconsistent")
        except FloatingPointError:
            with NanDetector(nn.Identity()) as detector:
                detector._detect(torch.ones(2), "here", backward=False)
            raise
    assert not hasattr(caught.value, "__notes__")


def test_stock_ends_at_the_encoder(train_with_a_nan, monkeypatch):
    monkeypatch.setattr(NanDetector, "add_hooks", stock(NanDetector.add_hooks))
    with pytest.raises(StopIteration):
        train_with_a_nan("decoder.layers.0.fc1.weight", *TINY_BART)


class Root(nn.Module):
    """Its gradient is NaN at 0; it is called by name and returns what an encoder does."""

    def forward(self, x):
        return {"out": [(x * 0).sqrt() + x], "nothing": [], "number": 3}


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.root, self.behind = nn.Linear(3, 3), Root(), nn.Linear(3, 3)

    def forward(self, x):
        return self.behind(self.root(x=self.before(x))["out"][0]), None


def test_the_first_module_whose_backward_pass_gives_a_nan_is_named(caplog):
    model = Around()
    with caplog.at_level(logging.WARNING), NanDetector(model):
        model(torch.ones(2, 3))[0].sum().backward()
    (found,) = (record.message for record in caplog.records)
    assert found == "NaN detected in output of root, shape: torch.Size([2, 3]), backward"
    caplog.clear()
    model(torch.ones(2, 3))[0].sum().backward()  # the hooks are gone
    assert not caplog.records


@pytest.mark.parametrize("is_stock", [False, True], ids=["ours", "stock"])
def test_the_search_has_the_dropout_of_the_update(monkeypatch, is_stock):
    if is_stock:
        monkeypatch.setattr(NanDetector, "__enter__", stock(NanDetector.__enter__))
    torch.manual_seed(5)
    drawn = torch.rand(8)
    with NanDetector(nn.Identity()):
        assert torch.equal(torch.rand(8), drawn) is not is_stock
