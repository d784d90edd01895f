"""The real console scripts on real sentences: preprocess, train, resume, validate, generate, interactive.

The corpus is docstrings of the standard library, 40 + 9 + 11 of them: enough for every code path.
"""

import argparse
import itertools
import math
import re
import sysconfig
from pathlib import Path

import pytest
import torch
from conftest import USER_DIR, make_corpus
from fairseq import checkpoint_utils
from helpers import train_arguments

from data_prep.docstring_corpus import deduplicate
from data_prep.docstring_pairs import DEFAULT_LIMITS, read_file, source_files
from data_prep.errors import EXIT_STATUS
from srformer_plugin.errors import ConfigurationError

SIZES = {"train": 40, "valid": 9, "test": 11}
STOCK_TINY = [
    "--arch", "bart_base", "--encoder-layers", "1", "--decoder-layers", "1",
    "--encoder-embed-dim", "32", "--encoder-ffn-embed-dim", "64", "--encoder-attention-heads", "2",
    "--decoder-embed-dim", "32", "--decoder-ffn-embed-dim", "64", "--decoder-attention-heads", "2",
]  # fmt: skip
SETTINGS = [
    "--truncate-source",
    "--criterion",
    "label_smoothed_cross_entropy",
    "--label-smoothing",
    "0.1",
    "--lr",
    "1e-2",
    "--batch-size",
    "6",
]
RESET = ["--reset-optimizer", "--reset-lr-scheduler", "--reset-dataloader", "--reset-meters"]


@pytest.fixture(scope="session")
def docstrings(tmp_path_factory):
    """60 pairs (description, summary) in splits, binarised with fairseq-preprocess."""
    files = source_files([Path(sysconfig.get_path("stdlib"))])
    pairs = itertools.chain.from_iterable(read_file((path, module, DEFAULT_LIMITS))[0] for path, module in files)
    pairs, _ = deduplicate(list(itertools.islice(pairs, 80)))
    texts = [(" ".join(pair.source.split()), " ".join(pair.summary.split())) for pair in pairs]
    return make_corpus(tmp_path_factory.mktemp("docstrings"), SIZES, texts)


@pytest.fixture
def train_here(docstrings, train_in_process):
    """:func:`train_in_process` on the docstrings, with these settings and more."""
    return lambda save_dir, *more: train_in_process(*train_arguments(docstrings, save_dir, *SETTINGS, *more))


def losses(log):
    """Training loss after every update, as logged."""
    return [float(x) for x in re.findall(r"train_inner:progress_bar.*? loss=([0-9.naif]+),", log)]


