"""Where an update of fairseq-train goes: waiting for data, the passes, gradients, checks, the optimizer, the log.

    python -m benchmarks.training_profile DATA --json benchmarks/results/training_profile.json
    python -m benchmarks.training_profile DATA --processes 2 --json benchmarks/results/training_profile_2.json

DATA is a folder that fairseq-preprocess made with one dictionary for both sides (or several, with ":" between them).
Stock bart_base with fairseq's Adam and with fused_adam, srformer_bart_base with fused_adam and the fused loss, and
with --compile, from random weights, 16 and 64 articles of at most 1,024 tokens, bfloat16; on a CPU (--cpu) in
float32, srformer_bart_tiny alone. Every case is a training of its own (benchmarks/profiled_training.py): 20 updates
to warm up, 60 that are timed, the bare step of the last 30 batches, and 7 updates that are looked into. Numbers are
medians over the timed updates, in milliseconds, a line by the host's clock and one by the events of the device's
stream. "update / bare" says what fairseq-train costs beside its step.

--processes N runs them under torchrun, once for every --ddp-backend. On one H100 about half a minute a case is to be
expected; with --processes 2 twice as many cases, unless --ddp-backends says which.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.distributed import ENVIRONMENT
from benchmarks.rows import Results, add_options, provenance, sizes, this_device
from srformer_plugin import __file__ as plugin_file
from srformer_plugin.criterions.fused_label_smoothed_cross_entropy import NAME as FUSED_LOSS

SYSTEMS = {
    "bart_base": ["--arch", "bart_base", "--optimizer", "adam"],
    "bart_base, fused_adam": ["--arch", "bart_base", "--optimizer", "fused_adam"],
    "srformer_bart_base, fused_adam": ["--arch", "srformer_bart_base", "--optimizer", "fused_adam"],
    "srformer_bart_base, fused_adam, fused loss": [
        *("--arch", "srformer_bart_base", "--optimizer", "fused_adam", "--criterion", FUSED_LOSS)
    ],
    "srformer_bart_base, fused_adam, compiled, fused loss": [
        *("--arch", "srformer_bart_base", "--optimizer", "fused_adam", "--criterion", FUSED_LOSS, "--compile")
    ],
    "srformer_bart_tiny, fused_adam": ["--arch", "srformer_bart_tiny", "--optimizer", "fused_adam"],
}
DEFAULT = [
    *("bart_base", "bart_base, fused_adam", "srformer_bart_base, fused_adam, fused loss"),
    "srformer_bart_base, fused_adam, compiled, fused loss",
]
CASES = [(16, 1024), (64, 1024)]


def train(options, system: str, case: tuple[int, int], backend: str | None) -> dict:
    """The report of one training.

    Raises:
        RuntimeError: it failed.
    """
    batch, source = case
    several = [] if backend is None else ["--ddp-backend", backend]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", options.processes] if several else []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable, *launcher, "-m", "benchmarks.profiled_training", report, options.warm_up, options.updates,
            options.data, "--user-dir", Path(plugin_file).parent, "--task", "summarization",
            "--share-all-embeddings", "--max-source-positions", source, "--max-target-positions", 1024,
            "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", 0.1, "--adam-betas", "(0.9, 0.999)",
            "--weight-decay", 0.01, "--clip-norm", 0.1, "--lr", 1e-4, "--lr-scheduler", "inverse_sqrt",
            "--warmup-updates", 50, "--dropout", 0.1, "--batch-size", batch, "--required-batch-size-multiple", 1,
            "--required-seq-len-multiple", 8, "--save-dir", folder, "--no-save", "--disable-validation", "--seed", 1,
            "--log-format", "json", "--log-interval", options.log_interval, "--num-workers", options.num_workers,
            *(["--cpu"] if options.cpu else ["--bf16"]), *SYSTEMS[system], *several, *options.extra,
        ]  # fmt: skip
        command = list(map(str, command))
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**ENVIRONMENT, **os.environ}
        )
        if done.returncode != 0 or not report.exists():
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")
        return json.loads(report.read_text(encoding="utf-8"))


def measure(options, system, case, backend, results: Results) -> None:
    """Add a row for the host's clock and, on a GPU, one for the device's."""
    report = train(options, system, case, backend)
    found = {"host": report.pop("host"), "device": report.pop("device")}
    settings = {"system": system, "batch": case[0], "source": case[1], "processes": options.processes}
    settings |= {"ddp_backend": backend, "precision": "fp32" if options.cpu else "bf16"}
    settings |= {"num_workers": options.num_workers, "extra": options.extra}
    for kind, parts in found.items():
        if parts is None:
            continue
        update, bare = parts.pop("update"), report["bare"]
        row = results.add(
            {**settings, "time": kind}, "the bare step", update, bare, "ms/update", ratio=update / bare,
            segments_ms=parts, **report,
        )  # fmt: skip
        where = f" x {options.processes} {backend}" if backend else ""
        print(f"{system} {case[0]} x {case[1]:,}{where}, {kind}: {update:.1f} ms, {row['ratio']:.2f} x bare {bare:.1f}")
        print("   ", ", ".join(f"{name} {value:.2f}" for name, value in parts.items() if value))
    print(
        f"    device busy {report['busy']} ms, NCCL {report['nccl']} ms, numbers read {report['numbers_read']:.1f}, "
        f"synchronisations {report['synchronisations']}: {report['where']}",
        flush=True,
    )


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, with what depends on the machine filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder that fairseq-preprocess made")
    parser.add_argument("--cpu", action="store_true", help="on the CPU, a trial: fp32, srformer_bart_tiny")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), metavar="NAME", help="default: four of them")
    parser.add_argument("--cases", nargs="+", type=sizes("BxN"), metavar="BxN", help="articles x source tokens")
    parser.add_argument("--processes", type=int, default=1, help="GPUs, or with --cpu processes (default: 1)")
    parser.add_argument("--ddp-backends", nargs="+", choices=["legacy_ddp", "pytorch_ddp"], help="default: both")
    parser.add_argument("--updates", type=int, help="timed (default: 60)")
    parser.add_argument("--warm-up", type=int, help="updates before them (default: 20)")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that load batches (default: 2)")
    parser.add_argument("--log-interval", type=int, default=50, help="updates between two lines of the log")
    add_options(parser, "12 updates, the small batch alone")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="more flags for fairseq-train")
    options = parser.parse_args(arguments)
    if not options.cpu and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU: run this where there is one, or say --cpu")
    if not options.cpu and options.processes > torch.cuda.device_count():
        parser.error(f"--processes {options.processes}, but PyTorch sees {torch.cuda.device_count()} GPUs")
    options.systems = options.systems or (["srformer_bart_tiny, fused_adam"] if options.cpu else DEFAULT)
    options.cases = options.cases or CASES[: 1 if options.quick else None]
    options.ddp_backends = options.ddp_backends or ["legacy_ddp", "pytorch_ddp"]
    options.updates = (12 if options.quick else 60) if options.updates is None else options.updates
    options.warm_up = (4 if options.quick else 20) if options.warm_up is None else options.warm_up
    for name in ("processes", "updates", "warm_up", "log_interval"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)} must be at least 1")
    return options


def main() -> None:
    options = parse_options()
    results = Results(options.json, "training_profile", provenance(this_device(options.cpu), options.commit))
    backends, failures = options.ddp_backends if options.processes > 1 else [None], []
    for system, case, backend in itertools.product(options.systems, options.cases, backends):
        try:
            measure(options, system, case, backend, results)
        except RuntimeError as error:  # must not cost the others
            failures.append(str(error))
    if failures:
        sys.exit("\n\n".join(failures))


if __name__ == "__main__":
    main()
