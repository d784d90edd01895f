"""How time and memory of cross-attention grow with the source's length N, and a decoding step's time.

    python -m benchmarks.scaling --json benchmarks/results/scaling.json            # a GPU, bfloat16
    python -m benchmarks.scaling --cpu --json benchmarks/results/scaling_cpu.json  # float32, shorter sources

One sentence, 128 target positions, H = 12, D = 64, s = 64, 7/8 N real tokens padded on the right; N doubles. "forward"
and "both" are the attention core of `benchmarks.attention_core`, timed as there (eager calls, medians). "step" is one
position of 4 hypotheses, from queries to the output projection, over what was kept of the source (`--fast-generate`);
on a GPU the replay of a CUDA graph, as that runs it. Peers: PyTorch's full attention with a key mask (for a step over
cached keys and values), full attention in plain operations, and FlexAttention for the local part alone, without the
memory, at every second N since each is compiled for. What gives other results than float64 is not timed. About 90
seconds on an H100.

Every row holds the exponent of its system's growth: the slope of log time over log N in the longer half of the sources.
"""

import argparse
import statistics
import time

import torch

from benchmarks import flex_local
from benchmarks.attention_core import (
    HEAD_DIM,
    HEADS,
    SEGMENT,
    TOLERANCE,
    Inputs,
    check,
    eager_full,
    gradients,
    graphed,
    milliseconds,
    peak_bytes,
)
from benchmarks.fits import add_exponents, series
from benchmarks.markdown import number
from benchmarks.rows import Results, add_options, provenance, this_device
from srformer_plugin.attention.cross_attention import SegmentedCrossAttention
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.shared_by_beams import FullCrossAttention
from srformer_plugin.attention.source_context import SourceContext
from srformer_plugin.attention.torch import attend as torch_ops
from srformer_plugin.attention.triton.backend import TritonBackend

TARGETS, BEAMS = 128, 4
SHORTEST, LONGEST = 512, {"cuda": 65536, "cpu": 8192}
PEER = "full attention, SDPA"


def core_systems(inputs, with_flex):
    """name -> function that makes (function, leaves) of a system."""
    systems = {PEER: inputs.full}
    if inputs.device == "cuda":
        systems["SRformer, triton"] = lambda: inputs.segmented(TritonBackend().attend_source)
    systems["SRformer, torch"] = lambda: inputs.segmented(torch_ops.attend_source)
    systems["full attention, eager"] = lambda: eager_full(inputs)
    if with_flex:
        systems[flex_local.NAME] = lambda: flex_local.local_part(inputs)
    return systems


