"""The parts of the benchmarks that need no GPU: fits, rows, checks, ranges, tables and pictures, on tiny sizes."""

import argparse
import json
import sys
from dataclasses import replace

import pytest
import torch
from fairseq.optim.adam import FairseqAdam

from benchmarks import attention_core, flex_local, plots, random_models, scaling, training_step
from benchmarks.attention_core import Inputs
from benchmarks.fits import add_exponents, fit_exponent
from benchmarks.ranges import mark, ranged, shares
from benchmarks.readme_tables import ROOT, TABLES, render
from benchmarks.rows import Results, provenance, sizes
from benchmarks.training_step import FairseqStep, System, check, make_batch
from srformer_plugin.models import compiled
from srformer_plugin.optim.fused_adam import FusedAdam

RESULTS = ROOT / "benchmarks" / "results"
CASE = (2, 8, 40)
HERE = {"device": "a test", "torch": torch.__version__, "commit": "0" * 40, "date": "2000-01-01"}
FULL = {"cross_attention": "full"}


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_fit_finds_the_exponent_of_a_power(exponent):
    sizes = [512, 1024, 4096, 65536]
    assert fit_exponent(sizes, [3e-3 * size**exponent for size in sizes]) == pytest.approx(exponent, abs=1e-9)


def test_fit_of_one_size_is_none():
    assert fit_exponent([512, 512], [1.0, 2.0]) is None


def scaling_rows(costs):
    """Rows of the sources 512, 1,024, ... of one system."""
    results = Results(None, "scaling", HERE)
    for number, cost in enumerate(costs):
        case = {"source": 512 * 2**number, "targets": 128, "pass": "both", "system": "ours", "dtype": "float32"}
        results.add(case, "peer", cost, 2 * cost, "ms", mib=1.0)
    return results.rows


def test_exponents_are_those_of_the_longer_half():
    rows = scaling_rows([5.0, 5.0, 5.0, 10.0, 20.0, 40.0])  # flat, then proportional to the length
    add_exponents(rows)
    assert {row["exponent"] for row in rows} == {1.0}
    assert {row["exponent_from"] for row in rows} == {4096}


def test_every_row_is_written_at_once_and_says_where_it_comes_from(tmp_path):
    path = tmp_path / "rows.json"
    results = Results(path, "speed", HERE)
    for number in (1, 2):
        row = results.add({"n": number}, "peer", 2.0, 3.0, "ms")
        assert len(json.loads(path.read_text())) == number
    assert row["ratio"] == 1.5
    assert {"benchmark", "case", "peer", "ours", "theirs", "unit", "ratio", *HERE} == row.keys()


def test_without_git_the_commit_must_be_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    with pytest.raises(SystemExit, match="--commit"):
        provenance("a test")
    assert provenance("a test", "f" * 40)["commit"] == "f" * 40


def test_without_transformers_there_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit, match="pip install transformers"):
        random_models.import_transformers()


@pytest.mark.parametrize("kind", ["bart", "led"])
def test_models_of_transformers_have_the_sizes_of_bart_base(kind):
    """As many parameters in layers as stock bart_base; LED has three projections more in the encoder's layers."""
    pytest.importorskip("transformers")
    with torch.device("meta"):
        theirs = random_models.hugging_face(kind, 1024, words=10)
    stock = random_models.build(random_models.StubTask(10), "bart_base", 1024, {})
    extra = {"encoder": 6 * 3 * (768 * 768 + 768) if kind == "led" else 0, "decoder": 0}
    for side, more in extra.items():
        pair = (getattr(theirs, f"get_{side}")(), getattr(stock, side))
        sizes = [sum(p.numel() for p in model.layers.parameters()) for model in pair]
        assert sizes[0] == sizes[1] + more


def test_batches_are_padded_on_the_right():
    task = random_models.StubTask(50)
    batch = make_batch(task, (4, 8, 64), "cpu")
    padding = batch["net_input"]["src_tokens"].eq(task.source_dictionary.pad())
    assert padding.sum(1).tolist() == (64 - batch["net_input"]["src_lengths"]).tolist() == [0, 3, 6, 8]
    assert not (padding[:, :-1] & ~padding[:, 1:]).any()
    assert (batch["net_input"]["prev_output_tokens"][:, 0] == task.source_dictionary.eos()).all()
    assert make_batch(task, (1, 8, 64), "cpu")["net_input"]["src_lengths"].tolist() == [64]


