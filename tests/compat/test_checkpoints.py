"""Checkpoints: what may be read, what is refused, and the reason said."""

import argparse
import builtins
import collections
import os
import pickle
import subprocess
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import warm
from conftest import USER_DIR, run_side_by_side
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.logging import meters
from fairseq.modules import transformer_layer
from fairseq.trainer import Trainer
from helpers import free_port
from stock_bart import full_configuration, generate_arguments, stock, train_arguments

from srformer_plugin.compat import checkpoints
from srformer_plugin.errors import ConfigurationError, UnsafeCheckpointError


@pytest.fixture
def nothing_registered():
    """PyTorch's list of loadable classes as it is without the plugin."""
    registered = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.add_safe_globals(registered)


def test_stock_fairseq_cannot_read_its_own_checkpoint(trained, nothing_registered):
    with pytest.raises(pickle.UnpicklingError, match="argparse.Namespace"):
        stock(checkpoint_utils.load_checkpoint_to_cpu)(str(trained.checkpoint))


def test_a_checkpoint_can_be_read(trained):
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(trained.checkpoint)])
    assert type(models[0]).__name__ == "BARTModel"


@pytest.mark.parametrize("style", ["args", "cfg"])
def test_a_checkpoint_of_an_older_fairseq_can_be_read(style, trained, tiny_corpus, tmp_path):
    """Up to 0.10 checkpoints held the argparse namespace, then the omegaconf configuration itself."""
    state = torch.load(trained.checkpoint)
    namespace, configuration = full_configuration(tiny_corpus)
    state["args"], state["cfg"] = (namespace, None) if style == "args" else (None, configuration)
    torch.save(state, tmp_path / "old.pt")
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "old.pt")])
    assert type(models[0]).__name__ == "BARTModel"


def test_a_checkpoint_of_fairseq_0_12_2_can_be_read(trained, tmp_path):
    """The last official release saved eight copies of parameters in every encoder layer."""
    state = torch.load(trained.checkpoint)
    for name in ("in_proj", "out_proj", "fc1", "fc2"):
        state["model"][f"encoder.layers.0.{name}_weight"] = torch.zeros(16, 16)
        state["model"][f"encoder.layers.0.{name}_bias"] = torch.zeros(16)
    torch.save(state, tmp_path / "official.pt")
    checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "official.pt")])


def meter():
    average = meters.AverageMeter()
    average.update(3.0)
    return average


