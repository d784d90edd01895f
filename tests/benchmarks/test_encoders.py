"""`benchmarks.encoders` times nothing that computes something else, on tiny sizes."""

import json
import sys

import pytest
import torch

from benchmarks import encoders
from benchmarks.readme_tables import TABLES


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    width = {"embed_dim": 16, "attention_heads": 2, "ffn_embed_dim": 16}
    sizes = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in width.items()}
    chunks = {"encoder_positions": 12, "encoder_chunk": 8, "encoder_context": 2}
    windows = {"encoder_window": 3, "encoder_global_tokens": 1}
    for name, value in {
        "SIZES": {"cpu": {"encoder_layers": 1, **sizes}},
        "SETTINGS": {"full": {}, "chunked": chunks, "window": windows},
        "POSITIONS": 12,
        "CHUNK": 8,
        "CONTEXT": 2,
        "CHECKED": 27,
        "WORDS": 30,
        "LENGTHS": {"cpu": (12, 24)},
    }.items():
        monkeypatch.setattr(encoders, name, value)


@pytest.mark.parametrize("name", ["full", "chunked", "window"])
def test_what_computes_something_else_is_not_timed(name):
    found = encoders.encoders("cpu", 27)
    assert encoders.check(name, found, found[name], "cpu") < 1e-5
    wrong = encoders.encoders("cpu", 27)[name]
    with torch.no_grad():
        wrong.layers[0].final_layer_norm.weight *= 1.01
    with pytest.raises(SystemExit, match=f"{name} misses the float64 result"):
        encoders.check(name, found, wrong, "cpu")


def test_one_encoder_is_not_taken_for_another():
    found = encoders.encoders("cpu", 27)
    with pytest.raises(SystemExit, match="window misses"):
        encoders.check("window", found, found["chunked"], "cpu")


def test_a_run_writes_rows_with_exponents_that_the_table_shows(tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    options = ["--cpu", "--longest", "24", "--commit", "0" * 40, "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["encoders", *options])
    encoders.main()
    rows = json.loads(path.read_text())
    assert [(row["case"]["system"], row["case"]["source"]) for row in rows[::2]] == [
        (name, length) for length in (12, 24) for name in ("full", "chunked", "window")
    ]
    assert all(row["exponent"] is not None and row["ratio"] > 0 for row in rows)
    assert TABLES["encoders"](rows).count("\n| ") == 6
