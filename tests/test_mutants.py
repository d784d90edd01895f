"""The deliberate faults of `make mutants` can still be put in: their texts follow the sources."""

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
