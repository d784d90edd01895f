"""`benchmarks.training_step --long`: what it times and what that is compared with, on tiny sizes."""

import json
import sys

import pytest
import torch

from benchmarks import training_step, training_systems
from benchmarks.readme_tables import TABLES, render
from benchmarks.training_step import Case, FairseqStep, System

CONTENT = {"cross_attention": "segmented", "segment_schedule": "content", "segments_per_query": 2}
CHUNKED = {"encoder_attention": "chunked", "encoder_chunk": 24, "encoder_context": 4, **CONTENT}
TINY = {
    training_systems.PEER: System("srformer_bart_tiny", {"cross_attention": "full"}),
    "to compare with": System("srformer_bart_tiny", CHUNKED, timed=False),
    "chunked": System("srformer_bart_tiny", CHUNKED, "to compare with", "fused_adam"),
    "checkpointed": System(
        "srformer_bart_tiny", {**CHUNKED, "checkpoint_activations": True}, "to compare with", "fused_adam"
    ),
}


def run(monkeypatch, path, *more):
    monkeypatch.setattr(training_step, "long_systems", lambda _: TINY)
    options = ["--long", "--cases", "2x8x90", "--quick", "--words", "50", "--commit", "0" * 40, "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["training_step", *options, *more])
    training_step.main()
    return json.loads(path.read_text())


@pytest.fixture
def no_check_of_one_chunk(monkeypatch):
    monkeypatch.setattr(training_step, "check_one_chunk", lambda *_: None)


@pytest.mark.parametrize("backends", [["torch"], ["torch", "triton"]])
def test_systems_for_long_sources_agree_with_one_that_is_not_timed(backends):
    chosen = training_systems.long_systems(backends)
    assert [name for name, system in chosen.items() if system.timed] == [
        "bart_base", "bart_base, fused_adam",
        "chunked, clock, fused_adam", "chunked, content, fused_adam", "chunked, content, fused_adam, compiled",
        "chunked, content, fused_adam, checkpointed",
    ]  # fmt: skip
    for name, system in chosen.items():
        if name.startswith("chunked") and system.timed:
            other = chosen[system.same_as]
            assert (other.arch, other.settings["attention_backend"]) == (system.arch, backends[0])
            assert system.settings["attention_backend"] == backends[-1]
            assert (other.timed, system.optimizer, "content" in system.arch) == (False, "fused_adam", "content" in name)
            assert system.compiled == name.endswith("compiled")
    assert chosen[name].settings["checkpoint_activations"]


@pytest.mark.usefixtures("no_check_of_one_chunk")
def test_a_run_says_what_each_system_was_compared_with(tmp_path, monkeypatch):
    rows = run(monkeypatch, tmp_path / "training_long.json")
    found = {row["case"]["system"]: row["compared_with"] for row in rows}
    assert found == {training_systems.PEER: None, "chunked": "to compare with", "checkpointed": "to compare with"}
    assert all(row["not_timed"] is None and row["ratio"] > 0 for row in rows)
    assert rows[1]["loss"] == pytest.approx(rows[2]["loss"], rel=1e-6)
    assert "| 2 x 8 x 90 | checkpointed | wall |" in TABLES["training_long"](rows)
    assert "(chunked) |" in render("<!-- results: summary -->\n<!-- end -->", tmp_path)


@pytest.mark.usefixtures("no_check_of_one_chunk")
def test_chosen_systems_alone_are_timed_and_compared_all_the_same(tmp_path, monkeypatch, capsys):
    rows = run(monkeypatch, tmp_path / "rows.json", "--systems", "checkpointed")
    assert [(row["case"]["system"], row["compared_with"]) for row in rows] == [("checkpointed", "to compare with")]
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "rows.json", "--systems", "chunky")
    assert "choose from 'bart_base', 'to compare with'" in capsys.readouterr().err


@pytest.mark.usefixtures("no_check_of_one_chunk")
def test_a_system_that_differs_from_its_other_is_not_timed(tmp_path, monkeypatch):
    other = System("srformer_bart_tiny", {**CHUNKED, "encoder_layers": 2}, timed=False)
    monkeypatch.setitem(TINY, "to compare with", other)
    failed = [row["not_timed"] for row in run(monkeypatch, tmp_path / "rows.json") if row["ours"] is None]
    assert len(failed) == 2 and all("beside" in failure for failure in failed)


@pytest.mark.usefixtures("no_check_of_one_chunk")
def test_what_is_compared_with_may_fail_and_the_row_says_so(tmp_path, monkeypatch):
    def checked(self, name):
        if name == "to compare with":
            raise torch.OutOfMemoryError
        return original(self, name)

    original = Case._checked
    monkeypatch.setattr(Case, "_checked", checked)
    rows = run(monkeypatch, tmp_path / "rows.json")
    assert [row["compared_with"] for row in rows] == [None] * 3
    assert all(row["ours"] > 0 for row in rows)


def test_checkpointed_steps_have_the_gradients_of_others():
    task = training_step.StubTask(50)
    found = []
    for name in ("chunked", "checkpointed"):
        step = FairseqStep(task, TINY[name], (2, 8, 90), "cpu")
        step.prepare()
        step.model.eval()
        step.backward(training_step.make_batch(task, (2, 8, 90), "cpu"))
        found.append([p.grad for p in step.model.parameters()])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_chunked_encoder_of_one_chunk_has_stocks_loss_or_nothing_is_timed(layers, monkeypatch):
    small = {"decoder_layers": 1, "encoder_layers": 1, "encoder_ffn_embed_dim": 8, "decoder_ffn_embed_dim": 8}
    build = training_step.build

    def with_layers(task, arch, positions, settings, targets):
        settings = {**small, **settings, **({"encoder_layers": layers} if settings else {})}
        return build(task, arch, positions, settings, targets)

    monkeypatch.setattr(training_step, "build", with_layers)
    task = training_step.StubTask(50)
    if layers == 1:
        training_step.check_one_chunk(task, "cpu")
    else:
        with pytest.raises(SystemExit, match="beside .* of bart_base.*: no report"):
            training_step.check_one_chunk(task, "cpu")
