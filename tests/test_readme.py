"""README and docs show what was measured, and nothing in README points into the void."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import plots
from benchmarks.readme_tables import MARKED, ROOT, pages, render
from srformer_plugin.attention.settings import SegmentSettings

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


SHOWN = [(page, name) for page in pages() for _, name, _ in MARKED.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.name)
def test_tables_are_those_of_the_json_files(page):
    text = page.read_text(encoding="utf-8")
    assert render(text, RESULTS) == text


def test_the_measured_comparisons_are_shown():
    assert {path.stem for path in RESULTS.glob("*.json")} - {"training_updates_t5"} <= {name for _, name in SHOWN}


def test_pictures_show_the_json_files():
    assert plots.outdated(RESULTS) == []


JSON_SHOWN = [(page, name) for page, name in SHOWN if name != "summary"]


@pytest.mark.parametrize(("page", "name"), JSON_SHOWN, ids=lambda value: getattr(value, "name", value))
def test_a_changed_number_changes_the_table(page, name, tmp_path):
    for other in RESULTS.glob("*.json"):
        (tmp_path / other.name).write_text(other.read_text())
    rows = json.loads((RESULTS / f"{name}.json").read_text())
    rows[1]["ratio"] = 98765
    (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    assert re.search(r"[|(] ?98,?765\.0+ ?[|)]", render(page.read_text(encoding="utf-8"), tmp_path))


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
    choices = (ROOT / "docs" / "choices.md").read_text(encoding="utf-8")
    assert [name for name in names if f"`--{name.replace('_', '-')}`" not in choices] == []


def test_every_module_that_is_run_exists():
    modules = set(re.findall(r"python -m ([\w.]+)", README))
    assert modules
    assert [m for m in modules if not Path(ROOT, *m.split(".")).with_suffix(".py").exists()] == []
