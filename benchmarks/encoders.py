"""Time (and on a GPU memory) of the encoders of `--encoder-attention`, and how they grow with the source's length N.

    python -m benchmarks.encoders --transformers --json benchmarks/results/encoders.json  # a GPU: bart_base, bfloat16
    python -m benchmarks.encoders --cpu --json benchmarks/results/encoders_cpu.json       # 2 layers of 256, float32

One sentence without padding, random weights, no dropout: a whole encoder, embeddings included. "forward" is without
gradients, where chunks go through in portions; "both" is forward and backward, to the gradients of all weights. Chunks
of 768 with 128 tokens of context on either side, windows of 512 a side with one global token; the peer is the stock
encoder, whose full attention is PyTorch's `scaled_dot_product_attention`. An encoder that misses what it is to compute,
at 2,000 tokens in float64 by plain loops, is not timed. With --transformers its LED (512 a side, one global token) and
LongT5 (local, blocks of 128) of the same sizes and dtype run too, and rows have the ratios to its LED; what
runs out of memory is a row that says so. On a GPU medians of calls after a first one; on a CPU the shortest processor
time of one thread in three calls, or of a first call of more than 10 s, so that what else runs there counts little.
Exponents are the slope of log time over log N in the longer half of the sources. About a minute on an H100.
"""

import argparse
import copy
import math
import os
import statistics
import time

import torch

from benchmarks.attention_core import milliseconds
from benchmarks.encoder_peers import LED, peers
from benchmarks.fits import add_exponents, series
from benchmarks.markdown import number
from benchmarks.random_models import StubTask, build, import_transformers
from benchmarks.ratios import add_ratio
from benchmarks.rows import Results, add_options, attempt, provenance, this_device
from srformer_plugin.models.encoders import window
from srformer_plugin.models.encoders.window_attention import window_attention_reference

LENGTHS = {"cpu": (1024, 4096, 16384), "cuda": (1024, 4096, 16384, 65536)}
SIZES = {
    "cpu": {
        "encoder_layers": 2,
        "encoder_embed_dim": 256,
        "encoder_ffn_embed_dim": 1024,
        "encoder_attention_heads": 4,
        "decoder_embed_dim": 256,
        "decoder_attention_heads": 4,
        "decoder_ffn_embed_dim": 256,
    },
    "cuda": {},  # the architecture's own
}
DTYPES, TOLERANCES = {"cpu": torch.float32, "cuda": torch.bfloat16}, {"cpu": 1e-4, "cuda": 3e-2}
WORDS, CHECKED, CALLS = 1000, 2000, 3
LONG_CALL = {"cpu": 10.0, "cuda": 0.2}  # seconds, from which on fewer calls do
POSITIONS, CHUNK, CONTEXT = 1024, 768, 128
PEER, PASSES = "full", ("forward", "both")
SETTINGS = {
    PEER: {},
    "chunked": {"encoder_positions": POSITIONS, "encoder_chunk": CHUNK, "encoder_context": CONTEXT},
    "window": {"encoder_window": 512, "encoder_global_tokens": 1},
}