def open_step(settings, optimizer="adam"):
    task = random_models.StubTask(50)
    system = System("srformer_bart_tiny", settings, optimizer=optimizer)
    return FairseqStep(task, system, CASE, "cpu"), make_batch(task, CASE, "cpu")


def with_another_weight(step):
    with torch.no_grad():
        step.model.decoder.layers[0].final_layer_norm.weight.mul_(1.2)
    return step


def with_the_same_loss(step):
    """Logits that are shifted by one number are other logits of the same probabilities."""
    logits = step.logits
    step.logits = lambda inputs: logits(inputs) + 1
    return step


@pytest.mark.parametrize("changed", [with_another_weight, with_the_same_loss])
def test_a_model_with_another_loss_or_other_logits_is_not_timed(changed):
    found = {}
    step, batch = open_step(FULL)
    check("full", System("", same_as=None), step, batch, found)
    check("again", System("", same_as="full"), open_step(FULL)[0], batch, found)
    with pytest.raises(RuntimeError, match="apart"):
        check("other", System("", same_as="full"), changed(open_step(FULL)[0]), batch, found)


def test_a_loss_that_is_not_finite_is_refused():
    step, batch = open_step(FULL)
    with torch.no_grad():
        step.model.decoder.layers[0].fc1.weight.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="finite"):
        check("nan", System(""), step, batch, {})


@pytest.mark.parametrize(("optimizer", "kind"), [("adam", FairseqAdam), ("fused_adam", FusedAdam)])
def test_a_step_changes_weights_and_takes_time(optimizer, kind):
    step, batch = open_step({}, optimizer)
    step.prepare()
    assert type(step.optimizer) is kind
    before = [p.clone() for p in step.model.parameters()]
    ms, passes, peak = training_step.measure(step, batch, "cpu", 2, 1)
    assert 0 < passes < ms and peak is None
    assert any(not torch.equal(a, b) for a, b in zip(before, step.model.parameters()))


def test_stock_full_attention_and_the_last_srformer_have_a_line_with_our_optimizer_and_one_compiled():
    chosen = training_step.systems(["torch", "triton"], with_transformers=False, source=1024)
    assert next(iter(chosen)) == training_step.PEER
    fused = {name: system for name, system in chosen.items() if system.optimizer == "fused_adam"}
    plain = ("bart_base", "full attention", "srformer_bart_base, triton")
    losses = (
        "bart_base, fused_adam",
        *(f"srformer_bart_base, triton, fused_adam{more}" for more in ("", ", compiled")),
    )
    assert fused.keys() == {
        *(f"{name}, fused_adam{more}" for name in plain for more in ("", ", compiled")),
        *(f"{name}, fused loss" for name in losses),
    }
    for name, system in fused.items():
        assert system.compiled == ("compiled" in name)
        assert system.criterion.startswith("fused") == ("loss" in name)
        other = chosen[name.split(", fused_adam")[0]]
        assert (system.arch, system.settings, other.optimizer) == (other.arch, other.settings, "adam")
    assert all(system.same_as is None or system.same_as in chosen for system in chosen.values())
    timed = [name for name, system in chosen.items() if system.timed]
    assert timed[0] == training_step.PEER and all("fused_adam" in name for name in timed[1:])


