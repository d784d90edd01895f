"""The same training on 1, 2, 4, 8 processes: articles a second, efficiency, and whether they train one model.

    python -m benchmarks.distributed DATA --json benchmarks/results/distributed.json
    python -m benchmarks.distributed DATA --cpu --json benchmarks/results/distributed_cpu.json

DATA is a folder that fairseq-preprocess made. Every run is `srformer_plugin.tools.distributed_train` under torchrun,
from scratch, with the same batch a process: over NCCL with a GPU a process, with --cpu over gloo.

A run on n processes must log the losses and the norms of the gradients of one process that takes n passes over the same
batches (--update-freq n); otherwise it is an error, and no time is reported. Dropout is off, since the processes of a
run do not draw what one process draws. Losses are printed with three decimals: those of float32 must agree to two units
of the last, those in half precision to 1% and norms to 5%, since gradients are added in another order and precision (a
run without its all-reduce has norms of another size).

Efficiency is articles a second, divided by n times those of one process. `same articles` divides by n times those of
one process with n passes, which reads what the n processes read, and updates as seldom.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.rows import Results, add_options, provenance, this_device
from srformer_plugin import __file__ as plugin_file

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
# NCCL's multicast cannot be had on every cluster, where it hangs or fails; a value of the environment goes before it
ENVIRONMENT = {"NCCL_NVLS_ENABLE": "0", "OMP_NUM_THREADS": "1"}
COMPARED = {"loss": 0.01, "gnorm": 0.05}  # how far apart in half precision, as a share


def torchrun(processes: int, module: str, *arguments) -> str:
    """What `processes` of a module print together.

    Raises:
        SystemExit: one of them failed.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", module, *map(str, arguments)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**ENVIRONMENT, **os.environ}
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")
    return done.stdout


def train(options, arch: str, source: int, processes: int, passes: int) -> dict:
    """Train and return {"log": the numbers of every update, "parameters": how many are trained}."""
    several = ["--ddp-backend", options.ddp_backend, "--zero-sharding", options.zero_sharding]
    with tempfile.TemporaryDirectory() as folder:
        printed = torchrun(
            processes, "srformer_plugin.tools.distributed_train", options.data,
            "--user-dir", Path(plugin_file).parent, "--task", "translation", "--truncate-source", "--arch", arch,
            "--share-all-embeddings", "--max-source-positions", source, "--max-target-positions", 1024,
            "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", 0.1, "--optimizer", options.optimizer,
            "--adam-betas", "(0.9, 0.999)", "--weight-decay", 0.01, "--clip-norm", 0.1, "--lr", options.lr,
            "--lr-scheduler", "inverse_sqrt", "--warmup-updates", 10, "--dropout", 0, "--attention-dropout", 0,
            "--activation-dropout", 0, "--batch-size", options.batch_size, "--required-batch-size-multiple", 1,
            "--update-freq", passes, "--max-update", options.updates, "--save-dir", folder, "--no-save",
            "--disable-validation", "--seed", 1, "--log-format", "json", "--log-interval", 1, "--num-workers", 1,
            *(["--cpu"] if options.cpu else []), *([f"--{options.precision}"] if options.precision != "fp32" else []),
            *(several if processes > 1 else []), *options.extra,
        )  # fmt: skip
    log = parse_log(printed)
    if len(log) != options.updates:
        raise SystemExit(f"{len(log)} updates instead of {options.updates}: DATA has too few articles")
    return {"log": log, "parameters": trained_parameters(printed)}


def parse_log(printed: str) -> list[dict]:
    """The numbers of every update, of what fairseq-train printed."""
    entries = re.findall(r"\| train_inner \| (\{.*\})$", printed, flags=re.MULTILINE)
    return [{name: float(value) for name, value in json.loads(entry).items()} for entry in entries]


def trained_parameters(printed: str) -> int:
    """How many numbers have a gradient, of what fairseq-train printed."""
    return int(re.search(r"num\. shared model params: .*\(num\. trained: ([\d,]+)\)", printed)[1].replace(",", ""))


def articles_a_second(log: list[dict], warm_up: int) -> float:
    """Over all updates after the first `warm_up`; the clock's time is in tokens a second, to more digits than `ups`."""
    steady = log[warm_up:]
    return sum(entry["bsz"] for entry in steady) / sum(entry["wpb"] / entry["wps"] for entry in steady)


def largest_difference(log: list[dict], reference: list[dict], precision: str) -> float:
    """Of the losses of two runs, in bits a token as fairseq logs them.

    Raises:
        SystemExit: their losses or gradients' norms are not those of one training.
    """
    for update, (ours, theirs) in enumerate(zip(log, reference, strict=True), 1):
        for name, share in COMPARED.items():
            relative = 0 if precision == "fp32" else share
            if not math.isclose(ours[name], theirs[name], abs_tol=2.5e-3, rel_tol=relative):
                raise SystemExit(
                    f"update {update}: the {name} of the processes is {ours[name]}, that of one process with as many "
                    f"passes {theirs[name]}: they do not train one model"
                )
    return max(abs(ours["loss"] - theirs["loss"]) for ours, theirs in zip(log, reference))


