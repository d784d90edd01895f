"""`benchmarks.distributed`: what it takes from a log, what it refuses, its table and picture."""

import json

import pytest

from benchmarks import distributed, plots
from benchmarks.distributed import articles_a_second, largest_difference, parse_log, parse_options, trained_parameters
from benchmarks.readme_tables import TABLES
from benchmarks.rows import Results

HERE = {"device": "a test", "torch": "2", "commit": "0" * 40, "date": "2000-01-01"}
PRINTED = """\
2000-01-01 00:00:00 | INFO | fairseq_cli.train | num. shared model params: 1,159,874 (num. trained: 1,059,874)
2000-01-01 00:00:00 | INFO | fairseq_cli.train | num. expert model params: 0 (num. trained: 0)
2000-01-01 00:00:01 | INFO | train_inner | {"loss": "9.5", "wps": "0", "wpb": "10", "bsz": "4", "gnorm": "0.5"}
2000-01-01 00:00:02 | INFO | train_inner | {"loss": "9.25", "wps": "20", "wpb": "10", "bsz": "4", "gnorm": "0.4"}
2000-01-01 00:00:03 | INFO | train_inner | {"loss": "9.0", "wps": "20", "wpb": "30", "bsz": "4", "gnorm": "0.3"}
2000-01-01 00:00:03 | INFO | train | {"train_loss": "9.25"}
"""


def test_the_numbers_of_every_update_are_found():
    log = parse_log(PRINTED)
    assert [entry["loss"] for entry in log] == [9.5, 9.25, 9.0]
    assert trained_parameters(PRINTED) == 1_059_874
    assert articles_a_second(log, 1) == 8 / (0.5 + 1.5)


@pytest.mark.parametrize("name", ["loss", "gnorm"])
@pytest.mark.parametrize(("precision", "rounding", "too_far"), [("fp32", 0.002, 0.003), ("bf16", 0.003, 0.3)])
def test_processes_that_train_other_models_are_refused(name, precision, rounding, too_far):
    log = parse_log(PRINTED)
    near, far = ([*log[:2], {**log[2], name: log[2][name] + more}] for more in (rounding, too_far))
    assert largest_difference(near, log, precision) == pytest.approx(rounding if name == "loss" else 0)
    with pytest.raises(SystemExit, match=f"update 3: the {name} of the processes is .* do not train one model"):
        largest_difference(far, log, precision)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "2"], "--processes 2, but PyTorch sees 1 GPUs"),
        (["--cpu", "--precision", "bf16"], "--precision bf16 does not go with --cpu"),
        (["--updates", "5", "--warm-up", "5"], "--warm-up 5 must be at least 1 and below the 5 of --updates"),
        (["--batch-size", "0"], "--batch-size 0 must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(SystemExit, match="2"):
        parse_options(["data", *arguments])
    assert message in capsys.readouterr().err


def test_there_are_as_many_processes_as_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert parse_options(["data"]).processes == [1, 2, 4]
    assert parse_options(["data", "--cpu"]).processes == [1, 2, 4, 8]


def test_efficiency_is_what_is_left_of_as_many_times_one_process(tmp_path, monkeypatch):
    """One process makes 4 articles a second, two make 6, and two passes of one 5."""
    seconds = {(1, 1): 1.0, (2, 1): 4 / 3, (1, 2): 8 / 5}

    def train(options, arch, source, processes, passes):
        articles = 4 * processes * passes
        entry = {"loss": 9.0, "gnorm": 1.0, "bsz": articles, "wpb": 100, "wps": 100 / seconds[processes, passes]}
        return {"log": [entry] * options.updates, "parameters": 7}

    reduced = {"all_reduce_ms": 2.5, "all_reduce_mib": 1.0}
    monkeypatch.setattr(distributed, "train", train)
    monkeypatch.setattr(distributed, "torchrun", lambda *_: f"a warning\n{json.dumps(reduced)}\n")
    options = parse_options(["data", "--cpu", "--processes", "1", "2", "--updates", "3"])
    results = Results(tmp_path / "distributed_cpu.json", "distributed", HERE)
    distributed.measure(options, "a", 64, results)
    alone, two = results.rows
    assert (alone["efficiency"], alone["ratio"], alone["all_reduce_ms"]) == (1, 1, None)
    assert (two["ours"], two["theirs"], two["ratio"], two["efficiency"]) == (6, 4, 1.5, 0.75)
    assert two["efficiency_same_articles"] == 0.6
    assert "| a | 64 | 2 | 6.00 | 1.50 | 75.0% | 60.0% | 2.50 | 1.0 | 0.000 | - |" in TABLES["distributed_cpu"](
        results.rows
    )
    plots.draw("distributed.png", tmp_path)
    assert "distributed.png" not in plots.outdated(tmp_path)
