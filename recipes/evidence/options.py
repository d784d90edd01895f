"""The command line of recipes/compare.sh: what it says, where a plan is carried out, and the words that do it again."""

import argparse
import os
from pathlib import Path

from data_prep.arguments import file, positive
from recipes.evidence.device import FREE_GB, SHARE
from recipes.evidence.work import Place


def parser(description=None):
    """The command line."""
    options = argparse.ArgumentParser(
        prog="recipes/compare.sh", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--raw", type=Path, required=True, help="folder with the raw files")
    options.add_argument("--plan", type=file, required=True, help="what to run, a TOML file")
    options.add_argument("--out", type=Path, help="folder to write (default: experiments/ and the plan's name)")
    options.add_argument("--init", type=file, help="a fairseq checkpoint to start from, in place of the plan's start")
    options.add_argument(
        "--at-once", type=positive, default=1, metavar="N", help="runs at once on the device (default: 1)"
    )
    options.add_argument(
        "--gpus",
        type=positive,
        default=1,
        metavar="N",
        help="share the runs out among N GPUs, --at-once on each; the start is trained on the first (default: 1)",
    )
    options.add_argument(
        "--free-gb",
        type=float,
        metavar="GB",
        help="begin no training and no decoding beside others until so much of the device's memory is free; 0: do not "
        f"wait (default: {FREE_GB}, or {SHARE:.0%}% of a smaller device)",
    )
    options.add_argument(
        "--stop-after",
        type=float,
        metavar="MINUTES",
        help="begin no run later than this, and write the report; another try of one that was begun is no new run",
    )
    options.add_argument("--precision", choices=["bf16", "fp16", "fp32"], default="bf16", help="(default: bf16)")
    options.add_argument("--cpu", action="store_true", help="train and decode on the CPU, in fp32")
    options.add_argument(
        "--workers", type=positive, default=os.cpu_count() or 1, help="processes for the data (default: one a core)"
    )
    options.add_argument(
        "--loaders", type=positive, default=4, help="processes that load the batches of one training (default: 4)"
    )
    options.add_argument(
        "--changed",
        choices=["stop", "redo"],
        default="stop",
        help="finished work that the plan now wants otherwise: stop and say so, or redo it (default: stop)",
    )
    options.add_argument("--report-only", action="store_true", help="write the report of what is there")
    options.add_argument("--dry-run", action="store_true", help="print every command and do nothing")
    options.add_argument("--cell", help=argparse.SUPPRESS)  # of one run's own process: its name
    options.add_argument("--after", help=argparse.SUPPRESS)  # what the data and the start are known by
    options.add_argument("--until", type=float, help=argparse.SUPPRESS)  # the time after which none begins
    return options


def place_of(options):
    """The `Place` that the options say; paths are absolute, since commands run in the clone."""
    precision = () if options.precision == "fp32" else (f"--{options.precision}",)
    out = options.out or Path("experiments") / options.plan.stem
    return Place(
        out.absolute(),
        options.raw.absolute(),
        options.init and options.init.absolute(),
        options.workers,
        options.loaders,
        ("--cpu",) if options.cpu else precision,
        ("--cpu",) if options.cpu else (),
    )


def own_command(options):
    """The words that carry the plan out again."""
    words = ["bash", "recipes/compare.sh", "--raw", str(options.raw), "--plan", str(options.plan)]
    for name in ("out", "init"):
        if value := getattr(options, name):
            words += [f"--{name}", str(value)]
    words += ["--at-once", str(options.at_once)]
    words += ["--gpus", str(options.gpus)] if options.gpus > 1 else []
    words += [] if options.free_gb is None else ["--free-gb", f"{options.free_gb:g}"]
    return words + (["--cpu"] if options.cpu else ["--precision", options.precision])
