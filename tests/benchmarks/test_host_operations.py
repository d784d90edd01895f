"""`benchmarks.host_operations`: counts that hold on any machine, and a model that is as it was afterwards."""

import json
import sys

import pytest
import torch

from benchmarks import host_operations
from benchmarks.host_operations import Operations, as_on_a_gpu, nodes
from benchmarks.readme_tables import ROOT, TABLES
from srformer_plugin.attention import packed


def test_operations_and_launches_of_a_product():
    x = torch.ones(2, 2, requires_grad=True)
    with Operations() as operations:
        y = (x.t() @ x).sum()
    assert operations.counts == {"t": 1, "mm": 1, "sum": 1}
    assert operations.total() == {"operations": 3, "launches": 2, "waits": 0}
    assert nodes(y) == 4  # those of the three, and the one that keeps the gradient


def test_the_way_of_a_gpu_is_taken_within_the_context_alone():
    with as_on_a_gpu({}):
        assert packed.is_fast(torch.device("cpu"), torch.float32, 16)
    assert not packed.is_fast(torch.device("cpu"), torch.float32, 16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled there, not interpreted")
def test_launches_are_not_more_than_the_page_says(monkeypatch, tmp_path):
    path = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["x", "--quick", "--commit", "0" * 40, "--json", str(path)])
    threads = torch.get_num_threads()
    host_operations.main()
    assert torch.get_num_threads() == threads == 1
    rows = json.loads(path.read_text())
    kept = json.loads((ROOT / "benchmarks" / "results" / "host_operations.json").read_text())
    assert [row["case"] for row in rows] == [row["case"] for row in kept]
    if rows[0]["torch"] == kept[0]["torch"]:
        assert all(row["launches"] <= known["launches"] for row, known in zip(rows, kept))
    assert all(row["ours"] > 0 for row in rows)
    assert "| srformer_bart_base, triton | backward |" in TABLES["host_operations"](rows)
