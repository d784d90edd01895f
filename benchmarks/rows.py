"""What every benchmark does with its rows: say where they come from, and write them beside the script."""

import argparse
import datetime
import os
import platform
import subprocess
from pathlib import Path

import torch

from benchmarks.ratios import ratio
from data_prep.whole import write_json


def this_cpu() -> str:
    """The device of a benchmark without GPU: how many cores of which architecture."""
    return f"{os.cpu_count()} x {platform.machine()}"


def provenance(device: str, commit: str | None = None) -> dict:
    """The fields of a row that say what it was measured on; `commit` where there is no git to ask."""
    if commit is None:
        try:
            done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            raise SystemExit("git does not know the commit here: say it with --commit") from None
        commit = done.stdout.strip()
    return {
        "device": device,
        "torch": torch.__version__,
        "commit": commit,
        "date": datetime.date.today().isoformat(),
    }


def write_rows(rows: list[dict], path: Path | None) -> None:
    """Write rows to a JSON file, whole or not at all; None: nowhere."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, rows, indent=1)


def this_device(cpu: bool = False) -> str:
    """The device's name for `provenance`: the GPU's where there is one (and `cpu` is not asked for)."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() and not cpu else this_cpu()


def add_options(parser: argparse.ArgumentParser, quick: str) -> None:
    """The options that every benchmark has; `quick` says what --quick leaves out."""
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--commit", help="commit to write down where there is no git (40 hexadecimal digits)")
    parser.add_argument("--json", type=Path, help="file to write the results to, anew after every case")


def sizes(names: str):
    """The type of an option like --cases: "16x128" for the names "BxN" is (16, 128)."""

    def parse(text: str) -> tuple[int, ...]:
        try:
            found = tuple(int(part) for part in text.split("x"))
        except ValueError:
            found = ()
        if len(found) != names.count("x") + 1 or min(found) < 1:
            example = "x".join(["16"] * (names.count("x") + 1))
            raise argparse.ArgumentTypeError(f"{text!r} is not {names}, such as {example}")
        return found

    return parse


def attempt(device, function, *arguments):
    """(result, None), or (None, why there is none): a system's failure, a peer's too, must not cost the others."""
    try:
        return function(*arguments), None
    except torch.OutOfMemoryError:
        return None, "out of memory"
    except Exception as error:
        return None, f"{type(error).__name__}: {error}".splitlines()[0][:200]
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()


class Results:
    """The rows of one run. The file is written anew with every row, so that a killed run keeps what it has.

    Args:
        path: of the JSON file; None: nowhere.
        benchmark: its name, in every row.
        measured_on: what `provenance` returned, in every row.
    """

    def __init__(self, path: Path | None, benchmark: str, measured_on: dict):
        self.path, self.benchmark, self.measured_on = path, benchmark, measured_on
        self.rows: list[dict] = []

    def add(self, case: dict, peer: str, ours: float | None, theirs: float | None, unit: str, **more) -> dict:
        """Add and write a row; `ratio` says how many times as fast we are, unless `more` holds it.

        Nothing is rounded: tables do that (benchmarks/tables.py).
        """
        row = {"benchmark": self.benchmark, "case": case, "peer": peer, "ours": ours, "theirs": theirs, "unit": unit}
        row["ratio"] = ratio(row)
        self.rows.append({**row, **more, **self.measured_on})
        self.write()
        return self.rows[-1]

    def write(self) -> None:
        """Write the file anew, after a change of its rows."""
        write_rows(self.rows, self.path)
