"""Time and memory of attention to segments chosen by content: the fused kernels against PyTorch's full attention.

    python -m benchmarks.attention_content [--quick] [--json benchmarks/results/attention_content.json]

Needs a CUDA device. Training: one layer's attention from projected queries, keys and values to their gradients, the
means of the segments and the choice included, H = 12, D = 64, 8 segments of 16 per query and head, bfloat16, sources
between 7/8 N and N tokens, padded on the right. Decoding: the cross-attention of one step alone, 4 sentences of 4
hypotheses, from queries to outputs; the means were taken when the source was opened.

Peers, in the same run: `scaled_dot_product_attention` with the same key mask, by its default backend and by every other
that takes a mask; a row compares with the fastest. Times and peaks are taken as in benchmarks/attention_core.py, save
that eager forward and backward passes, where the host's speed counts and varies, are the shortest of three medians. An
implementation whose output or gradients miss the float64 result is not timed.
"""

import argparse
import functools

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import attention_core as core
from benchmarks.markdown import number
from benchmarks.rows import Results, add_options, provenance
from srformer_plugin.attention.method.segments import SourceLayout
from srformer_plugin.attention.triton.content import plain
from srformer_plugin.attention.triton.content.attend import attend_by_content, choose, segment_means
from srformer_plugin.attention.triton.content.step import attend_step_chosen
from srformer_plugin.attention.triton.exactness import relative_error

