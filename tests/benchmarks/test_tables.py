"""README and docs show what was measured."""

import json
import re

import pytest

from benchmarks import plots
from benchmarks.ratios import MORE_IS_BETTER
from benchmarks.readme_tables import MARKED, OF_ALL, ROOT, TABLES, pages, render
from benchmarks.rows import Results

RESULTS = ROOT / "benchmarks" / "results"
SHOWN = [(page, name) for page in pages() for _, name, _ in MARKED.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.name)
def test_tables_are_those_of_the_json_files(page):
    text = page.read_text(encoding="utf-8")
    assert render(text, RESULTS) == text


def test_the_measured_comparisons_are_shown():
    assert {path.stem for path in RESULTS.glob("*.json")} <= {name for _, name in SHOWN}


def test_make_measures_again_what_the_pages_show():
    written = "\n".join(re.findall(r"call MEASURE,(?:\w+,)?(\w+)\)", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert {path.stem for path in RESULTS.glob("*.json")} <= set(written.split())


def test_pictures_show_the_json_files():
    assert plots.outdated(RESULTS) == []


JSON_SHOWN = [(page, name) for page, name in SHOWN if name not in OF_ALL and (RESULTS / f"{name}.json").exists()]


@pytest.mark.parametrize(("page", "name"), JSON_SHOWN, ids=lambda value: getattr(value, "name", value))
def test_a_changed_number_changes_the_table(page, name, tmp_path):
    for other in RESULTS.glob("*.json"):
        (tmp_path / other.name).write_text(other.read_text())
    rows = json.loads((RESULTS / f"{name}.json").read_text())
    upright = rows[1]["unit"] in MORE_IS_BETTER or name.startswith("training_profile")  # how much longer than the peer
    rows[1]["ours"], rows[1]["theirs"] = (98765, 1) if upright else (1, 98765)
    (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    assert re.search(r"[|(] ?98,?765\.0+ ?[|)]", render(page.read_text(encoding="utf-8"), tmp_path))


def test_a_ratio_is_rounded_once():
    row = {"case": {"pairs": 9, "workers": 1}, "ours": 10.0, "theirs": 13.496, "unit": "s", "ratio": 1.35}
    table = TABLES["rouge_scoring"]([{**row, "device": "CPU", "date": "today", "commit": "0" * 40}])
    assert "| 1 | 10.0 | 13.5 | 1.3 |" in table


@pytest.mark.parametrize(("unit", "expected"), [("ms", 4.0), ("tokens/s", 0.25), ("articles/s", 0.25)])
def test_a_row_says_how_many_times_as_fast_it_is_to_the_last_digit(unit, expected):
    results = Results(None, "speed", {})
    assert results.add({}, "peer", 3.0, 12.0, unit)["ratio"] == expected
    assert results.add({}, "peer", 3.0, 1.0, "ms")["ratio"] == 1 / 3
    assert results.add({}, "peer", None, 1.0, "ms")["ratio"] is None


def test_what_was_not_measured_says_so(tmp_path):
    text = "<!-- results: scaling -->\n| old |\n<!-- end -->"
    assert render(text, tmp_path) == "<!-- results: scaling -->\nNot measured yet.\n<!-- end -->"


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
