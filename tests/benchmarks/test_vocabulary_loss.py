"""`benchmarks.vocabulary_loss`: it times nothing that has another loss or other gradients, and counts memory."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks import vocabulary_loss
from benchmarks.readme_tables import ROOT, TABLES

CASE = (40, 8, 60)


def run(monkeypatch, path, *more):
    command = ["vocabulary_loss", "--cases", "40x8x60", "--quick", "--commit", "0" * 40, "--json", str(path), *more]
    monkeypatch.setattr(sys, "argv", command)
    vocabulary_loss.main()
    return json.loads(path.read_text())


def test_every_system_is_timed_beside_fairseqs(monkeypatch, tmp_path):
    rows = run(monkeypatch, tmp_path / "rows.json", "--precisions", "fp32", "bf16")
    assert [row["case"]["precision"] for row in rows[:: len(rows) // 2]] == ["fp32", "bf16"]
    assert {"fairseq", "fused"} <= {row["case"]["system"] for row in rows}
    assert all(row["not_timed"] is None and row["ours"] > 0 and row["ratio"] > 0 for row in rows)
    assert all(row["ratio"] == 1 for row in rows if row["case"]["system"] == "fairseq")
    text = TABLES["vocabulary_loss"](rows)
    assert "| 40 x 8 x 60 | fp32 | fused |" in text


@pytest.mark.parametrize("wrong", [
    lambda h, w, t: vocabulary_loss.ours(h, w, t) + 1,
    lambda h, w, t: vocabulary_loss.ours(h, w.detach(), t) + 0 * w.sum(),
    lambda h, w, t: vocabulary_loss.ours(h.detach(), w, t) + 0 * h.sum(),
])  # fmt: skip
def test_what_is_not_fairseqs_loss_is_not_timed(monkeypatch, tmp_path, wrong):
    monkeypatch.setitem(vocabulary_loss.SYSTEMS, "fused", wrong)
    rows = run(monkeypatch, tmp_path / "rows.json", "--precisions", "fp32")
    (row,) = (row for row in rows if row["case"]["system"] == "fused")
    assert row["ours"] is None and row["not_timed"].startswith("RuntimeError: its ")
    assert "away from fairseq's" in TABLES["vocabulary_loss"](rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts the memory of the CPU")
def test_the_peak_is_what_was_there_at_most():
    """In a process of its own: in one that frees other memory meanwhile the sizes say nothing."""
    code = """
import torch
from benchmarks.vocabulary_loss import Peak
peak = Peak("cpu")
x = torch.ones(2**24)  # 64 MiB
del x
print(peak.mib(), Peak("cpu").mib())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    most, afterwards = map(int, done.stdout.split())
    assert 60 < most < 80 and afterwards < 10