@pytest.mark.parametrize(
    "value",
    [
        argparse.Namespace(arch="bart_large", adam_betas="(0.9, 0.999)"),
        np.float64(27.5),
        np.float32(0.5),
        np.int64(3),
        np.bool_(True),
        np.arange(4.0),
        collections.defaultdict(dict),
        distributed_utils._TensorPlaceholder(index=3),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_a_checkpoint_may_hold_survives(value, zipped, tmp_path):
    file = tmp_path / "value.pt"
    torch.save({"value": value}, file, _use_new_zipfile_serialization=zipped)
    read = torch.load(file)["value"]
    assert type(read) is type(value)
    assert np.all(read == value)


def test_arrays_pickled_by_the_other_numpy_can_be_read(tmp_path):
    """NumPy 2 calls the module ``numpy._core``, NumPy 1 ``numpy.core``."""
    torch.save({"value": np.arange(4.0)}, tmp_path / "value.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "value.pt").read_bytes()
    own, other = b"numpy.core.multiarray", b"numpy._core.multiarray"
    if own not in content:
        own, other = other, own
    assert own in content
    (tmp_path / "other.pt").write_bytes(content.replace(own, other))
    assert torch.load(tmp_path / "other.pt")["value"].tolist() == [0, 1, 2, 3]


def test_the_last_numpy_1_has_an_empty_module_of_the_new_name(monkeypatch):
    old = SimpleNamespace(
        **{name: getattr(np, name) for name in ("ndarray", "dtype")},
        __version__="1.26.4",
        core=SimpleNamespace(multiarray=SimpleNamespace(_reconstruct="reconstruct", scalar="scalar")),
        _core=SimpleNamespace(),
    )
    monkeypatch.setattr(checkpoints, "np", old)
    named = {name: kind for kind, name in checkpoints.checkpoint_classes()}
    assert named["numpy._core.multiarray.scalar"] == named["numpy.core.multiarray.scalar"] == "scalar"


def test_meters_of_a_checkpoint_of_2019_can_be_read(tmp_path):
    torch.save({"value": meter()}, tmp_path / "value.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "value.pt").read_bytes()
    old = content.replace(b"fairseq.logging.meters", b"fairseq.meters")
    for name, text in (("new.pt", content), ("old.pt", old)):
        (tmp_path / name).write_bytes(text)
        assert torch.load(tmp_path / name)["value"].avg == 3.0


class Smuggled:
    """Pickles as a call that leaves a file behind when it is read without care."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def smuggle(how, marker):
    python = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": lambda: Smuggled(os.system, f"touch {marker}"),
        "subprocess": lambda: Smuggled(subprocess.check_call, ["touch", str(marker)]),
        "exec": lambda: Smuggled(builtins.exec, python),
        "eval": lambda: Smuggled(builtins.eval, python),
        "getattr": lambda: Smuggled(getattr, Smuggled(__import__, "os"), "system"),
        "in a namespace": lambda: argparse.Namespace(arch=Smuggled(os.system, f"touch {marker}")),
        "in an object array": lambda: np.array([Smuggled(os.system, f"touch {marker}")], dtype=object),
    }[how]()


HOW = ["os.system", "subprocess", "exec", "eval", "getattr", "in a namespace", "in an object array"]


def malicious_checkpoint(checkpoint, how, folder, zipped=True):
    """Copy a checkpoint and hide a call in its configuration; returns the copy and the file it would leave."""
    marker, file = folder / "executed", folder / "downloaded.pt"
    state = torch.load(checkpoint)
    state["cfg"]["common"]["wandb_project"] = smuggle(how, marker)
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    return file, marker


def test_the_smuggled_code_would_run(trained, tmp_path):
    """Otherwise the tests below would prove nothing."""
    file, marker = malicious_checkpoint(trained.checkpoint, "os.system", tmp_path)
    torch.load(file, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("how", HOW)
def test_code_in_a_checkpoint_is_refused(how, zipped, trained, tmp_path):
    file, marker = malicious_checkpoint(trained.checkpoint, how, tmp_path, zipped)
    with pytest.raises(UnsafeCheckpointError, match="downloaded.pt is refused"):
        checkpoint_utils.load_checkpoint_to_cpu(str(file))
    assert not marker.exists()


@pytest.mark.parametrize("tool", ["generate", "train"])
def test_tools_refuse_a_checkpoint_with_code(tool, run_fairseq, tiny_corpus, trained, tmp_path):
    file, marker = malicious_checkpoint(trained.checkpoint, "os.system", tmp_path)
    arguments = {
        "generate": generate_arguments(tiny_corpus, file),
        "train": train_arguments(tiny_corpus, tmp_path, "--restore-file", file, "--user-dir", USER_DIR),
    }
    done = run_fairseq(tool, *arguments[tool], check=False)
    assert done.returncode != 0
    assert not marker.exists()
    last_line = done.stdout.strip().splitlines()[-1]
    assert f"checkpoint {file} is refused: it asks to run or build" in last_line
    assert "system" in last_line


@pytest.mark.slow
def test_two_processes_resume_from_a_checkpoint(tiny_corpus, trained, tmp_path):
    """Rank 0 reads the file and sends its content, configuration included, to rank 1."""
    command = [warm.programs() / "fairseq-train"]
    command += train_arguments(tiny_corpus, tmp_path, "--restore-file", trained.checkpoint)
    command += ["--max-update", "3", "--user-dir", USER_DIR, "--distributed-world-size", "2"]
    command += ["--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp", "--distributed-no-spawn"]
    command += ["--distributed-init-method", f"tcp://127.0.0.1:{free_port()}", "--distributed-rank"]
    printed = run_side_by_side(*([*map(str, command), str(rank)] for rank in range(2)))
    assert "Loaded checkpoint" in printed[0]
    assert "num_updates 3" in printed[0]


def test_the_fast_path_of_an_encoder_layer_is_off(tiny_corpus, monkeypatch):
    """ve-fairseq has no such path, so this gives its layer the attribute that 0.12.2's has."""
    layer_class = transformer_layer.TransformerEncoderLayerBase
    monkeypatch.setattr(layer_class, "can_use_fastpath", True, raising=False)
    namespace, _ = full_configuration(tiny_corpus)
    layer = transformer_layer.TransformerEncoderLayer(namespace)
    assert layer.can_use_fastpath is False


@pytest.fixture
def model_refuses(monkeypatch):
    """Make BART's ``load_state_dict`` raise a given error."""

    def refuse(error):
        def load_state_dict(self, *args, **kwargs):
            raise error

        monkeypatch.setattr("fairseq.models.bart.BARTModel.load_state_dict", load_state_dict)

    return refuse


REASON = "--segment-size 64 does not fit the checkpoint, which was trained with 16."


def test_stock_training_hides_why_a_checkpoint_does_not_fit(train_here, trained, model_refuses, monkeypatch):
    monkeypatch.setattr(Trainer, "load_checkpoint", stock(Trainer.load_checkpoint))
    model_refuses(ConfigurationError(REASON))
    with pytest.raises(Exception, match="ensure that the architectures match"):
        train_here("--restore-file", trained.checkpoint)


def test_training_says_why_a_checkpoint_does_not_fit(train_here, trained, model_refuses):
    model_refuses(ConfigurationError(REASON))
    with pytest.raises(ConfigurationError, match="--segment-size 64") as raised:
        train_here("--restore-file", trained.checkpoint)
    assert raised.value.__suppress_context__


def test_other_errors_keep_the_sentence_of_fairseq(train_here, trained, model_refuses):
    model_refuses(RuntimeError("size mismatch for decoder.embed_positions.weight"))
    with pytest.raises(Exception, match="ensure that the architectures match"):
        train_here("--restore-file", trained.checkpoint)


def test_a_stock_checkpoint_on_a_full_disk_has_no_name_and_no_reason(tmp_path, full_disk, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(checkpoint_utils, "_torch_persistent_save", stock(checkpoint_utils._torch_persistent_save))
    with full_disk(50_000), pytest.raises((RuntimeError, OSError)) as error:
        stock(checkpoint_utils.torch_persistent_save)({"a": torch.zeros(100_000)}, str(tmp_path / "a.pt"))
    assert getattr(error.value, "filename", None) is None
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize("values", [10_000, 100_000])
def test_a_checkpoint_on_a_full_disk_is_named_and_nothing_of_it_left(values, tmp_path, full_disk):
    path = str(tmp_path / "a.pt")
    checkpoint_utils.torch_persistent_save({"a": 1}, path)
    with full_disk(30_000), pytest.raises(OSError, match="File too large") as error:
        checkpoint_utils.torch_persistent_save({"a": torch.zeros(values), "b": torch.zeros(10)}, path)
    assert error.value.filename == path
    assert os.listdir(tmp_path) == ["a.pt"] and torch.load(path) == {"a": 1}
    checkpoint_utils.torch_persistent_save({"a": torch.zeros(5000)}, path)
    with full_disk(10_000), pytest.raises(OSError, match="File too large"):
        PathManager.copy(path, str(tmp_path / "b.pt"), overwrite=True)
    assert os.listdir(tmp_path) == ["a.pt"]


def test_other_errors_of_writing_stay_what_they_are(tmp_path):
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint_utils.torch_persistent_save({"a": lambda: None}, str(tmp_path / "a.pt"))


def test_a_reason_without_a_number_is_passed_on_with_the_name(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("the store is gone")

    monkeypatch.setattr(torch, "save", refuse)
    with pytest.raises(OSError, match="a.pt: the store is gone"):
        checkpoint_utils.torch_persistent_save({"a": 1}, str(tmp_path / "a.pt"))