def encoders(device, longest):
    """name -> an encoder in float32; all have the weights of `full`, whose learned positions are repeated."""
    task, found, weights = StubTask(WORDS), {}, None
    for name, settings in SETTINGS.items():
        options = {"decoder_layers": 1, "dropout": 0.0, "cross_attention": "full", **SIZES[device]}
        model = build(task, "srformer_bart", longest, {**options, "encoder_attention": name, **settings})
        if weights is None:
            table = model.encoder.embed_positions.weight.data[2:]
            table.copy_(table[:POSITIONS].repeat(-(-longest // POSITIONS), 1)[:longest])
            weights = model.state_dict()
        short = weights["encoder.embed_positions.weight"][: POSITIONS + 2]
        model.load_state_dict(weights if name != "chunked" else {**weights, "encoder.embed_positions.weight": short})
        found[name] = model.encoder.to(device).eval()
    return found


def source_of(length, device):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(4, WORDS, (1, length), generator=generator).to(device)


def states(encoder, tokens):
    return encoder(tokens)["encoder_out"][0]


@torch.no_grad()
def reference(name, found, tokens):
    """What encoder `name` is to compute of (1, N) tokens, in float64: (N, 1, C)."""
    exact = copy.deepcopy(found[name if name == "window" else PEER]).double()
    if name == "window":
        fast, window.window_attention = window.window_attention, _without_dropout(window_attention_reference)
        try:
            return states(exact, tokens)
        finally:
            window.window_attention = fast
    if name == PEER:
        return states(exact, tokens)
    parts, start, width = [], 0, CHUNK + 2 * CONTEXT
    while True:
        begin = min(start, tokens.size(1) - width)
        row = states(exact, tokens[:, begin : begin + width])
        first = 0 if start == 0 else start + CONTEXT - begin
        if begin + width == tokens.size(1):
            return torch.cat([*parts, row[first:]])
        parts.append(row[first : CONTEXT + CHUNK])
        start += CHUNK


def _without_dropout(attend):
    return lambda *arguments: attend(*arguments[:-1])


@torch.no_grad()
def check(name, found, ours, device):
    """End where the encoder `ours`, of the dtype that is timed, misses `reference`."""
    tokens = source_of(CHECKED, device)
    expected = reference(name, found, tokens)
    error = ((states(ours, tokens).double() - expected).norm() / expected.norm()).item()
    if not error < TOLERANCES[device]:
        raise SystemExit(f"{name} misses the float64 result at {CHECKED} tokens by {error:.1e}: no report")
    return error


def passes(encoder, tokens):
    """name of a pass -> function without arguments."""
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    with torch.no_grad():
        upstream = torch.randn_like(states(encoder, tokens[:, :8])).repeat(-(-tokens.size(1) // 8), 1, 1)
    upstream = upstream[: tokens.size(1)]

    def forward():
        with torch.no_grad():
            return states(encoder, tokens)

    def both():
        return torch.autograd.grad(states(encoder, tokens), parameters, upstream, allow_unused=True)

    return dict(zip(PASSES, (forward, both)))


def timed(function, device, quick):
    """Milliseconds of a call."""
    if device == "cuda":
        return milliseconds(function, quick) if _seconds(function, 2) < LONG_CALL[device] else 1000 * _seconds(function)
    shortest = math.inf
    for _ in range(1 if quick else CALLS):
        began = time.process_time()
        function()
        taken = time.process_time() - began
        shortest = min(shortest, taken)
        if taken > LONG_CALL[device]:
            break
    return 1000 * shortest


def _seconds(function, calls=CALLS):
    """Of a call on a GPU by the clock: the lower median of some calls."""
    taken = []
    for _ in range(calls):
        torch.cuda.synchronize()
        began = time.perf_counter()
        function()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median_low(taken)


def measure(function, device, quick):
    """(milliseconds of a call, MiB that it needs or None)."""
    return timed(function, device, quick), _peak(function, device)


def add_ratios_to_led(rows):
    """Put "ratio_led" (of times) and "mib_led" (of memory) into rows: LED's / theirs. Returns `rows`."""
    return add_ratio(add_ratio(rows, "ratio_led", lambda _: LED), "mib_led", lambda _: LED, of="mib")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="on the CPU: a small encoder in float32")
    parser.add_argument("--transformers", action="store_true", help="transformers' encoders of LED and LongT5 too")
    parser.add_argument("--longest", type=int, help="leave longer sources out")
    add_options(parser, "sources of 1,024 and 4,096 tokens, one call or less time for each")
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        parser.error("needs a CUDA device, or --cpu")
    device = "cpu" if options.cpu else "cuda"
    if options.transformers:
        import_transformers()
    longest = options.longest or (4096 if options.quick else LENGTHS[device][-1])
    torch.set_num_threads(1)
    table = Results(options.json, "encoders", provenance(this_device(options.cpu), options.commit))
    found, dtype = encoders(device, max(longest, CHECKED)), DTYPES[device]
    timed_encoders = {name: copy.deepcopy(encoder).to(dtype) for name, encoder in found.items()}
    errors = {name: check(name, found, encoder, device) for name, encoder in timed_encoders.items()}
    if options.transformers:
        theirs = peers(max(longest, CHECKED), WORDS, *layer_sizes(found[PEER]))
        timed_encoders |= {name: encoder.to(device, dtype) for name, encoder in theirs.items()}
    for length in (length for length in LENGTHS[device] if length <= longest):
        full = {}
        for name, encoder in timed_encoders.items():
            functions, failure = attempt(device, passes, encoder, source_of(length, device))
            for kind in PASSES:
                numbers = None
                if functions:
                    numbers, failure = attempt(device, measure, functions[kind], device, options.quick)
                taken, mib = numbers or (None, None)
                full.setdefault(kind, taken)  # the peer comes first
                case = {"source": length, "pass": kind, "system": name, "dtype": str(dtype).removeprefix("torch.")}
                row = table.add(
                    {**case, "sizes": SIZES[device] or "bart_base"},
                    PEER,
                    taken,
                    full[kind],
                    "ms",
                    mib=mib,
                    error=errors.get(name),
                    not_timed=failure,
                    load=round(os.getloadavg()[0], 2),
                )
                shown = f"not timed: {failure}" if failure else f"{taken:10.1f} ms, {mib} MiB"
                shown += f", ratio {number(row['ratio'], '.3f')}"
                print(f"{length:6} {name:35} {kind:8} {shown}, load {row['load']}", flush=True)
        add_exponents(add_ratios_to_led(table.rows))
        table.write()
    for (name, kind), rows in series(table.rows).items():
        print(f"{name:35} {kind:8} grows as N^{rows[0]['exponent']} from {rows[0]['exponent_from']}", flush=True)
        for row in rows:
            if row["ratio_led"]:
                beside = f"{row['ratio_led']:.2f}, {number(row['mib_led'], '.2f')}"
                print(f"    {row['case']['source']}: LED's time and memory / its: {beside}", flush=True)


def layer_sizes(encoder):
    """Layers, width, feed-forward width and heads of an encoder of fairseq's."""
    layer = encoder.layers[0]
    return len(encoder.layers), layer.embed_dim, layer.fc1.out_features, layer.self_attn.num_heads


def _peak(function, device):
    """MiB that a call needs at most beside what is there; None on a CPU."""
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


if __name__ == "__main__":
    main()
