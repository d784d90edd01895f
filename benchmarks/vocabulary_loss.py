"""The projection to the vocabulary and the label-smoothed loss, forward and backward, beside fairseq's and PyTorch's.

    python -m benchmarks.vocabulary_loss --json benchmarks/results/vocabulary_loss.json        # or vocabulary_loss_cpu

N target tokens of which every eighth is padding, D features, V classes, smoothing 0.1, random features and weights.
fairseq's is what its `label_smoothed_cross_entropy` computes of a model's logits; PyTorch's is
`torch.nn.functional.linear_cross_entropy` (from 2.13) with the smoothing that gives the same loss; 2.13 has chunks
without smoothing only, and returns nothing to log. The peak is that of a pass beside features, weight and targets, with
the gradients of these: on a GPU what PyTorch allocated, on a CPU the growth of the process's largest resident size.
fp16 has a loss scale of 128. A system whose loss or gradients are not fairseq's, on a few rows, is not timed.
"""

import argparse
import re
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss

from benchmarks.markdown import number
from benchmarks.rows import Results, add_options, attempt, provenance, sizes, this_device
from srformer_plugin.criterions.linear_cross_entropy import linear_cross_entropy

CASES = [(2048, 768, 50264), (8192, 768, 50264), (4096, 1024, 32128)]  # N, D, V
CHECKED = 96  # target tokens of the comparison of gradients
SMOOTHING, PADDING = 0.1, 1
PEER, PYTORCHS = "fairseq", "torch linear_cross_entropy"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCES = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 4e-3}  # relative, of norms
LOSS_SCALE = {"fp16": 128.0}


def fairseqs(features, weight, target):
    log_probabilities = F.log_softmax(F.linear(features, weight), dim=-1, dtype=torch.float32)
    return label_smoothed_nll_loss(log_probabilities, target, SMOOTHING, ignore_index=PADDING)[0]


def ours(features, weight, target):
    return linear_cross_entropy(features, weight, target, smoothing=SMOOTHING, ignore_index=PADDING).loss


def pytorchs(features, weight, target):
    classes = len(weight)
    return F.linear_cross_entropy(
        features, weight, target, reduction="sum", ignore_index=PADDING,
        label_smoothing=SMOOTHING * classes / (classes - 1),
    )  # fmt: skip


SYSTEMS = {PEER: fairseqs, "fused": ours, PYTORCHS: pytorchs}


def inputs(case, precision, device):
    """Features and weight, which want gradients, and targets."""
    rows, width, classes = case
    generator = torch.Generator().manual_seed(0)
    features, weight = torch.randn(rows, width, generator=generator), torch.randn(classes, width, generator=generator)
    target = torch.randint(4, classes, (rows,), generator=generator)
    target[::8] = PADDING
    dtype = PRECISIONS[precision]
    features, weight = (x.to(device, dtype).requires_grad_() for x in (features, weight * width**-0.5))
    return features, weight, target.to(device)


def one_pass(system, precision, features, weight, target):
    """Loss, forward and backward, gradients left in `grad`."""
    features.grad = weight.grad = None
    loss = SYSTEMS[system](features, weight, target)
    (loss * LOSS_SCALE.get(precision, 1.0)).backward()
    return loss


def check(system, case, precision, device):
    """Raise a RuntimeError where loss or gradients of a few rows are not fairseq's."""
    given = inputs((CHECKED, *case[1:]), precision, device)
    found = []
    for name in (PEER, system):
        loss = one_pass(name, precision, *given).detach()
        found.append([x.float() for x in (loss, given[0].grad, given[1].grad)])
    for what, expected, got in zip(("loss", "features' gradient", "weight's gradient"), *found):
        error = ((got - expected).norm() / expected.norm()).item()
        if not error < TOLERANCES[precision]:
            raise RuntimeError(f"its {what} is {error:.1e} away from {PEER}'s")


class Peak:
    """`mib()`: by how much the memory in use has grown at most since this was made."""

    def __init__(self, device):
        self.on_gpu = device == "cuda"
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the largest resident size is that of now
            self.before = self._resident("VmRSS")

    @staticmethod
    def _resident(name):
        return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])

    def mib(self):
        most = torch.cuda.max_memory_allocated() if self.on_gpu else self._resident("VmHWM")
        return round((most - self.before) / 2**20)


def measure(system, case, precision, device, repeats):
    """Median milliseconds of a pass, and its peak in MiB."""
    check(system, case, precision, device)
    given = inputs(case, precision, device)
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    peak, times = Peak(device), []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        one_pass(system, precision, *given)
        synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[1:]), peak.mib()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", type=sizes("NxDxV"), default=CASES, metavar="NxDxV", help="target tokens"
                        " x features x classes (default: 2,048 and 8,192 of BART-base, 4,096 of T5-large)")  # fmt: skip
    on_gpu = torch.cuda.is_available()
    default = ["bf16", "fp16"] if on_gpu else ["fp32"]
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=default, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="timed passes, of which the median counts")
    add_options(parser, "one timed pass")
    options = parser.parse_args()
    device, repeats = "cuda" if on_gpu else "cpu", 1 if options.quick else options.repeats
    threads = torch.get_num_threads()
    measured_on = this_device() if on_gpu else f"{this_device()}, {threads} thread{'s'[: threads > 1]}"
    results = Results(options.json, "vocabulary_loss", provenance(measured_on, options.commit))
    systems = [name for name in SYSTEMS if name != PYTORCHS or hasattr(F, "linear_cross_entropy")]
    for case in options.cases:
        for precision in options.precisions:
            theirs = None
            for system in systems:
                found, failure = attempt(device, measure, system, case, precision, device, repeats)
                ms, peak = found or (None, None)
                theirs = ms if system == PEER else theirs
                named = dict(zip(("rows", "width", "classes"), case), system=system, precision=precision)
                row = results.add(named, PEER, ms, theirs, "ms", peak_mib=peak, not_timed=failure)
                shown = f"not timed: {failure}" if failure else f"{ms:10.2f} ms  peak {peak} MiB"
                shown += f"  ratio {number(row['ratio'], '.3f')}"
                print("{} x {} x {}".format(*case), precision, f"{system:26}", shown, flush=True)


if __name__ == "__main__":
    main()
