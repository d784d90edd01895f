"""A converted checkpoint starts an SRformer, and fairseq's own tools run on it."""

import logging
import re

import pytest
import sentencepiece
import torch
from conftest import USER_DIR
from convert.tools import LINES, SIZES, binarise, losses_of, run_here
from fairseq import checkpoint_utils
from fairseq_cli import generate as fairseq_generate
from fairseq_cli import preprocess as fairseq_preprocess
from fairseq_cli import train as fairseq_train

pytest.importorskip("transformers", reason="the development extra (transformers) is not installed")


@pytest.mark.parametrize("kind", ["srformer", "segmented"])
@torch.no_grad()
def test_with_one_segment_the_logits_are_the_originals(bart, converted_bart, kind):
    """The memory of no other segment is zero."""
    generator = torch.Generator().manual_seed(1)
    sources = torch.randint(4, 360, (3, 16), generator=generator)
    targets = torch.randint(4, 360, (3, 9), generator=generator)
    expected = bart[1](input_ids=sources, decoder_input_ids=targets).logits
    overrides = {"data": str(converted_bart), "cross_attention": kind, "expected_target_length": 9}
    for size, equal in ((16, True), (5, False)):
        (model,), _ = checkpoint_utils.load_model_ensemble(
            [str(converted_bart / "model.pt")], {**overrides, "segment_size": size}
        )
        actual = model.eval()(sources, torch.full((3,), 16), targets)[0]
        assert torch.allclose(actual, expected, rtol=0, atol=1e-5) == equal
        assert actual.isfinite().all()


@pytest.fixture(scope="session")
def binarised(converted_bart, tmp_path_factory):
    """LINES as source and target, with the converted dictionary."""
    return binarise(converted_bart, tmp_path_factory.mktemp("binarised") / "data")


@pytest.mark.parametrize(
    "reset",
    [[], ["--reset-optimizer", "--reset-lr-scheduler", "--reset-dataloader", "--reset-meters"]],
    ids=["plain", "reset"],
)
def test_training_starts_from_it(converted_bart, binarised, tmp_path, caplog, reset):
    with caplog.at_level(logging.INFO):
        run_here(
            fairseq_train, binarised, "--user-dir", USER_DIR, "--task", "translation",
            "--arch", "srformer_bart", *SIZES, "--max-source-positions", 64,
            "--restore-file", converted_bart / "model.pt", *reset, "--segment-size", 4, "--truncate-source",
            "--optimizer", "adam", "--lr", 1e-3, "--batch-size", 2, "--max-update", 3, "--save-dir", tmp_path,
            "--no-epoch-checkpoints", "--log-format", "simple", "--log-interval", 1, "--num-workers", 0, "--cpu",
        )  # fmt: skip
    assert len(losses_of(caplog.text)) == 3
    assert "Loaded checkpoint" in caplog.text
    assert "keeps its initial value: encoder_attn.memory.leak in 2 decoder layers" in caplog.text
    before, after = (
        torch.load(path, weights_only=True)["model"]
        for path in (converted_bart / "model.pt", tmp_path / "checkpoint_last.pt")
    )
    name = "encoder.layers.0.fc1.weight"
    assert 0 < (before[name] - after[name]).abs().max() < 0.02  # it went on from the original


def test_fairseq_generate_runs_on_it_directly(converted_bart, binarised, tmp_path):
    run_here(
        fairseq_generate, binarised, "--user-dir", USER_DIR, "--path", converted_bart / "model.pt", "--beam", 2,
        "--max-len-b", 10, "--results-path", tmp_path, "--cpu",
    )  # fmt: skip
    text = (tmp_path / "generate-test.txt").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^H-(\d)\t", text, flags=re.M)) == ["0", "1", "2", "3"]


def test_training_starts_from_a_converted_t5(t5, tmp_path, caplog):
    """With its SentencePiece model and the dictionary that was written; the flags are those of the T5 at hand."""
    folder, theirs, converted = t5
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    for side in ("source", "target"):
        text = "".join(" ".join(pieces.encode(line, out_type=str)) + "\n" for line in LINES)
        (tmp_path / f"train.{side}").write_text(text, encoding="utf-8")
    run_here(
        fairseq_preprocess, "--source-lang", "source", "--target-lang", "target", "--destdir", tmp_path / "bin",
        "--srcdict", converted / "dict.source.txt", "--joined-dictionary", "--trainpref", tmp_path / "train",
    )  # fmt: skip
    v1_1 = ["--feed-forward", "gated-gelu", "--untied-output"] if theirs.config.is_gated_act else []
    with caplog.at_level(logging.INFO):
        run_here(
            fairseq_train, tmp_path / "bin", "--user-dir", USER_DIR, "--task", "translation", "--arch", "srformer_t5",
            *SIZES, "--max-source-positions", 64,
            "--d-kv", 8, "--relative-position-buckets", 8, "--relative-position-max-distance", 20, *v1_1,
            "--restore-file", converted / "model.pt", "--segment-size", 4, "--truncate-source", "--disable-validation",
            "--optimizer", "adam", "--lr", 1e-3, "--batch-size", 2, "--max-update", 3, "--save-dir", tmp_path,
            "--no-epoch-checkpoints", "--log-format", "simple", "--log-interval", 1, "--num-workers", 0, "--cpu",
        )  # fmt: skip
    assert len(losses_of(caplog.text)) == 3
    assert "keeps its initial value: encoder_attn.memory.leak in 2 decoder layers" in caplog.text
