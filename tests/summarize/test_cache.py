"""Converted Hugging Face folders are kept, whole or not at all."""

import json
import os
import shutil
import threading

import pytest

from srformer_plugin import summarize
from srformer_plugin.errors import ConfigurationError
from srformer_plugin.summarize import cache, cli


@pytest.fixture
def folder(bart, tmp_path):
    """A copy of the small BART that a test may change."""
    return shutil.copytree(bart[0], tmp_path / "hf [1]*")  # the name is no pattern


@pytest.fixture
def conversions(monkeypatch):
    """The conversions that were begun."""
    done = []
    convert = cache.hf_to_fairseq
    monkeypatch.setattr(cache, "hf_to_fairseq", lambda *args, **how: (done.append(args), convert(*args, **how)))
    return done


def test_a_folder_is_converted_once_and_again_when_it_changes(folder, conversions, tmp_path):
    said = []
    first = cache.converted(folder, tmp_path / "cache", said.append)
    assert cache.converted(folder, tmp_path / "cache", said.append) == first
    assert len(conversions) == len(said) == 1
    assert (first / "model.pt").is_file() and first.parent == tmp_path / "cache"

    weights = folder / "model.safetensors"
    os.utime(weights, ns=(0, 0))
    second = cache.converted(folder, tmp_path / "cache")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dropout": 0.3}))
    third = cache.converted(folder, tmp_path / "cache")
    assert len({first, second, third}) == len(conversions) == 3


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.default_folder() == tmp_path / "srformer"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.default_folder() == tmp_path / "home" / ".cache" / "srformer"


def test_without_a_home_a_model_that_is_kept_nowhere_can_be_used(folder, converted_bart, tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")  # of a user without a name, where HOME is not set

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cache.Path, "home", no_home)
    summarize.load(converted_bart)
    summarize.load(folder, cache_dir=tmp_path / "cache")
    with pytest.raises(ConfigurationError, match="no home folder.*: set HOME, or name a folder with --cache-dir"):
        summarize.load(folder)
    assert "--cache-dir DIR" in cli.parser().format_help()


def test_two_at_once_convert_once(folder, conversions, tmp_path):
    found, start = [], threading.Barrier(2)

    def use():
        start.wait()
        found.append(cache.converted(folder, tmp_path / "cache"))

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2  # no thread ended in an error
    assert len(set(found)) == len(conversions) == 1


def test_a_conversion_that_fails_leaves_nothing_and_one_that_was_killed_is_cleared(folder, tmp_path):
    entry = tmp_path / "cache" / f"{folder.name}-{cache.key_of(folder)}"
    killed = tmp_path / "cache" / f".{entry.name}.12345678.partial"
    killed.mkdir(parents=True)
    (folder / "vocab.json").rename(folder / "away.json")
    with pytest.raises(ConfigurationError):
        cache.converted(folder, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir() and path != killed]
    (folder / "away.json").rename(folder / "vocab.json")
    assert cache.converted(folder, tmp_path / "cache") == entry
    assert not killed.exists()


def test_a_cache_that_cannot_be_written_is_named(folder, tmp_path, full_disk):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"hf .* cannot be converted, .*file: File exists: --cache-dir"):
        cache.converted(folder, tmp_path / "file")
    with full_disk(60_000), pytest.raises(ConfigurationError, match="cannot be converted, .*File too large: --cache"):
        cache.converted(folder, tmp_path / "cache")
