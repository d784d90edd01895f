"""The package works from a clone, installed, and with both at hand."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from helpers import pythonpath

import srformer_plugin
from requirements import check_python

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ["setup.py", "pyproject.toml", "srformer_plugin", "data_prep"]


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder with the installed distribution, built without touching the clone."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--disable-pip-version-check", "--quiet", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def modules(folder):
    return {path.relative_to(folder) for kind in ("*.py", "*.html") for path in folder.rglob(kind)}


def test_every_module_is_installed(installed):
    for package in ("srformer_plugin", "data_prep"):
        assert modules(installed / package) == modules(ROOT / package)
    assert not (installed / "tests").exists()


def test_the_version_is_written_once(installed):
    (metadata,) = installed.glob("srformer_plugin-*.dist-info/METADATA")
    assert f"\nVersion: {srformer_plugin.__version__}\n" in metadata.read_text(encoding="utf-8")


USER_DIR_CHECK = """
import argparse, sys
from fairseq import utils
from fairseq.data import data_utils
utils.import_user_module(argparse.Namespace(user_dir=sys.argv[1]))
from fairseq.models import ARCH_MODEL_REGISTRY
import srformer_plugin
assert data_utils.batch_by_size.srformer_original
print("srformer_bart" in ARCH_MODEL_REGISTRY, srformer_plugin.__file__)
"""


@pytest.mark.parametrize("on_path", ["nothing", "the other one"])
@pytest.mark.parametrize("user_dir", ["clone", "installed"])
def test_user_dir_takes_the_copy_it_names(user_dir, on_path, installed, tmp_path):
    copies = {"clone": ROOT, "installed": installed}
    chosen = copies.pop(user_dir)
    given = [*copies.values()] if on_path == "the other one" else []
    packages = [folder for folder in pythonpath().split(os.pathsep) if not Path(folder, "srformer_plugin").exists()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, given + packages))}
    done = subprocess.run(
        [warm.programs() / "python", "-c", USER_DIR_CHECK, str(chosen / "srformer_plugin")],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["True", str(chosen / "srformer_plugin" / "__init__.py")]


def test_a_relative_user_dir_works_from_the_clone():
    done = subprocess.run(
        [sys.executable, "-c", USER_DIR_CHECK, "srformer_plugin"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def requirement(name, text):
    return re.search(rf"^\s*['\"]?{name}==([\w.]+)", text, re.MULTILINE).group(1)


def test_the_hashed_fairseq_is_the_one_that_setup_asks_for():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    hashed = (ROOT / "requirements" / "fairseq.txt").read_text(encoding="utf-8")
    assert requirement("ve-fairseq", setup) == requirement("ve-fairseq", hashed)
    assert hashed.count("--hash=sha256:") == len(check_python.SUPPORTED)


@pytest.mark.parametrize("version", [(3, 9), (3, 10), (3, 13)])
def test_an_unsupported_python_is_named_with_a_remedy(version):
    message = check_python.problem(version, has_venv=True)
    assert ".".join(map(str, version)) in message
    assert "PYTHON=python3.11" in message


def test_a_python_without_venv_is_told_what_to_install():
    assert "python3-venv" in check_python.problem((3, 11), has_venv=False)
    assert check_python.problem((3, 11), has_venv=True) is None


def test_a_system_without_fairseq_wheels_is_named():
    assert "Darwin on arm64" in check_python.problem((3, 11), True, "Darwin", "arm64")


def test_the_makefile_lists_its_targets():
    listed = subprocess.run(["make", "help"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets
    assert all(f"make {target}" in listed for target in targets)


WAIT_CHECK = """
import os, sys

class Watch:
    def find_spec(self, name, *others):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))

sys.meta_path.insert(0, Watch())
import srformer_plugin
print(os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.mark.parametrize("own", [None, "ACTIVE"])
def test_threads_that_wait_leave_the_core_to_others_unless_told_otherwise(own):
    """OpenMP reads it once, when PyTorch loads it; what is started later finds the environment as it was."""
    others = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment = others if own is None else {**others, "OMP_WAIT_POLICY": own}
    command = [sys.executable, "-W", "ignore", "-c", WAIT_CHECK]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.stdout == f"{own or 'PASSIVE'}\n{own}\n", done.stderr