@pytest.fixture(scope="session")
def trained(run_fairseq, docstrings, tmp_path_factory):
    """fairseq-train for 20 updates, validated and saved on the way at 10."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = train_arguments(docstrings, folder, *SETTINGS, "--max-update", 20, "--save-interval-updates", 10)
    log = run_fairseq("train", *arguments, fresh=True).stdout
    return argparse.Namespace(folder=folder, log=log, last=folder / "checkpoint_last.pt")


def test_training_reports_its_schedule_and_the_loss_falls(docstrings, trained):
    targets = docstrings.lines("train", "target")
    mean = round(sum(len(line.split()) + 1 for line in targets) / len(targets))
    assert f"--expected-target-length {mean}: the mean of 40 training targets" in trained.log
    values = [float(x) for x in re.findall(r"train_inner .*? loss=([0-9.]+),", trained.log)]
    assert len(values) == 20
    assert sum(values[-5:]) < 0.85 * sum(values[:5])
    assert "valid on 'valid' subset" in trained.log


def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(trained, train_here, tmp_path):
    saved = next(trained.folder.glob("checkpoint_*_10.pt"))
    train_here(
        tmp_path,
        "--arch",
        "srformer_bart_tiny",
        "--max-update",
        20,
        "--restore-file",
        saved,
        "--save-interval-updates",
        10,
    )
    whole, resumed = (torch.load(f, weights_only=True) for f in (trained.last, tmp_path / "checkpoint_last.pt"))
    assert whole["optimizer_history"][-1]["num_updates"] == resumed["optimizer_history"][-1]["num_updates"] == 20
    assert whole["model"].keys() == resumed["model"].keys()
    for name, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][name]), name
    for a, b in zip(*(s["last_optimizer_state"]["state"].values() for s in (whole, resumed))):
        assert all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)


def test_so_does_a_t5_which_then_decodes(train_here, run_fairseq, docstrings, tmp_path):
    flags = ["--arch", "srformer_t5_tiny", "--feed-forward", "gated-gelu", "--untied-output", "--dropout", 0.1]
    flags += ["--max-update", 8, "--save-interval-updates", 4]
    whole = losses(train_here(tmp_path / "whole", *flags))
    saved = next((tmp_path / "whole").glob("checkpoint_*_4.pt"))
    assert losses(train_here(tmp_path / "resumed", *flags, "--restore-file", saved)) == whole[4:]
    first, second = (torch.load(tmp_path / f / "checkpoint_last.pt", weights_only=True) for f in ("whole", "resumed"))
    assert all(torch.equal(value, second["model"][name]) for name, value in first["model"].items())
    text = run_fairseq(
        "generate", docstrings.binarised, "--user-dir", USER_DIR, "--path", tmp_path / "whole" / "checkpoint_last.pt",
        "--gen-subset", "test", "--batch-size", 4, "--beam", 4, "--max-len-b", 12, "--cpu",
    ).stdout  # fmt: skip
    assert sorted(hypotheses(text)) == list(range(11))


def test_validate_scores_every_sentence(run_fairseq, docstrings, trained):
    log = run_fairseq(
        "validate", docstrings.binarised, "--user-dir", USER_DIR, "--task", "translation", "--path", trained.last,
        "--batch-size", 4, "--valid-subset", "valid", "--cpu", fresh=True,
    ).stdout  # fmt: skip
    at_the_end_of_training = re.findall(r"valid on 'valid' subset .*? loss ([0-9.]+)", trained.log)[-1]
    validated = re.findall(r"valid on 'valid' subset .*? loss ([0-9.]+)", log)[-1]
    # another batch size, and so other padding
    assert float(validated) == pytest.approx(float(at_the_end_of_training), abs=2e-3)


def hypotheses(text):
    return {int(number): line for number, line in re.findall(r"^H-(\d+)\t\S+\t(.*)$", text, flags=re.M)}


def test_generate_answers_every_sentence_and_needs_no_flag_of_the_model(run_fairseq, docstrings, trained):
    text = run_fairseq(
        "generate", docstrings.binarised, "--user-dir", USER_DIR, "--path", trained.last, "--gen-subset", "test",
        "--batch-size", 4, "--beam", 4, "--max-len-b", 12, "--no-repeat-ngram-size", 3, "--cpu",
        fresh=True,
    ).stdout  # fmt: skip
    assert sorted(hypotheses(text)) == list(range(11))
    references = dict(re.findall(r"^T-(\d+)\t(.*)$", text, flags=re.M))
    known = set(docstrings.lines("train", "target")[0].split())
    for number, line in enumerate(docstrings.lines("test", "target")):
        words, printed = line.split(), references[str(number)].split()
        assert len(words) == len(printed)  # the number is the line's; a word the dictionary lacks prints as <unk>
        assert all(a == b for a, b in zip(words, printed) if a in known)


def test_interactive_answers_every_line_with_its_alignment(run_fairseq, docstrings, trained, tmp_path):
    lines = docstrings.lines("test", "source")[:3]
    (tmp_path / "input").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    text = run_fairseq(
        "interactive", docstrings.binarised, "--user-dir", USER_DIR, "--path", trained.last, "--input",
        tmp_path / "input", "--beam", 2, "--max-len-b", 8, "--print-alignment", "hard", "--replace-unk", "", "--cpu",
        fresh=True,
    ).stdout  # fmt: skip
    assert sorted(hypotheses(text)) == [0, 1, 2]
    alignments = re.findall(r"^A-\d+\t(.*)$", text, flags=re.M)
    for line, alignment, words in zip(lines, alignments, hypotheses(text).values()):
        pairs = [tuple(map(int, pair.split("-"))) for pair in alignment.split()]
        assert [target for _, target in pairs] == list(range(len(words.split())))
        assert all(0 <= source <= len(line.split()) for source, _ in pairs)


@pytest.mark.parametrize("optimizer_state", [[], ["--no-save-optimizer-state"]], ids=["with", "without"])
def test_a_stock_bart_checkpoint_starts_an_srformer(train_here, tmp_path, optimizer_state):
    train_here(tmp_path / "bart", *STOCK_TINY, "--max-update", 2, *optimizer_state)
    stock = tmp_path / "bart" / "checkpoint_last.pt"
    assert ("last_optimizer_state" in torch.load(stock, weights_only=True)) == (not optimizer_state)
    log = train_here(
        tmp_path / "srformer", "--arch", "srformer_bart_tiny", "--max-update", 3, "--restore-file", stock, *RESET,
        "--max-source-positions", 1500,
    )  # fmt: skip
    assert "keeps its initial value: encoder_attn.memory.threshold" in log
    assert "encoder.embed_positions.weight: extended from 1024 to 1500 positions" in log
    assert len(losses(log)) == 3
    assert all(map(math.isfinite, losses(log)))


@pytest.mark.parametrize("arch", ["srformer_bart_tiny", "srformer_t5_tiny"])
@pytest.mark.parametrize("precision", [["--bf16"], ["--fp16", "--fp16-init-scale", "4"], ["--memory-efficient-fp16"]])
def test_half_precision_trains(train_here, tmp_path, precision, arch):
    log = train_here(tmp_path, "--arch", arch, "--max-update", 12, *precision)
    values = losses(log)
    assert all(map(math.isfinite, values))
    assert sum(values[-3:]) < sum(values[:3])
    state = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "checkpoint_last.pt"))
    assert all(value.isfinite().all() for value in state["model"].values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--segment-size", 0], "--segment-size must be at least 1"),
        (["--expected-target-length", -1], "--expected-target-length must be at least 1"),
        (["--segment-schedule", "clock"], "--segment-schedule 'clock' is unknown"),
        (["--decoder-attention-heads", 5], "--decoder-attention-heads 5 does not divide"),
    ],
)
def test_a_bad_flag_is_refused_before_training(train_here, tmp_path, flags, message):
    with pytest.raises(ConfigurationError, match=message):
        train_here(tmp_path, "--arch", "srformer_bart_tiny", "--max-update", 1, *flags)


def test_a_checkpoint_of_another_segment_size_is_refused_in_one_clear_line(run_fairseq, docstrings, trained, tmp_path):
    done = run_fairseq(
        "train",
        *train_arguments(docstrings, tmp_path, *SETTINGS, "--max-update", 30),
        *("--segment-size", 8, "--restore-file", trained.last, *RESET),
        check=False,
    )
    assert done.returncode == EXIT_STATUS and "Traceback" not in done.stdout
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("error: the checkpoint was trained with --segment-size 4, but this run has 8")