def measure(options, arch: str, source: int, results: Results) -> None:
    """Add a row for every number of processes."""
    alone = train(options, arch, source, 1, 1)
    theirs = articles_a_second(alone["log"], options.warm_up)
    for processes in options.processes:
        passes = alone if processes == 1 else train(options, arch, source, 1, processes)
        run = alone if processes == 1 else train(options, arch, source, processes, 1)
        difference = largest_difference(run["log"], passes["log"], options.precision)
        ours = articles_a_second(run["log"], options.warm_up)
        same = articles_a_second(passes["log"], options.warm_up)
        reduced = {"all_reduce_ms": None, "all_reduce_mib": None}
        if processes > 1:
            cpu = ["--cpu"] if options.cpu else []
            arguments = [run["parameters"], "--dtype", DTYPES[options.precision], *cpu]
            printed = torchrun(processes, "benchmarks.all_reduce", *arguments)
            reduced = json.loads(next(line for line in printed.splitlines() if line.startswith('{"all_reduce')))
        case = {"arch": arch, "processes": processes, "batch": options.batch_size, "source": source}
        for name in ("precision", "ddp_backend", "zero_sharding", "optimizer", "updates"):
            case[name] = getattr(options, name)
        row = results.add(
            case, "one process", ours, theirs, "articles/s",
            efficiency=ours / theirs / processes,
            efficiency_same_articles=ours / same / processes, parameters=run["parameters"], **reduced,
            largest_loss_difference=round(difference, 3), losses=[entry["loss"] for entry in run["log"]],
            losses_of_one_process=[entry["loss"] for entry in passes["log"]],
            gib_free=min((entry["gb_free"] for entry in run["log"] if "gb_free" in entry), default=None),
        )  # fmt: skip
        print(
            f"{arch} {source:,} x {processes}: {row['ours']:.2f} articles/s, efficiency {row['efficiency']:.1%} "
            f"(same articles {row['efficiency_same_articles']:.1%}), all-reduce {row['all_reduce_ms']} ms, losses "
            f"within {row['largest_loss_difference']:.3f}",
            flush=True,
        )


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, with what depends on the machine filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that fairseq-preprocess made")
    parser.add_argument("--cpu", action="store_true", help="gloo on the CPU, a rehearsal: fp32, srformer_bart_tiny")
    parser.add_argument("--archs", nargs="+", help="default: srformer_bart_base bart_base")
    parser.add_argument("--processes", nargs="+", type=int, help="default: 1 2 4 8, as far as there are GPUs")
    parser.add_argument("--sources", nargs="+", type=int, help="longer sources are cut; default: 1024 4096")
    parser.add_argument("--batch-size", type=int, default=16, help="articles a process")
    parser.add_argument("--precision", choices=list(DTYPES), help="default: bf16")
    parser.add_argument("--ddp-backend", default="pytorch_ddp", choices=["legacy_ddp", "pytorch_ddp"])
    parser.add_argument("--zero-sharding", default="none", choices=["none", "os"], help="os needs fairscale")
    parser.add_argument("--optimizer", default="fused_adam", choices=["fused_adam", "adam"])
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--updates", type=int, help="default: 60")
    parser.add_argument("--warm-up", type=int, help="updates left out of the times; default: a third")
    add_options(parser, "a quarter of the updates, and sources of 1,024 alone")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="more flags for fairseq-train")
    options = parser.parse_args(arguments)

    gpus = torch.cuda.device_count()
    if not options.cpu and not gpus:
        parser.error("PyTorch sees no GPU: run this where there is one, or say --cpu")
    if options.cpu and options.precision not in (None, "fp32"):
        parser.error(f"--precision {options.precision} does not go with --cpu, which is a rehearsal in fp32")
    options.precision = options.precision or ("fp32" if options.cpu else "bf16")
    options.archs = options.archs or (["srformer_bart_tiny"] if options.cpu else ["srformer_bart_base", "bart_base"])
    options.processes = options.processes or [n for n in (1, 2, 4, 8) if options.cpu or n <= gpus]
    if not options.cpu and max(options.processes) > gpus:
        parser.error(f"--processes {max(options.processes)}, but PyTorch sees {gpus} GPUs")
    options.sources = options.sources or ([1024] if options.quick else [1024, 4096])
    options.updates = options.updates or (15 if options.quick else 60)
    options.warm_up = max(options.updates // 3, 1) if options.warm_up is None else options.warm_up
    for name in ("batch_size", "updates"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)} must be at least 1")
    if min(options.processes) < 1:
        parser.error("--processes must be at least 1")
    if not 1 <= options.warm_up < options.updates:  # fairseq does not time the first
        parser.error(f"--warm-up {options.warm_up} must be at least 1 and below the {options.updates} of --updates")
    return options


def main() -> None:
    options = parse_options()
    results = Results(options.json, "distributed", provenance(this_device(options.cpu), options.commit))
    for arch in options.archs:
        for source in options.sources:
            measure(options, arch, source, results)


if __name__ == "__main__":
    main()
