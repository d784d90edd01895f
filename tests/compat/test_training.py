"""A training that has reached its end makes no more updates when it is started again."""

import contextlib
import re
import zipfile

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.optim.lr_scheduler.fairseq_lr_scheduler import FairseqLRScheduler
from fairseq.trainer import Trainer
from stock_bart import stock

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models.checkpoint_file import read_checkpoint


def updates(folder):
    return torch.load(folder / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"]


def test_a_finished_training_stays_as_it_is(train_here, tmp_path):
    train_here()
    before = (tmp_path / "checkpoint_last.pt").read_bytes()
    log = train_here()
    assert "Stopping training due to num_updates: 2 >= max_update: 2" in log
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == before
    train_here("--max-update", 3)
    assert updates(tmp_path) == 3


def test_a_training_that_has_used_its_time_stays_as_it_is(train_here, tmp_path):
    train_here("--stop-time-hours", 1e-9)
    assert updates(tmp_path) == 1
    assert "Stopping training due to cumulative_training_time" in train_here("--stop-time-hours", 1e-9)
    assert updates(tmp_path) == 1


def test_a_training_from_another_ones_end_begins(train_here, tmp_path):
    """It has a folder of its own, which would else stay empty."""
    train_here()
    (tmp_path / "checkpoint_last.pt").rename(tmp_path / "other.pt")
    train_here("--restore-file", tmp_path / "other.pt")
    assert updates(tmp_path) == 3


@pytest.mark.parametrize("flag", ["--restore-file", "--continue-once"])
def test_a_checkpoint_that_is_not_there_is_no_new_beginning(train_here, tmp_path, flag):
    with pytest.raises(ConfigurationError, match=f"^{flag} .*gone.pt: there is no such file; leave the flag out"):
        train_here(flag, tmp_path / "gone.pt")
    assert not (tmp_path / "checkpoint_last.pt").exists()


@pytest.mark.parametrize("flag", ["--restore-file", "--continue-once", "--finetune-from-model"])
def test_a_folder_of_checkpoints_is_no_checkpoint(train_here, tmp_path, flag):
    with pytest.raises(ConfigurationError, match=f"^{flag} .* is a folder: name a checkpoint, such as one of its .pt"):
        train_here(flag, tmp_path)
    assert not (tmp_path / "checkpoint_last.pt").exists()


def test_what_a_training_began_with_may_be_gone_when_it_goes_on(train_here, tmp_path):
    train_here()
    begun_with = (tmp_path / "checkpoint_last.pt").rename(tmp_path / "begun_with.pt")
    train_here("--continue-once", begun_with, "--max-update", 3)
    begun_with.unlink()
    train_here("--continue-once", begun_with, "--max-update", 4)
    assert updates(tmp_path) == 4


def test_braces_in_the_name_of_a_folder_are_braces(train_here, tmp_path):
    folder = tmp_path / "lr{0.1}_{}"
    train_here("--save-dir", folder)
    train_here("--save-dir", folder, "--max-update", 3)
    assert updates(folder) == 3


def damage(path, how):
    """Make of a checkpoint what a full disk, a crash or a mistake leaves."""
    content = path.read_bytes()
    if how == "folder":
        path.unlink()
        path.mkdir()
        return
    with zipfile.ZipFile(path) as file:
        record = max(file.infolist(), key=lambda one: one.file_size)  # weights
    middle = record.header_offset + record.file_size // 2
    left = {
        "cut off": content[: len(content) // 2],
        "zeros": bytes(len(content)),
        "empty": b"",
        "no pickle": b"hello\n",
        "other bytes": content[:middle] + bytes(x ^ 1 for x in content[middle : middle + 9]) + content[middle + 9 :],
    }
    path.write_bytes(left[how])


DAMAGES = {
    "cut off": "is no fairseq checkpoint: it is damaged or cut off",
    "zeros": "is no fairseq checkpoint: it is damaged or cut off",
    "empty": "is no fairseq checkpoint: it is empty",
    "no pickle": "is no fairseq checkpoint: it holds no model",
    "folder": "is a folder, and no checkpoint",
    "other bytes": "is no fairseq checkpoint: it is damaged (archive/data/",
}


@pytest.mark.parametrize(("how", "message"), DAMAGES.items())
def test_a_damaged_checkpoint_is_named_and_what_to_go_on_from(how, message, train_here, tmp_path):
    train_here("--keep-last-epochs", 1)
    best, last = tmp_path / "checkpoint_best.pt", tmp_path / "checkpoint_last.pt"
    damage(last, how)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(
        ConfigurationError, match=f"^{re.escape(f'{last} {message}')}.*; put {best.name}, which is whole"
    ):
        train_here("--max-update", 3)
    damage(best, "cut off")
    with pytest.raises(ConfigurationError, match="; there is no whole checkpoint beside it: remove it to begin anew$"):
        train_here("--max-update", 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("entry", ["--restore-file", "--finetune-from-model", "--path", "change-attention"])
def test_wrong_bytes_of_weights_are_noticed_wherever_a_checkpoint_is_read(entry, train_here, tmp_path):
    train_here()
    given = (tmp_path / "checkpoint_last.pt").rename(tmp_path / "given.pt")
    damage(given, "other bytes")
    with pytest.raises(ConfigurationError, match=f"^{re.escape(str(given))} {DAMAGES['other bytes'][:40]}"):
        if entry == "--path":
            checkpoint_utils.load_model_ensemble_and_task([str(given)])
        elif entry == "change-attention":
            read_checkpoint(given)
        else:
            train_here(entry, given, "--max-update", 3)


@pytest.mark.parametrize("how", ["folder", "other bytes"])
def test_stock_trains_on_without_a_word(how, train_here, tmp_path, monkeypatch):
    train_here()
    damage(tmp_path / "checkpoint_last.pt", how)
    for name in ("load_checkpoint", "load_checkpoint_to_cpu"):
        monkeypatch.setattr(checkpoint_utils, name, stock(getattr(checkpoint_utils, name)))
    with pytest.raises(IsADirectoryError) if how == "folder" else contextlib.nullcontext():
        train_here("--max-update", 3)


def test_stock_training_makes_one_more_update(train_here, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_utils, "load_checkpoint", stock(checkpoint_utils.load_checkpoint))
    train_here()
    train_here()
    assert updates(tmp_path) == 3


@pytest.mark.parametrize("epochs", [[], ["--max-epoch", "9"]])
def test_the_number_of_epochs_makes_no_difference(epochs, train_here, tmp_path):
    train_here(*epochs)
    train_here(*epochs)
    assert updates(tmp_path) == 2


@pytest.mark.parametrize("flag", ["--max-update", "--finetune-from-model"])
def test_averages_begin_with_the_weights_of_a_checkpoint_that_has_none(flag, train_here, tmp_path):
    train_here()
    begun_with = torch.load(tmp_path / "checkpoint_last.pt")["model"]
    if flag == "--finetune-from-model":
        (tmp_path / "checkpoint_last.pt").rename(tmp_path / "start.pt")
    more = [3] if flag == "--max-update" else [tmp_path / "start.pt", "--max-update", 1]
    train_here(flag, *more, "--store-ema", "--ema-decay", 0.75)
    found = torch.load(tmp_path / "checkpoint_last.pt")
    weights, averages = found["model"], found["extra_state"]["ema"]
    for name, weight in weights.items():
        if weight.is_floating_point() and not name.endswith("version"):
            torch.testing.assert_close(averages[name], 0.75 * begun_with[name] + 0.25 * weight)
    assert any(not torch.equal(averages[name], weights[name]) for name in weights)


def test_stock_has_thrown_these_weights_away(train_here, monkeypatch):
    train_here()
    monkeypatch.setattr(Trainer, "load_checkpoint", stock(Trainer.load_checkpoint))
    with pytest.raises(KeyError, match="model"):
        train_here("--max-update", 3, "--store-ema")


def test_another_schedule_of_the_rate_is_named(train_here, monkeypatch):
    train_here()
    with pytest.raises(ConfigurationError, match="another --lr-scheduler: .*--reset-lr-scheduler"):
        train_here("--max-update", 3, "--lr-scheduler", "polynomial_decay", "--total-num-update", 9)
    train_here("--max-update", 3, "--lr-scheduler", "polynomial_decay", "--total-num-update", 9, "--reset-lr-scheduler")
    monkeypatch.setattr(FairseqLRScheduler, "load_state_dict", stock(FairseqLRScheduler.load_state_dict))
    with pytest.raises(KeyError, match="best"):
        FairseqLRScheduler.load_state_dict(object(), {})
