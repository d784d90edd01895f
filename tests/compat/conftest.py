"""A tiny stock BART, trained."""

import argparse

import pytest
from conftest import USER_DIR
from fairseq_cli import train
from fairseq_here import here
from stock_bart import train_arguments

import srformer_plugin  # noqa: F401 (applies the mends)


@pytest.fixture
def train_here(tiny_corpus, tmp_path, train_in_process):
    """:func:`train_in_process` with the arguments of :func:`train_arguments` and more."""
    return lambda *more: train_in_process(*train_arguments(tiny_corpus, tmp_path, *more))


@pytest.fixture(scope="session")
def trained(tiny_corpus, tmp_path_factory):
    """A stock BART trained by fairseq-train with ``--user-dir`` and validated on splits of 9 and 5: checkpoint, log."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = train_arguments(tiny_corpus, folder, "--valid-subset", "valid,test1", "--eval-bleu")
    arguments += ["--eval-bleu-args", '{"max_len_b": 5}', "--user-dir", str(USER_DIR)]
    log = here(train, *arguments)
    return argparse.Namespace(checkpoint=folder / "checkpoint_last.pt", log=log)
