"""Put one deliberate fault after the other into copies of the sources, and name those that no test notices.

The files of tests that are to notice them must pass first, as the sources are. Exits with 1 where a fault survives, or
where its `old` text is not in its file exactly once (the source has changed: bring the entry up to date). The checkout
itself is never written to.
"""

import argparse
import importlib
import os
import pkgutil
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from data_prep.arguments import positive
from tests import mutants

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 300  # seconds; a fault that makes its tests hang is noticed too


def entries() -> list[dict]:
    """All faults of the package's modules, each with the module's `name`."""
    found = []
    for module in pkgutil.iter_modules(mutants.__path__):
        if module.name != "__main__":
            listed = importlib.import_module(f"tests.mutants.{module.name}").MUTANTS
            found += [{"name": module.name, **entry} for entry in listed]
    return found


def copy_of_sources(folder: Path) -> Path:
    """The files that git tracks, as they are in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    return folder


def run_tests(folder: Path, selection: list[str], timeout: float | None, expected=(0, 1)) -> int:
    """pytest's exit status for a selection of tests in a copy of the sources; what it printed, if not `expected`."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *selection]
    packages = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": packages, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
    if done.returncode not in expected:
        tqdm.write(done.stdout[-2000:])
    return done.returncode


def survives(folder: Path, entry: dict) -> str | None:
    """Why a fault is not noticed; None: its tests fail."""
    path = folder / entry["file"]
    if not path.is_file():
        return "its file is gone"
    source = path.read_text(encoding="utf-8")
    if source.count(entry["old"]) != 1:
        return f"its text is in the file {source.count(entry['old'])} times, not once"
    path.write_text(source.replace(entry["old"], entry["new"]), encoding="utf-8")
    try:
        status = run_tests(folder, shlex.split(entry["tests"]), TIMEOUT)
    except subprocess.TimeoutExpired:
        return None
    finally:
        path.write_text(source, encoding="utf-8")
    if status == 1:
        return None
    others = {0: "its tests pass", 2: "its tests cannot be collected", 5: "its selection holds no test"}
    return others.get(status, f"pytest ended with {status}")


def files_of(faults: list[dict]) -> list[str]:
    """The files of the tests that are to notice `faults`."""
    words = (word for entry in faults for word in shlex.split(entry["tests"]))
    return sorted({word.partition("::")[0] for word in words if word.partition("::")[0].endswith(".py")})


def try_all(faults: list[dict], copies: list[Path]):
    """`(entry, why it survives or None)` of all faults as they come, one at a time in each of the copies."""
    free: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def attempt(entry):
        copy = free.get()
        try:
            return entry, survives(copy, entry)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        for done in as_completed([pool.submit(attempt, entry) for entry in faults]):
            yield done.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="WORD", help="faults whose module or file has this in its name")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="at a time (default: one a core)")
    options = parser.parse_args()
    chosen = [x for x in entries() if not options.only or options.only in x["name"] or options.only in x["file"]]
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copies = [copy_of_sources(Path(folder) / str(number)) for number in range(options.jobs)]
        together = ["-n", str(options.jobs), "--dist", "worksteal", *files_of(chosen)]
        print(f"{len(files_of(chosen))} files of tests without a fault", flush=True)
        if chosen and run_tests(copies[0], together, None, expected=(0,)) != 0:
            sys.exit("error: they do not pass: mend that first (make test)")
        for entry, reason in tqdm(try_all(chosen, copies), total=len(chosen), unit="fault"):
            if reason is not None:
                survivors.append((entry, reason))
                tqdm.write(f"survives: {entry['file']}: {entry['old']!r} -> {entry['new']!r}: {reason}")
    print(f"{len(chosen)} faults, {len(chosen) - len(survivors)} noticed, survivors: {len(survivors) or 'none'}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
