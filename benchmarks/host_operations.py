"""What a training step asks of the host, counted without a GPU: operations, launches, autograd's nodes, microseconds.

    python -m benchmarks.host_operations --json benchmarks/results/host_operations.json

bart_base's 6 + 6 layers, 32 wide, over a batch of 2 x 4 target and 32 source tokens, of which some are padding: next to
nothing to compute, so that the time is that of Python, dispatcher and autograd. The way through the code is a GPU's:
the encoder without padding in one call a layer, dropout in one operation, the fused kernels, which are counted and not
run, so that the numbers that are computed mean nothing. An update is clipping and the optimizer, in float32. What a
launch costs on a GPU is not in the microseconds: there every operation that computes is one launch, or more, and for a
number that the host reads it waits. Counts are exact; microseconds are the processor's time, the median of the steps.
"""

import argparse
import os
import statistics
import time
from collections import Counter
from contextlib import ExitStack
from unittest import mock

os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: there is no GPU to compile for

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.random_models import StubTask
from benchmarks.rows import Results, add_options, provenance, this_cpu
from benchmarks.training_step import FairseqStep, make_batch
from benchmarks.training_systems import OUR_OPTIMIZER, PEER, System
from srformer_plugin.attention import packed
from srformer_plugin.attention.triton.launches import Launches

CASE = (2, 4, 32)  # B, T, N
SIZES = {
    f"{side}_{name}": size
    for side in ("encoder", "decoder")
    for name, size in (("embed_dim", 32), ("ffn_embed_dim", 32), ("attention_heads", 2))
}
OURS = {"segment_size": 16, "attention_backend": "triton"}
SYSTEMS = {
    f"{PEER}, {OUR_OPTIMIZER}": System(PEER, SIZES),
    "srformer_bart_base, triton": System("srformer_bart_base", {**SIZES, **OURS}),
}
UPDATES = {
    f"{arch}, {optimizer}": System(arch, SIZES, optimizer=optimizer)
    for arch, optimizers in ((PEER, ("adam", OUR_OPTIMIZER)), ("srformer_t5", ("adafactor", "foreach_adafactor")))
    for optimizer in optimizers
}
READS = "_local_scalar_dense"  # a number that the host reads
# Operations that compute nothing: they make a tensor, or another view of one.
WITHOUT_LAUNCH = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "empty", "empty_like", "empty_strided", "expand",
    "lift_fresh", "new_empty", "new_empty_strided", "permute", "select", "slice", "split", "split_with_sizes",
    "squeeze", "t", "transpose", "unbind", "unsqueeze", "view",
}  # fmt: skip


class Operations(TorchDispatchMode):
    """Counts operations by name, and the kernels that the stand-in for `Launches.launch` adds."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))

    def total(self) -> dict[str, int]:
        launches = sum(count for name, count in self.counts.items() if name not in WITHOUT_LAUNCH)
        return {
            "operations": sum(self.counts.values()),
            "launches": launches - self.counts[READS],
            "waits": self.counts[READS],
        }


def as_on_a_gpu(counts: Counter[str]) -> ExitStack:
    """Take a GPU's way through the code; kernels are added to `counts` instead of run."""

    def flash(query, key, value, *_):
        heads = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
        output = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*heads)[0]
        return (output.squeeze(0).transpose(0, 1),)

    def dropout(x, p, training, inplace=False):
        return torch.native_dropout(x, p, training)[0] if training else x

    def launch(self, kernel, grid, tensors, numbers):
        counts[kernel.__name__] += 1

    stack = ExitStack()
    stack.enter_context(mock.patch.object(packed, "is_fast", lambda *_: True))
    stack.enter_context(mock.patch.object(torch.ops.aten, "_flash_attention_forward", flash))
    stack.enter_context(mock.patch.object(torch.nn.functional, "dropout", dropout))
    stack.enter_context(mock.patch.object(Launches, "launch", launch))
    return stack


def nodes(loss: torch.Tensor) -> int:
    """How many functions autograd calls for the gradients of a loss."""
    seen, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left.extend(before for before, _ in node.next_functions)
    return len(seen)


def measure(system: System, repeats: int) -> dict[str, dict]:
    """Of a forward and of a backward pass: their counts, and the median of their processor time in microseconds."""
    task = StubTask(50)
    step = FairseqStep(task, system, CASE, "cpu")
    batch, parameters = make_batch(task, CASE, "cpu"), list(step.model.parameters())
    step.model.train()
    found, times = {}, {"forward": [], "backward": []}
    with as_on_a_gpu(kernels := Counter()):
        for turn in range(repeats + 4):
            for p in parameters:
                p.grad = None
            if turn == 3:  # what is kept from step to step has been made
                with Operations() as forward:
                    forward.counts = kernels
                    kernels.clear()
                    loss, _ = step.loss(batch)
                found["forward"] = {**forward.total(), "nodes": nodes(loss)}
                kernels.clear()
                with Operations() as backward:
                    backward.counts = kernels
                    loss.backward()
                found["backward"] = {**backward.total(), "nodes": found["forward"]["nodes"]}
                continue
            began = time.process_time()
            loss, _ = step.loss(batch)
            between = time.process_time()
            loss.backward()
            if turn > 3:
                times["forward"].append(between - began)
                times["backward"].append(time.process_time() - between)
    return {name: {**counts, "microseconds": 1e6 * statistics.median(times[name])} for name, counts in found.items()}


def measure_update(system: System, repeats: int) -> dict:
    """As `measure`, of clipping and the optimizer."""
    task = StubTask(50)
    step = FairseqStep(task, system, CASE, "cpu")
    step.prepare()
    times = []
    for turn in range(repeats + 4):
        for p in step.model.parameters():
            p.grad = torch.ones_like(p)
        if turn == 3:  # the averages have been made
            with Operations() as operations:
                step.update()
            continue
        began = time.process_time()
        step.update()
        times.append(time.process_time() - began)
    return {**operations.total(), "nodes": None, "microseconds": 1e6 * statistics.median(times[3:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "5 steps that are timed")
    parser.add_argument("--repeats", type=int, default=200, help="steps that are timed (default: 200)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.json, "host_operations", provenance(this_cpu(), options.commit))
    peers: dict[str, float] = {}
    for name, system in SYSTEMS.items():
        for kind, numbers in measure(system, 5 if options.quick else options.repeats).items():
            ours = numbers.pop("microseconds")
            case = {"system": name, "pass": kind, "layers": "6 + 6"}
            results.add(case, PEER, ours, peers.setdefault(kind, ours), "us", **numbers)
            print(f"{name:28} {kind:9} {numbers} {ours:,.0f} us", flush=True)
    for name, system in UPDATES.items():
        numbers = measure_update(system, 5 if options.quick else options.repeats)
        ours = numbers.pop("microseconds")
        case = {"system": name, "pass": "update", "layers": "6 + 6"}
        peer = next(other for other, its in UPDATES.items() if its.arch == system.arch)
        results.add(case, peer, ours, peers.setdefault(peer, ours), "us", **numbers)
        print(f"{name:28} update    {numbers} {ours:,.0f} us", flush=True)


if __name__ == "__main__":
    main()
