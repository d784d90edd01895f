"""The deliberate faults of `make mutants` can still be put in: their texts follow the sources."""

import time
from pathlib import Path

import pytest

from tests.mutants import __main__ as runner
from tests.mutants.__main__ import ROOT, entries


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry['name']}: {entry['old'][:40]}")
def test_a_faults_place_is_there_once(entry):
    assert (ROOT / entry["file"]).read_text(encoding="utf-8").count(entry["old"]) == 1
    assert entry["new"] != entry["old"]
    tests = [word for word in entry["tests"].split() if word.endswith(".py")]
    assert tests and all(Path(ROOT, name).exists() for name in tests)


@pytest.mark.parametrize("status", pytest.ExitCode)
def test_only_tests_that_fail_have_noticed_a_fault(monkeypatch, tmp_path, status):
    """A fault that cannot even be imported is one of the list, which every test would notice."""
    (tmp_path / "two.py").write_text("two = 2\n", encoding="utf-8")
    monkeypatch.setattr(runner, "run_tests", lambda *arguments: int(status))
    entry = {"file": "two.py", "old": "two = 2", "new": "two = 3", "tests": "test_two.py"}
    assert (runner.survives(tmp_path, entry) is None) == (status is pytest.ExitCode.TESTS_FAILED)


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_fault_is_tried_alone_in_its_copy(monkeypatch, tmp_path, jobs):
    """A copy that two faults were in at once would say of one what the other does."""
    copies = [tmp_path / str(number) for number in range(jobs)]
    for copy in copies:
        copy.mkdir()
        (copy / "sum.py").write_text("a = 1\nb = 2\nc = 3\nd = 4\n", encoding="utf-8")

    def run_tests(folder, selection, timeout):
        found = (folder / "sum.py").read_text(encoding="utf-8")
        time.sleep(0.01)
        assert found == (folder / "sum.py").read_text(encoding="utf-8") and found.count("0") == 1
        return int(f"{selection[0]} = 0" in found and selection[0] != "c")

    monkeypatch.setattr(runner, "run_tests", run_tests)
    faults = [{"file": "sum.py", "old": f"{x} = {n}", "new": f"{x} = 0", "tests": x} for n, x in enumerate("abcd", 1)]
    found = {entry["tests"]: reason for entry, reason in runner.try_all(faults, copies)}
    assert found == {"a": None, "b": None, "c": "its tests pass", "d": None}


def test_files_of_tests_are_named_once():
    faults = [{"tests": "tests/a.py -k one"}, {"tests": "tests/a.py::test tests/b.py"}]
    assert runner.files_of(faults) == ["tests/a.py", "tests/b.py"]
