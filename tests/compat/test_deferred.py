"""What fairseq imports and hardly ever uses is imported when it is used."""

import builtins
import subprocess
import sys

import pytest
from conftest import ROOT

from srformer_plugin.compat import deferred as deferred_module
from srformer_plugin.compat.deferred import deferred

SCRIPT = """
import sys
import {first}
import srformer_plugin
print(sorted({{"sklearn", "scipy"}} & set(sys.modules)))
from fairseq.criterions import sentence_prediction
from fairseq.tasks import audio_classification
print(round(float(sentence_prediction.f1_score([1, 0], [1, 1])), 3))
print(round(float(sentence_prediction.pearsonr([1, 2, 3], [1, 2, 4])[0]), 3))
print(audio_classification.sklearn_metrics.accuracy_score([1], [1]))
import scipy.stats
print(scipy.stats.norm().mean())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "imported"), [("srformer_plugin", "[]"), ("fairseq", "['scipy', 'sklearn']")], ids=["ours", "stock"]
)
def test_metrics_of_classifiers_come_with_their_use(first, imported):
    command = [sys.executable, "-c", SCRIPT.format(first=first)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split("\n")[:5] == [imported, "0.667", "0.982", "1.0", "0.0"]


@pytest.mark.parametrize("who", ["fairseq.tasks.audio_classification", "somebody.else"])
def test_only_the_files_that_are_named_get_something_else(who):
    before = builtins.__import__
    code = compile("from json import dumps, JSONDecodeError\nfrom sklearn import metrics", "file", "exec")
    names = {"__name__": who}
    with deferred():
        exec(code, names)
    assert builtins.__import__ is before
    assert names["dumps"]([1]) == "[1]"
    assert (type(names["metrics"]).__name__ == "_Later") == (who != "somebody.else")
    assert names["metrics"].accuracy_score([1], [1]) == 1


def test_a_package_that_is_missing_is_an_error_at_once(monkeypatch):
    monkeypatch.setattr(deferred_module, "WHAT", ("no_such_package",))
    with deferred(), pytest.raises(ModuleNotFoundError, match="no_such_package"):
        exec("from no_such_package.stats import pearsonr", {"__name__": "fairseq.criterions.sentence_prediction"})


def test_an_error_leaves_imports_as_they_were():
    before = builtins.__import__
    with pytest.raises(ZeroDivisionError), deferred():
        raise ZeroDivisionError
    assert builtins.__import__ is before