@torch.no_grad()
def decoding_steps(source, dtype, device, checked):
    """name -> (function of one step, bytes kept of the source); checked against the whole target in float32."""
    torch.manual_seed(0)
    width = HEADS * HEAD_DIM
    settings = SegmentSettings(segment_size=SEGMENT, expected_target_length=TARGETS)
    encoded = torch.randn(source, 1, width, device=device)
    mask = torch.arange(source, device=device).unsqueeze(0) >= source * 7 // 8
    targets = torch.randn(TARGETS, BEAMS, width, device=device)
    position = torch.tensor([TARGETS // 2], device=device)
    steps = {}
    for name, attention in (
        (PEER, FullCrossAttention(width, HEADS, kdim=width, vdim=width, encoder_decoder_attention=True)),
        ("SRformer", SegmentedCrossAttention(width, HEADS, settings)),
    ):
        attention = attention.to(device).eval()
        query = targets[TARGETS // 2 : TARGETS // 2 + 1]
        if checked:
            repeated = encoded.expand(-1, BEAMS, -1)
            expected, _ = attention(targets, repeated, repeated, mask.expand(BEAMS, -1), need_weights=False)
            found = attention.step(query, attention.open_source(encoded, SourceContext(mask), TARGETS), position)
            error = ((found - expected[TARGETS // 2]).norm() / expected[TARGETS // 2].norm()).item()
            if not error < TOLERANCE:
                raise SystemExit(f"a decoding step of {name} is off by {error:.1e} at {source} tokens: no report")
        attention = attention.to(dtype)
        kept = attention.open_source(encoded.to(dtype), SourceContext(mask), TARGETS)
        size = sum(x.numel() * x.element_size() for x in kept.values())
        steps[name] = (step_of(attention, query.to(dtype), kept, position), size)
    return steps


def step_of(attention, query, kept, position):
    return lambda: attention.step(query, kept, position)


def clock(function, device, quick):
    """Median milliseconds of a call."""
    if device == "cuda":
        return milliseconds(function, quick)
    seconds = []
    function()
    while len(seconds) < 3 or (sum(seconds) < (0.1 if quick else 1.0) and len(seconds) < 200):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


def measure_core(source, dtype, device, with_flex, quick):
    """Yield (system, pass, milliseconds, peak bytes or None) of the attention core."""
    inputs = Inputs(1, TARGETS, source, dtype, device)
    exact = {}
    for name, prepare in core_systems(inputs, with_flex).items():
        try:
            attend, leaves = prepare()
            check(name, inputs, attend, leaves, exact)
            for kind, function in (
                ("forward", attend),
                ("both", lambda a=attend, x=leaves: gradients(a, x, inputs.upstream)),
            ):
                peak = peak_bytes(function, inputs) if device == "cuda" else None
                yield name, kind, clock(function, device, quick), peak
        except torch.OutOfMemoryError:
            print(f"{source:6} {name:24} out of memory", flush=True)
        except Exception as error:  # one system's failure, a peer's too, must not cost the others' numbers
            failure = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            print(f"{source:6} {name:24} not timed: {failure}", flush=True)


def measure_steps(source, dtype, device, quick):
    """As `measure_core`, of a decoding step; the bytes are those kept of the source."""
    # the check computes the whole target by plain full attention: not for the longest sources
    for name, (function, size) in decoding_steps(source, dtype, device, checked=source <= 4096).items():
        with torch.no_grad():
            taken = clock(graphed(function) if device == "cuda" else function, device, quick)
        yield name, "step", taken, size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="on the CPU, in float32")
    parser.add_argument("--shortest", type=int, default=SHORTEST, help=f"source tokens (default {SHORTEST})")
    parser.add_argument("--longest", type=int, help=f"source tokens (default {LONGEST['cuda']}, CPU {LONGEST['cpu']})")
    parser.add_argument("--no-flex", action="store_true", help="without FlexAttention, which takes long to compile")
    add_options(parser, "less time for every median, no FlexAttention")
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        parser.error("needs a CUDA device, or --cpu")
    device, dtype = ("cpu", torch.float32) if options.cpu else ("cuda", torch.bfloat16)
    flex = device == "cuda" and not (options.quick or options.no_flex)
    found = Results(options.json, "scaling", provenance(this_device(options.cpu), options.commit))
    source, turn = options.shortest, 0
    while source <= (options.longest or LONGEST[device]):
        theirs = {}
        for measured in (
            measure_core(source, dtype, device, flex and turn % 2 == 0, options.quick),
            measure_steps(source, dtype, device, options.quick),
        ):
            for name, kind, taken, size in measured:
                theirs.setdefault(kind, taken if name == PEER else None)
                case = {"source": source, "targets": TARGETS, "pass": kind, "system": name}
                case["dtype"] = str(dtype).removeprefix("torch.")
                row = found.add(case, PEER, taken, theirs[kind], "ms", mib=size and round(size / 2**20, 2))
                shown = f"{taken:9.3f} ms {(size or 0) / 2**20:9.1f} MiB  ratio {number(row['ratio'], '.3f')}"
                print(f"{source:6} {name:24} {kind:8} {shown}", flush=True)
        add_exponents(found.rows)
        found.write()
        if device == "cuda":
            torch.cuda.empty_cache()
        source, turn = 2 * source, turn + 1
    for (name, kind), rows in sorted(series(found.rows).items()):
        print(f"{name:24} {kind:8} grows as N^{rows[0]['exponent']} from {rows[0]['exponent_from']}", flush=True)


if __name__ == "__main__":
    main()
