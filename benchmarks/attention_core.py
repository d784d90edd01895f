"""Time and memory of the attention core in training: the fused kernels against PyTorch's full attention.

    python -m benchmarks.attention_core [--quick] [--json benchmarks/results/attention_core.json]

Needs a CUDA device. Each case is one layer's attention from projected queries, keys and values to their gradients
(and those of the memory's parameters), H = 12, D = 64, s = 64, bfloat16, sources between 7/8 N and N tokens, padded on
the right. Peers, in the same run: `scaled_dot_product_attention` with the same key mask, by its default backend and
by every other that takes a mask, the vectorised PyTorch path, and FlexAttention for the local part alone. Medians of at
least 30 calls, the L2 cache flushed before each, as `triton.testing.do_bench` does; "graph" are replays of a CUDA
graph, which leave out what Python and the launches cost. The peak counts the inputs, the output, its gradient and all
gradients.

The plan of a batch (which segment a position reads) is made once per forward pass of a model and shared by its layers:
it is timed by itself. An implementation whose output or gradients miss the float64 result is not timed.
"""

import argparse
import copy
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import flex_local
from benchmarks.markdown import number
from benchmarks.rows import provenance, write_rows
from srformer_plugin.attention.method.memory import RAFMemory
from srformer_plugin.attention.method.schedule import build_schedule
from srformer_plugin.attention.method.segments import SourceLayout
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.torch import attend as torch_ops
from srformer_plugin.attention.triton.backend import TritonBackend
from srformer_plugin.attention.triton.exactness import by_entry, relative_error
from srformer_plugin.attention.triton.tables import state_tables

SIZES = [(16, 128, 1024), (8, 256, 4096), (4, 512, 16384), (16, 1024, 1024)]  # B, T, N
HEADS, HEAD_DIM, SEGMENT = 12, 64, 64
TOLERANCE = 1e-2
PEER_TOLERANCE = 5e-2  # wide enough for what rounds its probabilities to bfloat16
KERNELS = ("segment_forward", "total_products", "scan_forward", "scan_backward", "segment_backward")
KERNELS += ("parameter_gradients",)


class Inputs:
    """Projected queries, keys and values of one size, and the gradient that comes from above."""

    def __init__(self, batch, targets, source, dtype=torch.bfloat16, device="cuda", heads=HEADS):
        torch.manual_seed(0)
        self.size, self.device, self.heads = (batch, targets, source), device, heads
        width = heads * HEAD_DIM
        query = torch.randn(targets, batch, width, device=device) * HEAD_DIM**-0.5
        self.query = query.to(dtype).view(targets, batch, heads, HEAD_DIM).permute(1, 2, 0, 3)
        self.keys, self.values = (torch.randn(source, batch, width, device=device).to(dtype) for _ in range(2))
        self.upstream = torch.randn(targets, batch, heads, HEAD_DIM, device=device).to(dtype).permute(1, 2, 0, 3)
        lengths = torch.linspace(source * 7 // 8, source, batch, device=device).long()
        self.mask = torch.arange(source, device=device) >= lengths.unsqueeze(1)
        self.schedule = build_schedule("fixed", targets)
        self.memory = RAFMemory(heads, HEAD_DIM, SegmentSettings()).to(device, dtype)
        self.plan()

    def plan(self):
        """Make layout and plan anew, as a model does once per forward pass."""
        batch, targets, source = self.size
        self.layout = SourceLayout(self.mask, batch, source, SEGMENT, self.device)
        self.segment_plan = self.schedule.plan(self.layout, 0, targets)
        state_tables(self.segment_plan, self.layout)

    def bytes(self):
        return sum(x.numel() * x.element_size() for x in (self.query, self.keys, self.values))

    def heads_first(self):
        """(B, H, N, D) for full attention, laid out for it: what that copy costs is not counted."""
        split = (x.unflatten(2, (self.heads, HEAD_DIM)).permute(1, 2, 0, 3) for x in (self.keys, self.values))
        return tuple(x.contiguous() for x in (self.query, *split))

    def segmented(self, attend, dtype=None, memory=None):
        """(function without arguments, leaves) of a segmented implementation; `memory` None: the paper's."""
        memory = copy.deepcopy(memory or self.memory).to(dtype or self.query.dtype)
        leaves = [x.to(dtype or x.dtype).detach().requires_grad_() for x in (self.query, self.keys, self.values)]
        parameters = [*leaves, *memory.parameters()]
        return lambda: attend(*leaves, self.layout, self.segment_plan, memory)[0], parameters

    def full(self, backend=None):
        """(function, leaves) of full attention with the key mask; `backend` None: PyTorch's choice."""
        leaves = [x.detach().requires_grad_() for x in self.heads_first()]
        mask = ~self.mask[:, None, None, :]

        def attend():
            if backend is None:
                return F.scaled_dot_product_attention(*leaves, attn_mask=mask, scale=1.0)
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(*leaves, attn_mask=mask, scale=1.0)

        return attend, leaves


def gradients(attend, leaves, upstream):
    return torch.autograd.grad(attend(), leaves, upstream)


def results(attend, leaves, upstream):
    """Output and gradients."""
    output = attend()
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream.to(output.dtype))]


