"""The deliberate faults of `make mutants` can still be put in: their texts follow the sources."""

from pathlib import Path

import pytest

from tests.mutants.__main__ import ROOT, entries


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry['name']}: {entry['old'][:40]}")
def test_a_faults_place_is_there_once(entry):
    assert (ROOT / entry["file"]).read_text(encoding="utf-8").count(entry["old"]) == 1
    assert entry["new"] != entry["old"]
    tests = [word for word in entry["tests"].split() if word.endswith(".py")]
    assert tests and all(Path(ROOT, name).exists() for name in tests)
