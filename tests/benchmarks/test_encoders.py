"""`benchmarks.encoders` times nothing that computes something else, on tiny sizes."""

import json
import math
import sys

import pytest
import torch

from benchmarks import encoder_peers, encoders
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


def run_with_peers(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    path = tmp_path / "rows.json"
    options = ["--cpu", "--longest", "24", "--transformers", "--quick", "--commit", "0" * 40, "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["encoders", *options])
    encoders.main()
    return json.loads(path.read_text())


def test_peers_of_transformers_are_beside_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "_peak", lambda *_: 3.0)
    rows = run_with_peers(tmp_path, monkeypatch)
    systems = ["full", "chunked", "window", encoder_peers.LED, encoder_peers.LONGT5]
    assert [row["case"]["system"] for row in rows] == [name for _ in (12, 24) for name in systems for _ in range(2)]
    led = {
        (row["case"]["source"], row["case"]["pass"]): row["ours"] for row in rows if row["case"]["system"] == systems[3]
    }
    for row in rows:
        expected = led[row["case"]["source"], row["case"]["pass"]] / row["ours"]
        assert math.isclose(row["ratio_led"], expected, abs_tol=0.006) and row["mib_led"] == 1
    table = TABLES["encoders"](rows)
    assert table.count("LED's time / its") == table.count("MiB (LED's / its) | | 3 (1.00) | 3 (1.00) |") == 10


def test_a_peer_that_runs_out_of_memory_costs_the_others_nothing(tmp_path, monkeypatch):
    def forward(self, tokens):
        if self.with_global and tokens.size(1) > 12:
            raise torch.OutOfMemoryError
        return {"encoder_out": [self.encoder(input_ids=tokens).last_hidden_state.transpose(0, 1)]}

    monkeypatch.setattr(encoder_peers.LikeFairseq, "forward", forward)
    rows = run_with_peers(tmp_path, monkeypatch)
    failed = [(row["case"]["system"], row["case"]["source"]) for row in rows if row["ours"] is None]
    assert failed == [(encoder_peers.LED, 24)] * 2
    assert {row["not_timed"] for row in rows} == {None, "out of memory"}
    assert all((row["ratio_led"] is None) == (row["case"]["source"] == 24) for row in rows)
    assert TABLES["encoders"](rows).count("| out of memory |") == 2


def test_peers_have_the_sizes_of_ours():
    """As many weights in products, but for LED's second projections and LongT5's relative positions."""
    pytest.importorskip("transformers")
    full = encoders.encoders("cpu", 27)["full"]
    products = [sum(p.numel() for p in full.layers.parameters() if p.dim() == 2)]
    found = encoder_peers.peers(27, 30, *encoders.layer_sizes(full))
    for peer in found.values():
        weights = {name: p for name, p in peer.named_parameters() if p.dim() == 2 and "embed" not in name}
        weights = {name: p for name, p in weights.items() if "_global" not in name and "relative" not in name}
        products.append(sum(p.numel() for name, p in weights.items() if "shared" not in name))
    assert len(set(products)) == 1