def exact_results(inputs):
    """Output and gradients of the segmented attention in float64, those of leak and threshold as terms (`by_entry`)."""
    memory = by_entry(copy.deepcopy(inputs.memory))
    return results(*inputs.segmented(torch_ops.attend_source, torch.float64, memory), inputs.upstream)


def eager_full(inputs, dtype=None):
    """(function, leaves) of full attention in plain operations."""
    leaves = [x.detach().to(dtype or x.dtype).requires_grad_() for x in inputs.heads_first()]
    mask = inputs.mask[:, None, None, :]

    def attend():
        query, keys, values = leaves
        scores = (query @ keys.transpose(-1, -2)).masked_fill(mask, float("-inf"))
        return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(values.dtype) @ values

    return attend, leaves


def is_full(name):
    """Whether the system of this name attends to the whole source."""
    return name.startswith(("sdpa", "full attention"))


def worst_error(name, inputs, attend, leaves, exact):
    """(name, relative error) of what is furthest off, the output or a gradient.

    `exact` is filled as it is needed: float64 results of the full and of the segmented attention.
    """
    full = is_full(name)
    if full not in exact:
        exact[full] = results(*eager_full(inputs, torch.float64), inputs.upstream) if full else exact_results(inputs)
    each = errors(results(attend, leaves, inputs.upstream), exact[full], inputs.upstream)
    return max(each.items(), key=lambda item: item[1])


def check(name, inputs, attend, leaves, exact):
    """The largest relative error of a system's output and gradients; `exact` as in `worst_error`.

    Raises:
        RuntimeError: it does not compute what it must.
    """
    if name == flex_local.NAME:
        return flex_local.check(inputs, attend, leaves, TOLERANCE)
    worst, error = worst_error(name, inputs, attend, leaves, exact)
    if not error < (PEER_TOLERANCE if is_full(name) else TOLERANCE):
        raise RuntimeError(f"{worst} is off by {error:.1e}")
    return error


def errors(ours, exact, upstream):
    """Relative error of the output and of every gradient, by name."""
    names = ("output", "query", "keys", "values", *dict(RAFMemory(1, 1, SegmentSettings()).named_parameters()))
    return {name: relative_error(a, b, upstream) for name, a, b in zip(names, ours, exact)}


