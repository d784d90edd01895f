"""Time of attention to segments chosen by content on a CPU, in float32, against PyTorch's full attention.

    python -m benchmarks.attention_content_cpu [--quick] [--json benchmarks/results/attention_content_cpu.json]

B = 4, H = 8, D = 64, segments of 16 of which every query and head chooses 8, sources between 7/8 N and N tokens padded
on the right, by 2 threads. Training: one layer's attention from projected queries (T = 128), keys and values, without
gradients (`forward`), and to the gradients of all three (`both`); means, choice and sorting are part of it. Decoding
(`step`): one position of one hypothesis a sentence (--fast-generate), from its query to what it read, over what is kept
of the source. The peer is `scaled_dot_product_attention` with the same key mask, its keys and values laid out for it
beforehand. What misses the float64 result, for the same choice, is not timed.

Every round calls each implementation once, one after the other, so that whatever else the machine does meets them all
alike; the first rounds warm up. The ratio is that of the medians; that of the shortest times stands beside it.
"""

import argparse
import os
import statistics
import time

import torch
import torch.nn.functional as F

from benchmarks.rows import Results, add_options, provenance, this_cpu
from srformer_plugin.attention.backends import CHOICES
from srformer_plugin.attention.method.memory import NoMemory
from srformer_plugin.attention.method.schedule import build_schedule
from srformer_plugin.attention.method.segments import SourceLayout
from srformer_plugin.attention.torch.chosen import attend_segments

BATCH, TARGETS, HEADS, HEAD_DIM, SEGMENT, CHOSEN, THREADS = 4, 128, 8, 64, 16, 8, 2
SOURCES = {"training": (1024, 4096), "decoding": (1024, 8192)}
WARM_UP, ROUNDS = 3, 21
TOLERANCE = 1e-4
OURS, PEER = "content", "sdpa"


class Case:
    """Projected queries, keys and values, and who attends with them."""

    def __init__(self, source, targets):
        torch.manual_seed(0)
        shape = (BATCH, HEADS * HEAD_DIM)
        self.query = torch.randn(BATCH, HEADS, targets, HEAD_DIM) * HEAD_DIM**-0.5
        self.keys, self.values = (torch.randn(source, *shape) for _ in range(2))
        self.upstream = torch.randn_like(self.query)
        lengths = torch.linspace(source * 7 // 8, source, BATCH).long()
        self.mask = torch.arange(source) >= lengths.unsqueeze(1)
        self.layout = SourceLayout(self.mask, BATCH, source, SEGMENT, "cpu")
        self.schedule, self.memory = (
            build_schedule("content", segments_per_query=CHOSEN),
            NoMemory(HEADS, HEAD_DIM, None),
        )
        self.plan = self.schedule.plan(self.layout, 0, targets)
        self.backend = CHOICES["torch"]

    def leaves(self):
        return [x.detach().requires_grad_() for x in (self.query, self.keys, self.values)]

    def content(self):
        """(function without arguments, leaves) of what is measured."""
        leaves = self.leaves()
        return lambda: self.backend.attend_source(*leaves, self.layout, self.plan, self.memory)[0], leaves

    def heads_first(self):
        split = (x.unflatten(2, (HEADS, HEAD_DIM)).permute(1, 2, 0, 3).contiguous() for x in (self.keys, self.values))
        return tuple(split)

    def full(self):
        leaves = [x.detach().requires_grad_() for x in (self.query, *self.heads_first())]
        mask = ~self.mask[:, None, None, :]
        return lambda: F.scaled_dot_product_attention(*leaves, attn_mask=mask, scale=1.0), leaves

    def content_step(self):
        source = self.backend.open_source(self.keys, self.values, HEADS, self.layout, self.plan, self.memory)
        position = torch.zeros(1, dtype=torch.int64)
        return lambda: self.backend.attend_step(self.query, source, position, self.memory, SEGMENT)

    def full_step(self):
        keys, values = self.heads_first()
        bias = torch.zeros(self.mask.shape).masked_fill(self.mask, -torch.inf)[:, None, None, :]
        return lambda: F.scaled_dot_product_attention(self.query, keys, values, bias, scale=1.0)

    def error(self, with_gradients):
        """The largest relative error of the output (and the gradients), for the same choice in float64."""
        attend, leaves = self.content()
        exact = [x.detach().double().requires_grad_() for x in (self.query, self.keys, self.values)]
        keys, values = (self.layout.split_heads(x, HEADS) for x in exact[1:])
        summaries = self.schedule.summarise(self.layout.split_heads(self.keys, HEADS), self.layout)
        segments = self.schedule.choose(self.query, summaries, self.layout.segment_counts)
        reference = attend_segments(exact[0], keys, values, self.layout.is_real, segments, need_weights=True)[0]
        pairs = [(attend(), reference)]
        if with_gradients:
            upstream = (self.upstream, self.upstream.double())
            pairs += zip(*(torch.autograd.grad(out, x, up) for out, x, up in zip(pairs[0], (leaves, exact), upstream)))
        else:
            pairs.append((self.content_step()(), reference))
        return max(((ours.double() - theirs).norm() / theirs.norm()).item() for ours, theirs in pairs)


def timed(function):
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


@torch.no_grad()
def without_gradients(attend):
    return attend()


def measure(case, training):
    """Milliseconds by mode and implementation, a list for each."""
    if training:
        systems = {OURS: case.content(), PEER: case.full()}
        runs = {
            ("forward", name): lambda attend=attend: without_gradients(attend) for name, (attend, _) in systems.items()
        }
        for name, (attend, leaves) in systems.items():
            runs["both", name] = lambda attend=attend, leaves=leaves: torch.autograd.grad(
                attend(), leaves, case.upstream
            )
    else:
        systems = {OURS: case.content_step(), PEER: case.full_step()}
        runs = {("step", name): lambda attend=attend: without_gradients(attend) for name, attend in systems.items()}
    times = {key: [] for key in runs}
    for number in range(WARM_UP + ROUNDS):
        for key, run in runs.items():
            milliseconds = timed(run)
            if number >= WARM_UP:
                times[key].append(milliseconds)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "the shorter sources only")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    table = Results(options.json, "attention_content_cpu", provenance(this_cpu(), options.commit))
    for kind, sources in SOURCES.items():
        for source in sources[: 1 if options.quick else None]:
            targets = TARGETS if kind == "training" else 1
            case = Case(source, targets)
            error = case.error(with_gradients=kind == "training")
            if not error < TOLERANCE:
                raise SystemExit(f"N {source}: {kind} misses the float64 result by {error:.1e}")
            times, load = measure(case, kind == "training"), round(os.getloadavg()[0], 2)
            row = {"batch": BATCH, "targets": targets, "source": source, "heads": HEADS, "segment": SEGMENT}
            row |= {"chosen": CHOSEN, "dtype": "float32", "threads": THREADS, "rounds": ROUNDS}
            for mode in dict.fromkeys(mode for mode, _ in times):
                ours, theirs = times[mode, OURS], times[mode, PEER]
                shortest = min(theirs) / min(ours)
                medians = map(statistics.median, (ours, theirs))
                added = table.add(
                    {**row, "mode": mode},
                    PEER,
                    *medians,
                    "ms",
                    ratio_of_shortest=shortest,
                    largest_error=error,
                    load=load,
                )
                print(
                    f"N {source:5} {mode:7} {added['ours']:8.2f} ms, {PEER} {added['theirs']:8.2f} ms, "
                    f"ratio {added['ratio']:.2f} ({shortest:.2f}), load {load}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
