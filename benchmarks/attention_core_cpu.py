"""Time of the attention core on a CPU, in float32: the loop over segments against PyTorch's full attention.

    python -m benchmarks.attention_core_cpu [--quick] [--json benchmarks/results/attention_core_cpu.json]

Each case is one layer's attention from projected queries, keys and values, B = 4, T = 128, H = 8, D = 64, s = 64,
sources between 7/8 N and N tokens, by 2 threads: without gradients (`forward`), and to the gradients of the inputs and
of the memory's parameters (`both`). Peers: `scaled_dot_product_attention` with the same key mask, its keys and values
laid out for it beforehand, and the vectorised operations of `torch_ops.py`. An implementation whose output or gradients
miss its float64 result is not timed.

Every round calls each implementation once, one after the other, so that whatever else the machine does meets them all
alike; the first rounds warm up. The ratio is that of the medians; that of the shortest times stands beside it, because
an operation by two threads waits for both, and one busy core more or less moves the medians of many small operations.
"""

import argparse
import os
import statistics
import time

import torch

from benchmarks.attention_core import Inputs, worst_error
from benchmarks.rows import Results, add_options, provenance, this_cpu
from srformer_plugin.attention.cpu import attend as cpu_ops
from srformer_plugin.attention.torch import attend as torch_ops

SOURCES = (1024, 4096)
BATCH, TARGETS, HEADS, THREADS = 4, 128, 8, 2
WARM_UP, ROUNDS = 3, 21
TOLERANCE = 1e-3  # a potential that rounding moves over the threshold costs some 1e-4
OURS = "loop"


def candidates(inputs):
    """(function without arguments, leaves) of every implementation, by name."""
    return {
        OURS: inputs.segmented(cpu_ops.attend_source),
        "sdpa": inputs.full(),
        "torch": inputs.segmented(torch_ops.attend_source),
    }


def rounds(implementations, upstream):
    """Milliseconds of `forward` and `both`, a list for every implementation."""
    times = {(name, mode): [] for name in implementations for mode in ("forward", "both")}
    for number in range(WARM_UP + ROUNDS):
        for name, (attend, leaves) in implementations.items():
            start = time.perf_counter()
            with torch.no_grad():
                attend()
            middle = time.perf_counter()
            torch.autograd.grad(attend(), leaves, upstream)
            end = time.perf_counter()
            if number >= WARM_UP:
                times[name, "forward"].append(1e3 * (middle - start))
                times[name, "both"].append(1e3 * (end - middle))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "the shorter source only")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    table = Results(options.json, "attention_core_cpu", provenance(this_cpu(), options.commit))
    for source in SOURCES[: 1 if options.quick else None]:
        inputs = Inputs(BATCH, TARGETS, source, torch.float32, "cpu", HEADS)
        exact = {}
        wrong = {name: worst_error(name, inputs, *system, exact)[1] for name, system in candidates(inputs).items()}
        for name, error in wrong.items():
            verdict = "" if error < TOLERANCE else ": NOT TIMED"
            print(f"N {source} {name:6} largest error {error:.1e}{verdict}", flush=True)
        if not wrong[OURS] < TOLERANCE:
            raise SystemExit(f"{OURS} misses the float64 result")
        timed = {name: x for name, x in candidates(inputs).items() if wrong[name] < TOLERANCE}
        times = rounds(timed, inputs.upstream)
        load = round(os.getloadavg()[0], 2)
        case = {"batch": BATCH, "targets": TARGETS, "source": source, "heads": HEADS, "dtype": "float32"}
        case |= {"threads": THREADS, "rounds": ROUNDS}
        for mode in ("forward", "both"):
            ours = times[OURS, mode]
            for peer in (name for name in timed if name != OURS):
                theirs = times[peer, mode]
                row = table.add(
                    {**case, "mode": mode},
                    peer,
                    round(statistics.median(ours), 2),
                    round(statistics.median(theirs), 2),
                    "ms",
                    ratio_of_shortest=round(min(theirs) / min(ours), 3),
                    largest_error=wrong[OURS],
                    load=load,
                )
                print(
                    f"N {source} {mode:7} {OURS} {row['ours']:6.1f} ms, {peer:5} {row['theirs']:6.1f} ms, "
                    f"ratio {row['ratio']:.2f} ({row['ratio_of_shortest']:.2f}), load {load}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