def graphed(function):
    """A CUDA graph of `function`, as a function that replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = function()
    return lambda: (graph.replay(), kept)[0]


def milliseconds(function, quick):
    import triton.testing

    return triton.testing.do_bench(function, warmup=25, rep=60 if quick else 200, return_mode="median")


def peak_bytes(function, inputs):
    """Most memory in use during a call beyond what lay there before it, plus the inputs."""
    function()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    kept = function()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del kept
    return peak + inputs.bytes() + inputs.upstream.numel() * inputs.upstream.element_size()


def measure(attend, leaves, inputs, quick):
    """Milliseconds eager and as a graph, forward and both passes, and the peak relative to the inputs."""

    def both():
        return gradients(attend, leaves, inputs.upstream)

    numbers = {"forward_ms": milliseconds(attend, quick), "both_ms": milliseconds(both, quick)}
    try:
        numbers["graph_both_ms"] = milliseconds(graphed(both), quick)
    except RuntimeError as error:  # operations that ask the device for a value cannot be captured
        numbers["graph_both_ms"] = None
        torch.cuda.synchronize()
        print(f"      no CUDA graph: {str(error).splitlines()[0][:100]}")
    numbers["peak_over_inputs"] = peak_bytes(both, inputs) / inputs.bytes()
    return numbers


def kernel_times(function, calls=20, kernels=KERNELS):
    """Mean microseconds of every fused kernel in one call."""
    for _ in range(3):
        function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            function()
        torch.cuda.synchronize()
    times = defaultdict(float)
    for event in profiler.key_averages():
        name = event.key if event.key in kernels else "other"
        times[name] += event.self_device_time_total / calls
    return {name: times.get(name, 0.0) for name in (*kernels, "other")}


def least_bytes(inputs):
    """Bytes that every kernel must move, inputs and outputs once (docs/kernels.md)."""
    batch, targets, source = inputs.size
    heads = batch * HEADS
    states, width = inputs.segment_plan.num_states, inputs.keys.element_size()
    source_bytes = 2 * heads * source * HEAD_DIM * width  # K and V
    target_bytes = heads * targets * HEAD_DIM * width  # one of q, output, ...
    state = heads * states * HEAD_DIM**2
    return {
        "segment_forward": source_bytes + 4 * state + 2 * target_bytes,
        "scan_forward": 4 * state + width * state + 3 * target_bytes,
        "scan_backward": 2 * width * state + 3 * target_bytes,
        "segment_backward": 2 * source_bytes + width * state + 5 * target_bytes,
    }


def breakdown(inputs, attend, leaves):
    """Print every kernel's time and the rate at which it moves the bytes it must."""
    times = kernel_times(lambda: gradients(attend, leaves, inputs.upstream))
    least = least_bytes(inputs)
    for name, microseconds in times.items():
        rate = f"{least[name] / microseconds / 1e3:7.0f} GB/s" if name in least and microseconds else ""
        print(f"      {name:20} {microseconds:8.1f} us {rate}", flush=True)
    total = sum(least.values())
    print(f"      least bytes {total / 1e6:.0f} MB: {total / 3e9:.3f} ms at 3 TB/s", flush=True)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, without the slow peer")
    parser.add_argument("--commit", help="commit to write down where there is no git")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("needs a CUDA device")
    measured_on = provenance(torch.cuda.get_device_name(), options.commit)
    rows = []
    for size in SIZES:
        inputs = Inputs(*size)
        case = dict(zip(("batch", "targets", "source"), size))
        print(case, flush=True)
        exact = {}
        candidates = {"triton": inputs.segmented(TritonBackend().attend_source)}
        if not options.quick:
            candidates["torch"] = inputs.segmented(torch_ops.attend_source)
        candidates["sdpa default"] = inputs.full()
        for backend in (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION):
            candidates[f"sdpa {backend.name.split('_')[0].lower()}"] = inputs.full(backend)
        candidates[flex_local.NAME] = flex_local.local_part(inputs)
        runs = {}
        for name, (attend, leaves) in candidates.items():
            try:
                error = check(name, inputs, attend, leaves, exact)
                runs[name] = {**measure(attend, leaves, inputs, options.quick), "largest_error": error}
            except RuntimeError as failure:
                print(f"  {name:15} not timed: {str(failure).splitlines()[0][:100]}", flush=True)
                continue
            shown = {what: value if value is None else round(value, 4) for what, value in runs[name].items()}
            print(f"  {name:15}", shown, flush=True)
        del exact
        if "triton" in runs:
            runs["triton"]["kernels_us"] = breakdown(inputs, *candidates["triton"])
            runs["triton"]["plan_ms"] = milliseconds(inputs.plan, options.quick)
            print(f"      plan {runs['triton']['plan_ms']:.3f} ms once per forward pass", flush=True)
        sdpa = {name: run for name, run in runs.items() if name.startswith("sdpa")}
        fastest = min(sdpa, key=lambda name: sdpa[name]["both_ms"])
        flex = [flex_local.NAME] if flex_local.NAME in runs else []
        for peer in dict.fromkeys(("sdpa default", fastest, *flex)):
            for mode in ("both_ms", "graph_both_ms"):
                ours, theirs = runs.get("triton", {}).get(mode), runs[peer][mode]
                ratio = ours and theirs and theirs / ours
                print(f"  {peer} / triton, {mode}: {number(ratio, '.3f')}", flush=True)
                rows.append(
                    {
                        "benchmark": "attention_core",
                        "case": {**case, "mode": mode, "dtype": "bfloat16", "segment": SEGMENT},
                        "peer": peer,
                        "ours": ours,
                        "theirs": theirs,
                        "unit": "ms",
                        "ratio": ratio,
                        "run": runs,
                        **measured_on,
                    }
                )
        torch.cuda.empty_cache()
        write_rows(rows, options.json)


if __name__ == "__main__":
    main()
