"""Training updates of srformer_bart_base beside stock bart_base: do losses fall and stay finite, and how long is one?

    python -m benchmarks.training_updates DATA --precision bf16 fp16 --json benchmarks/results/training_updates.json

DATA is a folder that fairseq-preprocess made. Every run is `fairseq-train` in a process of its own, from scratch, with
the same seed and the same batches. A run that leaves a loss which is not finite, or whose loss does not fall, is an
error: no time is reported for it.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.rows import provenance, this_cpu, write_rows
from srformer_plugin import __file__ as plugin_file

# name in the table -> flags; the first of a family is the peer of the others, which have its sizes
FAMILIES = {
    "bart": {
        "bart_base": ["--arch", "bart_base"],
        "srformer_bart_base": ["--arch", "srformer_bart_base"],
        "segmented": ["--arch", "srformer_bart_base", "--cross-attention", "segmented"],
    },
    "t5": {  # fairseq has no T5: the peer is the same model with full attention
        "t5_base": ["--arch", "srformer_t5_base", "--cross-attention", "full"],
        "srformer_t5_base": ["--arch", "srformer_t5_base"],
    },
}
WARM_UP = 50  # updates left out of the median


def train(data, model, precision, options, save_dir):
    """Run fairseq-train and return its log as a list of dictionaries, one per logged interval."""
    command = [
        sys.executable, "-m", "fairseq_cli.train", str(data), "--user-dir", str(Path(plugin_file).parent),
        "--task", "translation", "--truncate-source", *FAMILIES[options.family][model], "--share-all-embeddings",
        "--max-source-positions", str(options.source), "--max-target-positions", "1024",
        "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1",
        "--optimizer", "adam", "--adam-betas", "(0.9, 0.999)", "--weight-decay", "0.01", "--clip-norm", "0.1",
        "--lr", "1e-4", "--lr-scheduler", "inverse_sqrt", "--warmup-updates", "50", "--dropout", "0.1",
        "--batch-size", str(options.batch_size), "--required-batch-size-multiple", "1",
        "--max-update", str(options.updates), "--save-dir", str(save_dir), "--no-save", "--disable-validation",
        "--seed", "1", "--log-format", "json", "--log-interval", "10", "--num-workers", "2",
        *([f"--{precision}"] if precision != "fp32" else []), *(["--cpu"] if not torch.cuda.is_available() else []),
        *options.extra,
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{model} {precision} failed:\n{done.stdout[-4000:]}")
    entries = [line.split(" | ", 3)[-1] for line in done.stdout.splitlines() if "| train_inner |" in line]
    return [{k: float(v) for k, v in json.loads(entry).items() if k != "epoch"} for entry in entries]


def summarise(log):
    """Check the losses and return the numbers of one run."""
    losses = [entry["loss"] for entry in log]
    if not all(map(math.isfinite, losses)):
        raise SystemExit(f"a loss is not finite: {losses}")
    if losses[-1] > losses[0] - 1:
        raise SystemExit(f"the loss does not fall: {losses}")
    steady = [1000 / entry["ups"] for entry in log if entry["num_updates"] > WARM_UP]
    return {
        "ms_per_update": statistics.median(steady),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "losses": losses,
        "lowest_loss_scale": min((entry["loss_scale"] for entry in log if "loss_scale" in entry), default=None),
        "gib_free": min((entry["gb_free"] for entry in log if "gb_free" in entry), default=None),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that fairseq-preprocess made")
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp16"], choices=["bf16", "fp16", "fp32"])
    parser.add_argument("--family", default="bart", choices=list(FAMILIES))
    parser.add_argument("--models", nargs="+", help="only these of the family")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16, help="sentences per batch")
    parser.add_argument("--source", type=int, default=1024, help="source tokens, longer ones are truncated")
    parser.add_argument("--commit", help="commit to write down where there is no git")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="more flags for fairseq-train")
    options = parser.parse_args()

    family = FAMILIES[options.family]
    models = options.models or list(family)
    if not set(models) <= family.keys():
        parser.error(f"--models: choose from {', '.join(family)}")
    peer = next(iter(family))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else this_cpu()
    measured_on = provenance(device, options.commit)
    rows = []
    for precision in options.precision:
        results = {}
        for model in models:
            with tempfile.TemporaryDirectory() as folder:
                results[model] = summarise(train(options.data, model, precision, options, folder))
            run = results[model]
            print(
                f"{precision:5} {model:20} {run['ms_per_update']:8.1f} ms/update  "
                f"loss {run['first_loss']:.3f} -> {run['last_loss']:.3f}  loss scale >= {run['lowest_loss_scale']}",
                flush=True,
            )
        theirs = results.get(peer)
        for model in models:
            rows.append(
                {
                    "benchmark": "training_updates",
                    "case": {
                        "model": model,
                        "precision": precision,
                        "batch": options.batch_size,
                        "source": options.source,
                        "updates": options.updates,
                    },
                    "peer": peer,
                    "ours": results[model]["ms_per_update"],
                    "theirs": theirs and theirs["ms_per_update"],
                    "unit": "ms/update",
                    "ratio": theirs and theirs["ms_per_update"] / results[model]["ms_per_update"],
                    "run": results[model],
                    **measured_on,
                }
            )
    write_rows(rows, options.json)


if __name__ == "__main__":
    main()
