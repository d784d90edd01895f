"""What test files of several folders call."""

import os
import socket

import torch
from conftest import USER_DIR
from torch._dynamo.utils import counters

from srformer_plugin.models import compiled


def train_arguments(corpus, save_dir, *more):
    """fairseq-train's arguments for the tiny SRformer-BART on a `conftest.Corpus`.

    What `more` says comes last, and so it wins: another --arch, --task, --lr, ...
    """
    return [
        str(corpus.binarised), "--user-dir", str(USER_DIR), "--task", "translation", "--arch", "srformer_bart_tiny",
        "--source-lang", "source", "--target-lang", "target", "--share-all-embeddings",
        "--criterion", "cross_entropy", "--optimizer", "adam", "--lr", "1e-3", "--batch-size", "8",
        "--save-dir", str(save_dir), "--no-epoch-checkpoints", "--log-format", "simple", "--log-interval", "1",
        "--num-workers", "0", "--cpu", *map(str, more),
    ]  # fmt: skip


def pythonpath(*folders):
    """A PYTHONPATH of `folders` and, behind them, those of this process, which may hold the packages."""
    return os.pathsep.join(filter(None, [*map(str, folders), os.environ.get("PYTHONPATH")]))


def free_port():
    """A TCP port of this host that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def trace_without_a_compiler(monkeypatch, backend):
    """Let --compile trace with Dynamo and hand the graphs to `backend`; nothing is compiled or counted yet."""
    monkeypatch.setattr(compiled, "BACKEND", backend)
    monkeypatch.setattr(compiled, "missing_compiler", lambda cpu: None)
    torch._dynamo.reset()
    counters.clear()
