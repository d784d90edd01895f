"""`benchmarks.long_document` on tiny sizes."""

import json
import sys
import time

import pytest
import torch

from benchmarks import long_document
from benchmarks.readme_tables import TABLES

CONTENT = {"cross_attention": "segmented", "segment_schedule": "content", "segments_per_query": 2}
CHUNKS = {"encoder_attention": "chunked", "encoder_chunk": 24, "encoder_context": 4}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(long_document, "ARCH", "srformer_bart_tiny")
    monkeypatch.setattr(long_document, "SETTINGS", {**CONTENT, **CHUNKS})
    monkeypatch.setattr(long_document, "SHORT_CHUNKS", {})


def run(monkeypatch, path, *more):
    options = ["--cpu", "--tokens", "5", "--words", "60", "--commit", "0" * 40, "--json", str(path), *more]
    monkeypatch.setattr(sys, "argv", ["long_document", *options])
    long_document.main()
    return json.loads(path.read_text())


def test_a_run_writes_a_row_for_every_length_and_pass(tmp_path, monkeypatch):
    rows = run(monkeypatch, tmp_path / "rows.json", "--lengths", "40", "80")
    found = [(row["case"]["source"], row["case"]["pass"]) for row in rows]
    assert found == [(length, kind) for length in (40, 80) for kind in long_document.PASSES]
    assert all(row["ours"] > 0 and row["exponent"] is not None and row["ratio"] is None for row in rows)
    for whole, encoder, decoder in (rows[:3], rows[3:]):
        assert whole["ours"] == pytest.approx(encoder["ours"] + decoder["ours"])
        assert whole["first_s"] > 0
    shown = TABLES["long_document"](rows)
    assert shown.count("\n| chunked, content, --fast-generate | ") == 4
    assert f"{rows[0]['load']:.1f} | {rows[3]['load']:.1f} |\n" in shown


def test_led_is_beside_its_length(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    small |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    published = long_document.hugging_face
    make = lambda kind, positions, words, window: published(kind, positions, words, window, **small)  # noqa: E731
    monkeypatch.setattr(long_document, "hugging_face", make)
    rows = run(monkeypatch, tmp_path / "rows.json", "--lengths", "40", "80", "--transformers")
    theirs, ours = rows[:3], rows[6:]
    assert {row["case"]["system"] for row in theirs} == {long_document.PEER}
    for row, other in zip(ours, theirs):
        assert row["ratio"] == pytest.approx(other["ours"] / row["ours"], abs=0.001)
    assert f"({ours[0]['ratio']:.2f})" in TABLES["long_document"](rows)


def test_a_model_that_fails_is_a_row_that_says_so(tmp_path, monkeypatch):
    def no_memory(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(long_document, "our_generate", lambda *_: no_memory)
    rows = run(monkeypatch, tmp_path / "rows.json", "--lengths", "40")
    assert [(row["ours"], row["not_timed"]) for row in rows] == [(None, "out of memory")] * 3
    assert "| out of memory |" in TABLES["long_document"](rows)


def test_what_does_not_find_the_stock_generators_hypotheses_is_not_timed(tmp_path, monkeypatch):
    def refuse(task, device, models):
        assert models == [("srformer_bart_tiny", {**CONTENT, **CHUNKS})]
        raise SystemExit("other hypotheses")

    monkeypatch.setattr(long_document.decoding, "check", refuse)
    with pytest.raises(SystemExit, match="other hypotheses"):
        run(monkeypatch, tmp_path / "rows.json")
    assert not (tmp_path / "rows.json").exists()


def test_a_clock_times_every_call_of_a_module():
    class Slow(torch.nn.Module):
        def forward(self):
            time.sleep(0.02)

    module = Slow()
    taken = long_document.Clock("cpu").around(module)
    for _ in range(2):
        module()
    assert len(taken) == 2 and min(taken) >= 0.02


def test_hypotheses_of_another_length_are_not_timed():
    options = type("Options", (), {"tokens": 5, "repeats": 1})
    tokens = torch.randint(4, 60, (1, 40))
    taken = []
    with pytest.raises(RuntimeError, match="4 tokens and not 5"):
        long_document.measure(lambda _: taken.append(1.0) or 4, taken, tokens, options)
