"""README shows what was measured, and nothing in it points into the void."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.readme_tables import ROOT, render
from srformer_plugin.attention.settings import SegmentSettings

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


def test_tables_are_those_of_the_json_files():
    assert render(README, RESULTS) == README


def test_a_changed_number_changes_the_table(tmp_path):
    rows = json.loads((RESULTS / "training_updates.json").read_text())
    rows[1]["ours"] = 12345
    (tmp_path / "training_updates.json").write_text(json.dumps(rows))
    assert "| 12345 |" in render(README, tmp_path)


def test_an_unknown_table_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="no table 'speed'"):
        render("<!-- results: speed -->\n<!-- end -->", tmp_path)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda p: p.stem)
def test_results_say_what_they_measured(path):
    fields = {"benchmark", "case", "peer", "ours", "theirs", "unit", "ratio", "device", "torch", "commit"}
    for row in json.loads(path.read_text()):
        assert fields <= row.keys()
        assert isinstance(row["case"], dict)
        assert re.fullmatch(r"[0-9a-f]{40}", row["commit"])


def test_every_file_that_is_named_exists():
    names = re.findall(r"`([\w/.]+\.(?:py|sh|md|txt))`|\]\(([\w/.]+)\)", README)
    names = [a or b for a, b in names if not (a or b).endswith("dict.txt")]
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_every_flag_of_the_attention_is_documented():
    names = [name for name in SegmentSettings.__dataclass_fields__ if not name.startswith("_")]
    assert [name for name in names if f"`--{name.replace('_', '-')}`" not in README] == []


def test_every_module_that_is_run_exists():
    modules = set(re.findall(r"python -m ([\w.]+)", README))
    assert modules
    assert [m for m in modules if not Path(ROOT, *m.split(".")).with_suffix(".py").exists()] == []
