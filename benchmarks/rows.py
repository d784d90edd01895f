"""What every benchmark does with its rows: say where they come from, and write them beside the script."""

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path

import torch


def this_cpu() -> str:
    """The device of a benchmark without GPU: how many cores of which architecture."""
    return f"{os.cpu_count()} x {platform.machine()}"


def provenance(device: str, commit: str | None = None) -> dict:
    """The fields of a row that say what it was measured on; `commit` where there is no git to ask."""
    if commit is None:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
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
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(rows, indent=1) + "\n")
    partial.replace(path)