SIZES = [(16, 128, 1024), (8, 256, 4096), (4, 512, 16384), (1, 128, 65536)]  # B, T, N
STEPS = [(4, 4, 4096), (4, 4, 16384)]  # sentences, hypotheses of each, N
SEGMENT, CHOSEN = 16, 8
BACKENDS = {"default": None, "efficient": SDPBackend.EFFICIENT_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
KERNELS = (
    "mean_keys",
    "choose_segments",
    "pick_segments",
    "mark_readers",
    "list_readers",
    "attend_segment",
    "merge_parts",
)
KERNELS += ("segment_gradients", "sum_parts")
STEP_KERNELS = ("rank_segments", "attend_best")


class Inputs(core.Inputs):
    """Projected queries, keys and values of one size in segments of 16."""

    def plan(self):
        """Make the layout anew, as a model does once per forward pass."""
        batch, _, source = self.size
        self.layout = SourceLayout(self.mask, batch, source, SEGMENT, self.device)

    def chosen(self, query, keys):
        means = segment_means(keys, self.layout, self.heads)
        return choose(query, means, self.layout.segment_counts, CHOSEN)

    def by_content(self):
        """(function without arguments, leaves) of the kernels: means, choice and attention."""
        leaves = [x.detach().requires_grad_() for x in (self.query, self.keys, self.values)]
        return lambda: attend_by_content(*leaves, self.layout, CHOSEN)[0], leaves

    def exact(self):
        """Output and gradients in float64 for the segments that the kernels choose, and how many choose otherwise."""
        leaves = [x.detach().double().requires_grad_() for x in (self.query, self.keys, self.values)]
        chosen = self.chosen(self.query, self.keys)
        means = plain.segment_means(leaves[1].detach(), self.layout, self.heads)
        own = plain.choose(leaves[0].detach(), means, self.layout.segment_counts, CHOSEN)
        differ = (own != chosen).any(3).double().mean().item()
        attend = functools.partial(plain.attend_chosen, *leaves, self.layout, chosen)
        return core.results(attend, leaves, self.upstream), differ


def check(inputs, attend, leaves):
    """The largest relative error of the kernels' output and gradients, and the share of queries that choose otherwise.

    Raises:
        RuntimeError: they do not compute what they must.
    """
    exact, differ = inputs.exact()
    found = core.results(attend, leaves, inputs.upstream)
    error = max(relative_error(ours, theirs, inputs.upstream) for ours, theirs in zip(found, exact))
    if not error < core.TOLERANCE or not differ < 1e-3:
        raise RuntimeError(f"off by {error:.1e}, {differ:.1%} of the queries choose otherwise")
    return {"largest_error": error, "choose_otherwise": differ}


def least_bytes(inputs):
    """Bytes that every kernel must move, inputs and outputs once (docs/kernels.md)."""
    batch, targets, source = inputs.size
    heads, width = batch * core.HEADS, inputs.keys.element_size()
    tensor = heads * source * core.HEAD_DIM * width  # K, V, dK or dV
    target = heads * targets * core.HEAD_DIM * width  # one of q, output, ...
    parts, means = CHOSEN * target, heads * inputs.layout.max_segments * core.HEAD_DIM * 4
    chosen = heads * targets * CHOSEN * 4
    marks = heads * inputs.layout.max_segments * targets // 8
    return {
        "mean_keys": tensor + means,
        "choose_segments": means + target + chosen,
        "mark_readers": chosen + marks,
        "list_readers": 2 * chosen + marks,
        "attend_segment": 2 * tensor + target + parts,
        "merge_parts": parts + target + chosen,
        "segment_gradients": 4 * tensor + 3 * target + parts,
        "sum_parts": parts + target + chosen,
    }


def breakdown(inputs, attend, leaves):
    """Print every kernel's time and the rate at which it moves the bytes it must."""
    times = core.kernel_times(lambda: core.gradients(attend, leaves, inputs.upstream), kernels=KERNELS)
    least = least_bytes(inputs)
    for name, microseconds in times.items():
        rate = f"{least[name] / microseconds / 1e3:7.0f} GB/s" if name in least and microseconds else ""
        print(f"      {name:20} {microseconds:8.1f} us {rate}", flush=True)
    print(f"      least bytes {sum(least.values()) / 1e6:.0f} MB: {sum(least.values()) / 3e9:.3f} ms at 3 TB/s")
    return times


def measure_training(attend, leaves, inputs, quick):
    """`core.measure`, with the shortest of three medians for `both_ms`."""
    numbers = core.measure(attend, leaves, inputs, quick)
    again = [core.milliseconds(lambda: core.gradients(attend, leaves, inputs.upstream), quick) for _ in range(2)]
    return {**numbers, "both_ms": min(numbers["both_ms"], *again)}


def run_sdpa(name, runs, measure):
    """Measure full attention by one backend; a backend that does not take this call is left out."""
    try:
        runs[f"sdpa {name}"] = measure()
    except RuntimeError as failure:
        print(f"  sdpa {name:10} not timed: {str(failure).splitlines()[0][:100]}", flush=True)
    else:
        print(f"  sdpa {name:10}", runs[f"sdpa {name}"], flush=True)


def training(size, quick):
    """All runs of one size, by name."""
    inputs, runs = Inputs(*size), {}
    attend, leaves = inputs.by_content()
    found = check(inputs, attend, leaves)
    torch.cuda.empty_cache()
    runs["triton"] = {**measure_training(attend, leaves, inputs, quick), **found}
    print("  triton         ", runs["triton"], flush=True)
    runs["triton"]["kernels_us"] = breakdown(inputs, attend, leaves)
    exact = {}
    for name, backend in BACKENDS.items():

        def measure(backend=backend, name=name):
            full = inputs.full(backend)
            error = core.check(f"sdpa {name}", inputs, *full, exact)
            return {**measure_training(*full, inputs, quick), "largest_error": error}

        run_sdpa(name, runs, measure)
    return runs


def decoding(size, quick):
    """All runs of one decoding step, by name."""
    batch, hypotheses, source = size
    inputs, runs = Inputs(batch, hypotheses, source), {}
    query, *heads = (x.detach() for x in inputs.heads_first())
    means = segment_means(inputs.keys, inputs.layout, inputs.heads)
    keys, values = inputs.keys.transpose(0, 1), inputs.values.transpose(0, 1)

    def step():
        return attend_step_chosen(query, keys, values, means, inputs.layout, CHOSEN)

    exact, _ = inputs.exact()
    error = relative_error(step(), exact[0], inputs.upstream)
    if not error < core.TOLERANCE:
        raise RuntimeError(f"a step is off by {error:.1e}")
    runs["triton"] = {"graph_ms": core.milliseconds(core.graphed(step), quick), "largest_error": error}
    runs["triton"]["kernels_us"] = core.kernel_times(step, kernels=STEP_KERNELS)
    print("  triton         ", runs["triton"], flush=True)
    full = core.eager_full(inputs, torch.float64)[0]().detach()
    bias = torch.zeros_like(inputs.mask, dtype=query.dtype).masked_fill(inputs.mask, float("-inf"))[:, None, None, :]
    for name, backend in BACKENDS.items():

        def attend(backend=backend):
            if backend is None:
                return F.scaled_dot_product_attention(query, *heads, bias, scale=1.0)
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(query, *heads, bias, scale=1.0)

        def measure(attend=attend):
            error = relative_error(attend(), full, inputs.upstream)
            if not error < core.PEER_TOLERANCE:
                raise RuntimeError(f"off by {error:.1e}")
            return {"graph_ms": core.milliseconds(core.graphed(attend), quick), "largest_error": error}

        run_sdpa(name, runs, measure)
    return runs


def fastest(runs, mode):
    """The peer with the shortest time."""
    return min((name for name in runs if name != "triton" and runs[name][mode]), key=lambda name: runs[name][mode])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "fewer repetitions")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("needs a CUDA device")
    measured_on = provenance(torch.cuda.get_device_name(), options.commit)
    results = Results(options.json, "attention_content", measured_on)
    common = {"dtype": "bfloat16", "segment": SEGMENT, "chosen": CHOSEN}
    for sizes, names, measure, modes in (
        (SIZES, ("batch", "targets", "source"), training, ("both_ms", "graph_both_ms")),
        (STEPS, ("batch", "hypotheses", "source"), decoding, ("graph_ms",)),
    ):
        for size in sizes:
            case = dict(zip(names, size))
            print(case, flush=True)
            runs = measure(size, options.quick)
            for mode in modes:
                peer = fastest(runs, mode)
                ours, theirs = runs["triton"][mode], runs[peer][mode]
                row = results.add({**case, "mode": mode, **common}, peer, ours, theirs, "ms", run=runs)
                print(f"  {peer} / triton, {mode}: {number(row['ratio'], '.3f')}", flush=True)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
