"""`benchmarks.decoding` times nothing that finds other hypotheses, on tiny sizes."""

import json
import sys

import pytest
from fairseq.sequence_generator import SequenceGenerator

from benchmarks import decoding, random_models
from benchmarks.ratios import add_ratio_to_full
from benchmarks.readme_tables import TABLES
from srformer_plugin.generation import FastSequenceGenerator

CONTENT = {"cross_attention": "segmented", "segment_schedule": "content", "segments_per_query": 2}
TINY = {
    "bart_base, stock generator": ("srformer_bart_tiny", {"cross_attention": "full"}, SequenceGenerator),
    "full attention, --fast-generate": ("srformer_bart_tiny", {"cross_attention": "full"}, FastSequenceGenerator),
    "content, --fast-generate": ("srformer_bart_tiny", CONTENT, FastSequenceGenerator),
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(decoding, "SYSTEMS", TINY)
    monkeypatch.setattr(decoding, "StubTask", lambda: random_models.StubTask(60))


def test_a_run_writes_rows_beside_full_attention_with_the_same_generator(tmp_path, monkeypatch, capsys):
    path = tmp_path / "rows.json"
    options = ["--device", "cpu", "--cases", "2x40", "--tokens", "5", "--quick", "--commit", "0" * 40]
    monkeypatch.setattr(sys, "argv", ["decoding", *options, "--json", str(path)])
    decoding.main()
    assert "checked" in capsys.readouterr().out
    rows = json.loads(path.read_text())
    stock, full, content = rows
    assert [row["case"]["system"] for row in rows] == list(TINY)
    assert (stock["ratio_full"], full["ratio_full"]) == (1, 1)
    assert content["ratio_full"] == pytest.approx(content["ours"] / full["ours"], abs=0.006)
    assert content["ratio"] == pytest.approx(content["ours"] / stock["ours"], abs=0.006)
    assert f"| {content['ratio_full']:.2f} | - |" in TABLES["decoding_content"](rows)


def test_a_generator_that_finds_something_else_is_refused(monkeypatch):
    class Hasty(FastSequenceGenerator):
        def __init__(self, models, dictionary, **options):
            super().__init__(models, dictionary, **{**options, "max_len_b": 6})

    monkeypatch.setattr(decoding, "FastSequenceGenerator", Hasty)
    with pytest.raises(SystemExit, match="other hypotheses .srformer_bart_tiny, .*content.*, beam 1"):
        decoding.check(random_models.StubTask(60), "cpu", [("srformer_bart_tiny", CONTENT)])


def test_a_system_is_compared_with_none_but_that_of_its_case_and_generator():
    def row(source, system, speed):
        return {"case": {"source": source, "system": system}, "ours": speed, "unit": "tokens/s"}

    full, content = "full attention, --fast-generate", "content, --fast-generate"
    rows = [row(8, content, 30.0), row(8, full, 20.0), row(16, content, 30.0), row(8, "LED, generate", 1.0)]
    assert [found["ratio_full"] for found in add_ratio_to_full(rows)] == [1.5, 1.0, None, None]
