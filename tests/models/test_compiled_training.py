"""fairseq-train --compile: the training that it is without, and checkpoints that do not know of it."""

import re

import pytest
import torch
import warm
from conftest import USER_DIR, run_side_by_side
from fairseq_cli import generate, validate
from fairseq_here import here
from helpers import free_port, trace_without_a_compiler, train_arguments
from torch._dynamo.utils import counters

from srformer_plugin.errors import ConfigurationError
from srformer_plugin.models import compiled

# lengths of batches differ, nothing is random
PLAIN = ["--dropout", 0, "--attention-dropout", 0, "--encoder-layers", 2, "--decoder-layers", 2, "--seed", 3]


@pytest.fixture
def traced(monkeypatch):
    """Traced by Dynamo and run by PyTorch, which takes no compiler."""
    trace_without_a_compiler(monkeypatch, "eager")


@pytest.fixture
def train(train_in_process, tiny_corpus, tmp_path):
    """A training in the folder of that name: its losses, and its last checkpoint."""

    def run(folder, *flags, updates=4):
        log = train_in_process(
            *train_arguments(tiny_corpus, tmp_path / folder, *PLAIN, "--max-update", updates, *flags)
        )
        losses = [float(x) for x in re.findall(r"train_inner.*?\bloss=([0-9.]+)", log)]
        return losses, torch.load(tmp_path / folder / "checkpoint_last.pt", map_location="cpu")

    return run


def graphs():
    return counters["stats"]["unique_graphs"]


def assert_close(found, expected, tolerance=1e-4):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("arch", ["srformer_bart_tiny", "srformer_t5_tiny"])
def test_fifty_updates_have_the_losses_of_the_plain_training(traced, train, arch):
    plain, expected = train("plain", "--arch", arch, updates=50)
    assert graphs() == 0
    found, checkpoint = train("compiled", "--arch", arch, "--compile", updates=50)
    assert found == pytest.approx(plain, abs=2e-3) and len(plain) == 50  # three decimals are printed
    assert plain[-1] < plain[0] - 0.5
    assert checkpoint["model"].keys() == expected["model"].keys()
    assert graphs() == 2 * (2 if arch == "srformer_bart_tiny" else 3)  # of training and validation
    assert not counters["graph_break"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--update-freq", 2, "--store-ema", "--ema-fp32"],
        ["--checkpoint-activations"],
        ["--encoder-layerdrop", 0.4, "--decoder-layerdrop", 0.4],
        ["--cross-attention", "full"],
        ["--required-seq-len-multiple", 8, "--segment-schedule", "content", "--cross-attention", "segmented"],
    ],
    ids=lambda flags: flags[0],
)
def test_whatever_a_training_asks_for(traced, train, flags):
    flags = [*flags, "--disable-validation"]
    _, expected = train("plain", *flags)
    _, found = train("compiled", *flags, "--compile")
    assert_close(found["model"], expected["model"])
    if "--store-ema" in flags:
        assert_close(found["extra_state"]["ema_fp32_params"], expected["extra_state"]["ema_fp32_params"])
    assert graphs() > 0


@pytest.mark.parametrize("precision", ["--fp16", "--bf16"])
@pytest.mark.parametrize("arch", ["srformer_bart_tiny", "srformer_t5_tiny"])
def test_half_precision(traced, train, precision, arch):
    flags = ["--arch", arch, precision, "--optimizer", "sgd", "--lr", 0.1, "--disable-validation"]
    plain, _ = train("plain", *flags)
    found, _ = train("compiled", *flags, "--compile")
    assert found == pytest.approx(plain, rel=2e-2) and graphs() > 0


def test_a_training_goes_on_bit_for_bit_and_with_or_without(traced, train):
    flags = ["--dropout", 0.2, "--compile", "--disable-validation"]
    _, whole = train("whole", *flags, updates=6)
    train("parts", *flags, updates=3)
    _, parts = train("parts", *flags, updates=6)
    assert all(torch.equal(tensor, parts["model"][name]) for name, tensor in whole["model"].items())
    train("parts", updates=7)


def test_a_checkpoint_does_not_know_of_it(traced, train, tiny_corpus, tmp_path, monkeypatch):
    _, plain = train("plain")
    _, found = train("compiled", "--compile")
    assert not found["cfg"]["model"].compile
    assert vars(found["cfg"]["model"]).keys() == vars(plain["cfg"]["model"]).keys()
    before = graphs()
    monkeypatch.setattr(compiled, "missing_compiler", lambda cpu: "nothing is here")
    path = ["--path", tmp_path / "compiled/checkpoint_last.pt", "--user-dir", USER_DIR, "--cpu"]
    log = here(generate, tiny_corpus.binarised, *path, "--beam", 2, "--max-len-b", 5)
    assert "Translated 11 sentences" in log
    here(validate, tiny_corpus.binarised, *path, "--task", "translation", "--valid-subset", "valid", "--batch-size", 4)
    assert graphs() == before


def test_a_missing_compiler_is_one_line_before_any_work(train_in_process, tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigurationError, match=r"--compile: torch.compile needs a C\+\+ compiler: .*CXX; or leave"):
        train_in_process(*train_arguments(tiny_corpus, tmp_path, "--compile"))
    train_in_process(*train_arguments(tiny_corpus, tmp_path, "--max-update", 1))  # needs none


@pytest.mark.parametrize(("triton", "lacking", "message"), [(False, None, "needs Triton"), (True, None, None),
                                                            (True, "no headers", "no headers")])  # fmt: skip
def test_what_a_gpu_needs(monkeypatch, triton, lacking, message):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: triton)
    monkeypatch.setattr(compiled, "no_launchers", lambda: lacking)
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    reason = compiled.missing_compiler()
    assert reason is None if message is None else message in reason
    assert "C++" in compiled.missing_compiler(cpu=True)


@pytest.mark.slow
def test_two_ranks_of_generated_code_step_as_one_process_on_the_joined_batch(tiny_corpus, tmp_path):
    flags = [*PLAIN, "--optimizer", "sgd", "--lr", 0.5, "--batch-size", 4, "--max-update", 2, "--disable-validation"]
    module = [warm.programs() / "python", "-m", "fairseq_cli.train"]
    run_side_by_side([*module, *train_arguments(tiny_corpus, tmp_path / "one", *flags, "--update-freq", 2)])
    ranks = ["--distributed-world-size", 2, "--distributed-no-spawn", "--distributed-backend", "gloo"]
    ranks += ["--distributed-init-method", f"tcp://127.0.0.1:{free_port()}", "--ddp-backend", "legacy_ddp"]
    arguments = train_arguments(tiny_corpus, tmp_path / "two", *flags, "--compile", *ranks)
    run_side_by_side(*([*module, *arguments, "--distributed-rank", str(rank)] for rank in range(2)))
    one, two = (torch.load(tmp_path / name / "checkpoint_last.pt")["model"] for name in ("one", "two"))
    assert_close(two, one)
