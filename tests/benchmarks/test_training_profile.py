"""`benchmarks.training_profile`: an update's segments are the whole of it, and are what they are called."""

import json
import statistics
import sys
import time

import pytest
import torch

from benchmarks import profiled_training, training_profile
from benchmarks.profiled_training import SEGMENTS, Timeline
from benchmarks.readme_tables import TABLES

QUICK = ["--cpu", "--cases", "2x64", "--updates", "3", "--warm-up", "1", "--num-workers", "0"]


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["training_profile", *map(str, arguments)])
    training_profile.main()


@pytest.mark.parametrize(
    "more",
    [[], pytest.param(["--processes", "2", "--ddp-backends", "legacy_ddp"], marks=pytest.mark.slow)],
    ids=["1", "2"],
)
def test_a_training_is_cut_into_its_segments(tiny_corpus, tmp_path, monkeypatch, more):
    path = tmp_path / "rows.json"
    run(monkeypatch, tiny_corpus.binarised, *QUICK, *more, "--json", path)
    (row,) = json.loads(path.read_text())
    parts, several = row["segments_ms"], bool(more)
    assert list(parts) == SEGMENTS
    used = {name for name, milliseconds in parts.items() if milliseconds > 0}
    assert {"forward", "backward", "optimizer", "clipping", "logging", "to the device"} <= used
    assert ("all-reduce" in used) == ("statistics of all processes" in used) == several
    assert sum(parts.values()) == pytest.approx(row["ours"], rel=0.5)  # medians of three
    assert 0 < row["theirs"] < row["ours"] * 1.5
    assert row["updates"] == 3 and row["numbers_read"] > 0
    assert "| 2 x 64 |" in TABLES["training_profile"]([row])


def test_segments_are_consecutive(monkeypatch):
    """The clock moves by 1 s a call: an update has as many segments' seconds as borders."""
    clock = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    timeline = Timeline(warm_up=1, updates=2)
    for _ in range(3):
        timeline.next_update()
        timeline.enter("other")
        with timeline.segment("gradients' copies"), timeline.segment("all-reduce"):
            pass
        with timeline.segment("clipping", profiled_training.CHECKS):
            pass
        with timeline.segment("optimizer", "other"):
            pass
    timeline.number += 1
    timeline.enter("data")
    host = timeline.report()["host"]
    assert host["update"] == sum(host[name] for name in SEGMENTS) == 10000
    seconds = {name: host[name] / 1000 for name in SEGMENTS if host[name]}
    assert seconds == {
        "data": 1, "gradients' copies": 2, "all-reduce": 1, "clipping": 1, profiled_training.CHECKS: 1, "optimizer": 1,
        "other": 3,
    }  # fmt: skip


def test_what_is_missing_in_an_update_counts_as_nothing():
    updates = {1: {"data": 1.0, "forward": 5.0}, 2: {"forward": 7.0}, 3: {"forward": 9.0}}
    medians = profiled_training._medians(updates)
    assert (medians["update"], medians["data"], medians["forward"]) == (7.0, 0.0, 7.0)
    assert medians["backward"] == statistics.median([0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say --cpu"),
        (["--cpu", "--updates", "0"], "--updates 0 must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        training_profile.parse_options(["data", *arguments])
    assert message in capsys.readouterr().err


def test_a_training_that_fails_says_why_and_does_not_cost_the_others(tmp_path, monkeypatch):
    train, path = training_profile.train, tmp_path / "rows.json"
    report = {"host": {"update": 2.0, "data": 1.0}, "device": None, "bare": 1.0, "busy": None, "nccl": None}
    report |= {"numbers_read": 3.0, "synchronisations": None, "where": {}}
    found = {2: report, 4: None}
    monkeypatch.setattr(training_profile, "train", lambda o, s, case, b: found[case[0]] or train(o, s, case, b))
    with pytest.raises(SystemExit, match="(?s)failed:.*nowhere"):
        run(monkeypatch, tmp_path / "nowhere", *QUICK, "--cases", "4x64", "2x64", "--json", path)
    assert [row["ratio"] for row in json.loads(path.read_text())] == [2.0]