def test_ours_and_stock_are_compiled_layer_by_layer(monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    task, found = random_models.StubTask(50), {}
    batch = make_batch(task, CASE, "cpu")
    for name, arch in (("ours", "srformer_bart_tiny"), ("stock", "bart_base")):
        sizes = dict.fromkeys(("encoder_embed_dim", "encoder_ffn_embed_dim", "decoder_ffn_embed_dim"), 32)
        sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
        sizes |= dict.fromkeys(("encoder_layers", "decoder_layers"), 2)
        system = System(arch, sizes)
        check(name, system, FairseqStep(task, system, CASE, "cpu"), batch, found)
        torch._dynamo.utils.counters.clear()
        system = System(arch, sizes, name, compiled=True)
        check(f"{name}, compiled", system, FairseqStep(task, system, CASE, "cpu"), batch, found)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_training_step_measures_checked_systems_on_a_cpu(tmp_path, monkeypatch):
    tiny = {training_step.PEER: System("srformer_bart_tiny", FULL)}
    tiny["ours"] = System("srformer_bart_tiny", FULL, same_as=training_step.PEER, optimizer="fused_adam")
    tiny["fused loss"] = replace(tiny["ours"], criterion="fused_label_smoothed_cross_entropy")
    monkeypatch.setattr(training_step, "systems", lambda *_: tiny)
    path = tmp_path / "training_step.json"
    command = ["training_step", "--cases", "2x8x40", "--quick", "--profile", "--words", "50", "--no-transformers"]
    monkeypatch.setattr(sys, "argv", [*command, "--commit", "0" * 40, "--json", str(path)])
    training_step.main()
    rows = json.loads(path.read_text())
    found = [(row["case"]["system"], row["case"]["time"]) for row in rows]
    assert found == [(name, kind) for kind in ("wall", "device") for name in tiny]
    assert all(row["not_timed"] is None and row["ours"] > 0 and row["ratio"] > 0 for row in rows)
    assert "| 2 x 8 x 40 | ours | device |" in TABLES["training_step"](rows)


def test_ranges_leave_gradients_as_they_are_and_are_all_reported():
    gradients = []
    for marked in (False, True):
        step, batch = open_step({})
        step.model.train()
        step.prepare()
        torch.manual_seed(0)
        if marked:
            step.mark()
        step.backward(batch)
        gradients.append([p.grad for p in step.model.parameters()])
    torch.testing.assert_close(*gradients)  # but for the order of sums
    parts = training_step.profiled(step, batch, "cpu")
    assert {"cross-attention", "encoder self-attention", "vocabulary and loss", "optimizer", "rest"} <= parts.keys()


def test_a_range_holds_its_part_s_backward_pass():
    """Of a product of matrices, the gradients are two more."""
    weight = torch.randn(256, 256, requires_grad=True)
    product = ranged("product", lambda x: x @ weight)

    def both():
        x = torch.randn(256, 256, requires_grad=True)
        product(x * 1.0).sum().backward()

    def forward():
        with torch.no_grad():
            product(torch.randn(256, 256))

    assert shares(both, "cpu", 20)["product"] > 1.8 * shares(forward, "cpu", 20)["product"]


def test_marks_are_around_every_layer():
    step, _ = open_step({})
    layers = [layer.encoder_attn for layer in step.model.decoder.layers]
    layers += [layer.self_attn for layer in (*step.model.encoder.layers, *step.model.decoder.layers)]
    before = [layer.forward for layer in layers]
    mark(step.model, step.criterion)
    assert [layer.forward.__wrapped__ for layer in layers] == before


def test_flex_attention_is_the_local_term_and_another_is_refused():
    inputs = Inputs(2, 24, 200, torch.float32, "cpu")
    attend, leaves = flex_local.local_part(inputs, compiled=False, backward=False)
    assert flex_local.check(inputs, attend, leaves, 1e-4) < 1e-4
    inputs.segment_plan.segments.zero_()  # the mask was made from another plan
    with pytest.raises(RuntimeError, match="off by"):
        flex_local.check(inputs, attend, leaves, 1e-4)


def test_scaling_measures_checked_systems_on_a_cpu(tmp_path, monkeypatch):
    path = tmp_path / "scaling.json"
    command = ["scaling", "--cpu", "--quick", "--shortest", "64", "--longest", "128", "--commit", "0" * 40]
    monkeypatch.setattr(sys, "argv", [*command, "--json", str(path)])
    scaling.main()
    rows = json.loads(path.read_text())
    found = {(row["case"]["system"], row["case"]["pass"], row["case"]["source"]) for row in rows}
    core = [scaling.PEER, "SRformer, torch", "full attention, eager"]
    expected = {(name, kind, n) for name in core for kind in ("forward", "both") for n in (64, 128)}
    assert found == expected | {(name, "step", n) for name in (scaling.PEER, "SRformer") for n in (64, 128)}
    assert all(row["ours"] > 0 and row["ratio"] > 0 and row["exponent"] is not None for row in rows)
    assert "N = 128" in TABLES["scaling"](rows)


def test_scaling_refuses_what_is_off():
    inputs = Inputs(1, 24, 200, torch.float32, "cpu")
    attend, leaves = attention_core.eager_full(inputs)
    attention_core.check("full attention, eager", inputs, attend, leaves, {})
    with pytest.raises(RuntimeError, match="off by"):
        attention_core.check("full attention, eager", inputs, lambda: 1.2 * attend(), leaves, {})


def test_the_table_of_training_steps_shows_what_was_not_timed():
    results = Results(None, "training_step", HERE)
    case = {"batch": 1, "targets": 2, "source": 3, "precision": "bf16"}
    more = {"peak_mib": 7000, "not_timed": None}
    results.add({**case, "system": "a", "time": "wall"}, "a", 5.0, 5.0, "ms", **more, ranges_ms=None)
    parts = {"optimizer": 1.0, "rest": 3.0}
    results.add({**case, "system": "a", "time": "device"}, "a", 4.0, 4.0, "ms", **more, ranges_ms=parts)
    missing = {"peak_mib": None, "not_timed": "out of memory", "ranges_ms": None}
    results.add({**case, "system": "b", "time": "wall"}, "a", None, 5.0, "ms", **missing)
    table = TABLES["training_step"](results.rows)
    assert "| 1 x 2 x 3 | a | wall | 5.0 | 1.00 | 7,000 | - | - |" in table
    assert "| 1 x 2 x 3 | a | device | 4.0 | 1.00 | 7,000 | 1.0 | 3.0 |" in table
    assert "| 1 x 2 x 3 | b | wall | - | - | out of memory | - | - |" in table


def test_the_summary_shows_losses_too(tmp_path):
    results = Results(tmp_path / "decoding.json", "decoding", HERE)
    for system, speed in (("srformer_bart_base, --fast-generate", 30.0), ("full attention, --fast-generate", 40.0)):
        results.add({"batch": 2, "source": 8, "system": system}, "stock", speed, 10.0, "tokens/s", ratio=speed / 10)
    text = render("<!-- results: summary -->\n<!-- end -->", tmp_path)
    assert "| 30 tokens/s | 10, stock | 3.00 |" in text
    assert "| the same, 2 x 8 | 30 tokens/s | 40, full attention, --fast-generate | 0.75 |" in text


def test_the_summary_compares_steps_of_equal_optimizers_ours_where_it_was_timed(tmp_path):
    def summary(times):
        (tmp_path / "training_step.json").unlink(missing_ok=True)
        results = Results(tmp_path / "training_step.json", "training_step", HERE)
        for system, ms in times.items():
            case = {"batch": 1, "targets": 2, "source": 3, "system": system, "time": "wall"}
            results.add(case, "bart_base", ms, 8.0, "ms/step")
        text = render("<!-- results: summary -->\n<!-- end -->", tmp_path)
        return [line for line in text.splitlines() if "1 x 2 x 3" in line]

    times = {"bart_base": 8.0, "full attention": 7.0}
    times |= {"srformer_bart_base, torch": 6.0, "srformer_bart_base, triton": 4.0}
    assert summary(times) == [
        "| training step, 1 x 2 x 3 (triton) | 4 ms/step | 8, bart_base | 2.00 |",
        "| the same, 1 x 2 x 3 | 4 ms/step | 7, full attention of this package | 1.75 |",
    ]
    times |= {"bart_base, fused_adam": 5.0, "srformer_bart_base, triton, fused_adam": 2.0}
    assert summary(times) == [
        "| training step, 1 x 2 x 3 (triton, fused_adam) | 2 ms/step | 8, bart_base | 4.00 |",
        "| the same, 1 x 2 x 3 | 2 ms/step | 5, bart_base, fused_adam | 2.50 |",
    ]
    recipes_train = "srformer_bart_base, triton, fused_adam, fused loss"
    assert summary(
        times | {recipes_train: 3.2, recipes_train.replace(", fused loss", ", compiled, fused loss"): 1.0}
    ) == [
        "| training step, 1 x 2 x 3 (triton, fused_adam, fused loss) | 3.2 ms/step | 8, bart_base | 2.50 |",
        "| the same, 1 x 2 x 3 | 3.2 ms/step | 5, bart_base, fused_adam | 1.56 |",
    ]


@pytest.mark.parametrize("text", ["4", "4x5x6", "fourx5", "0x5", "x"])
def test_a_wrong_size_is_one_clear_error(text):
    assert sizes("BxN")("4x5") == (4, 5)
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not BxN, such as 16x16"):
        sizes("BxN")(text)


def test_a_picture_whose_numbers_changed_is_noticed_and_drawn_alike(tmp_path):
    path = tmp_path / "scaling.json"
    rows = scaling_rows([1.0, 2.0, 4.0])
    add_exponents(rows)
    path.write_text(json.dumps(rows))
    assert plots.outdated(tmp_path) == ["scaling.png"]
    plots.draw("scaling.png", tmp_path)
    assert plots.outdated(tmp_path) == []
    first = (tmp_path / "scaling.png").read_bytes()
    plots.draw("scaling.png", tmp_path)
    assert (tmp_path / "scaling.png").read_bytes() == first
    rows[0]["ours"] = 3.0
    path.write_text(json.dumps(rows))
    assert plots.outdated(tmp_path) == ["scaling.png"]
