"""Beam search: tokens a second of SRformer with --fast-generate beside stock BART with fairseq's own generator.

    python -m benchmarks.decoding --transformers --json benchmarks/results/decoding.json
    python -m benchmarks.decoding --systems 0 3 4 --cases 16x4096 4x16384 \\
        --json benchmarks/results/decoding_content.json

Models of bart_base's sizes with random weights, random sources of which every second is a fifth shorter, 64 tokens a
hypothesis, beam 4, no trigram twice. A time is that of `generate`, encoder included; the median of several. Before
anything is timed, the fast generator must find the stock generator's hypotheses for the same model in float32, with
their scores: else there is no report. "content" has the segments of srformer_bart_content. A row has the ratio to
stock, and as "ratio_full" that to full attention with the same generator. With --transformers its BART (sources up to
1,024) and LED (longer ones) of the same sizes and settings run too. About 4 minutes on an H100.
"""

import argparse
import statistics
import sys
import time

import torch
from fairseq import utils
from fairseq.sequence_generator import SequenceGenerator

from benchmarks.markdown import number
from benchmarks.random_models import HUGGING_FACE, StubTask, build, hugging_face, import_transformers
from benchmarks.ratios import add_ratio_to_full
from benchmarks.rows import Results, add_options, provenance, sizes, this_cpu
from srformer_plugin.generation import FastSequenceGenerator

# name in the table -> architecture, its settings, generator; the first is the peer of the others
# (for models of transformers: the architecture alone)
SYSTEMS = {
    "bart_base, stock generator": ("bart_base", {}, SequenceGenerator),
    "srformer_bart_base, stock generator": ("srformer_bart_base", {}, SequenceGenerator),
    "srformer_bart_base, --fast-generate": ("srformer_bart_base", {}, FastSequenceGenerator),
    "full attention, --fast-generate": ("srformer_bart_base", {"cross_attention": "full"}, FastSequenceGenerator),
    "content, --fast-generate": ("srformer_bart_content", {}, FastSequenceGenerator),
}
LONGEST_BART = 1024  # its checkpoints end there; longer sources are LED's
CASES = {"cuda": [(32, 1024), (1, 1024), (16, 4096), (4, 16384), (16, 16384), (64, 16384)], "cpu": [(8, 1024)]}


def make_sample(task, batch_size, length, device):
    """Random sources, padded on the left; of every second a fifth is padding."""
    dictionary, generator = task.source_dictionary, torch.Generator().manual_seed(batch_size * length)
    tokens = torch.randint(dictionary.nspecial, len(dictionary), (batch_size, length), generator=generator)
    tokens[:, -1] = dictionary.eos()
    tokens[1::2, : length // 5] = dictionary.pad()
    lengths = tokens.ne(dictionary.pad()).sum(1)
    sample = {"net_input": {"src_tokens": tokens, "src_lengths": lengths}}
    return utils.move_to_cuda(sample) if device == "cuda" else sample


def check(task, device, models):
    """Refuse to go on if the fast generator does not find what the stock one finds.

    `models` are pairs of an architecture and its settings.
    """
    for arch, settings in models:
        model = build(task, arch, 1024, settings).eval().to(device)
        for beam in (1, 4):
            options = {"beam_size": beam, "max_len_b": 24, "no_repeat_ngram_size": 3, "len_penalty": 2.0, "min_len": 5}
            sample, found = make_sample(task, 6, 300, device), []
            for kind in (SequenceGenerator, FastSequenceGenerator):
                found.append(kind([model], task.target_dictionary, **options).generate([model], sample))
            for one, other in zip(*found, strict=True):
                same = [h["tokens"].tolist() for h in one] == [h["tokens"].tolist() for h in other]
                close = all((a["score"] - b["score"]).abs() < 1e-4 for a, b in zip(one, other))
                if not (same and close):
                    which = f"{arch}, {settings}, beam {beam}"
                    raise SystemExit(f"the fast generator finds other hypotheses ({which}): no report")
    print("checked: the hypotheses of the stock generator in float32", flush=True)


def fairseq_search(kind, model, task, options):
    """A generator of class `kind` with the benchmark's settings: as many tokens as `options` say, no trigram twice."""
    return kind(
        [model],
        task.target_dictionary,
        beam_size=options.beam,
        min_len=options.tokens,
        max_len_b=options.tokens,
        no_repeat_ngram_size=3,
    )


def transformers_search(options):
    """The same settings for `generate` of transformers."""
    return {
        "num_beams": options.beam,
        "do_sample": False,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": options.tokens,
        "max_new_tokens": options.tokens,
    }


def fairseq_generate(task, system, case, dtype, options):
    """A function that generates once, and returns the number of tokens of the best hypotheses without their ends."""
    arch, settings, kind = SYSTEMS[system]
    batch_size, length = case
    model = build(task, arch, max(length, 1024), settings).eval().to(options.device, dtype)
    sample = make_sample(task, batch_size, length, options.device)
    generator = fairseq_search(kind, model, task, options)
    return lambda: [len(beams[0]["tokens"]) - 1 for beams in generator.generate([model], sample)]


def transformers_generate(task, kind, case, dtype, options):
    """As `fairseq_generate`, of transformers' BART or LED and its `generate`."""
    batch_size, length = case
    model = hugging_face(kind, length).eval().to(options.device, dtype)
    tokens = make_sample(task, batch_size, length, options.device)["net_input"]["src_tokens"]
    real = tokens.ne(task.source_dictionary.pad()).long()

    def generate():
        found = model.generate(tokens, attention_mask=real, **transformers_search(options))
        return [found.size(1) - 1] * len(found)  # without the token that the decoder starts with

    return generate


def measure(generate, options):
    """Median seconds of one `generate`, and the peak memory in MiB."""
    cuda = options.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(options.warm_up + options.repeats):
        began = time.perf_counter()
        counts = generate()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    if set(counts) != {options.tokens}:
        raise SystemExit(f"hypotheses of {counts} tokens and not of {options.tokens}: no report")
    memory = torch.cuda.max_memory_allocated() / 2**20 if cuda else None
    return statistics.median(seconds[options.warm_up :]), memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], help="default: bfloat16 on a GPU")
    parser.add_argument("--cases", nargs="+", type=sizes("BxN"), metavar="BxN", help="sentences x source tokens")
    numbered = "; ".join(f"{number}: {name}" for number, name in enumerate(SYSTEMS))
    parser.add_argument("--systems", nargs="+", type=int, choices=range(len(SYSTEMS)), help=f"only these: {numbered}")
    parser.add_argument("--transformers", action="store_true", help="transformers' BART or LED too, with its generate")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64, help="of every hypothesis")
    parser.add_argument("--repeats", type=int, help="timed runs, of which the median counts (default 5; quick: 1)")
    parser.add_argument("--warm-up", type=int, help="runs before them (default 2; quick: 1)")
    add_options(parser, "one timed run each")
    options = parser.parse_args()
    if options.repeats is None:
        options.repeats = 1 if options.quick else 5
    if options.warm_up is None:
        options.warm_up = 1 if options.quick else 2
    if options.transformers:
        import_transformers()
    dtype = getattr(torch, options.dtype or ("bfloat16" if options.device == "cuda" else "float32"))
    cases = options.cases or CASES[options.device]
    names = list(SYSTEMS)
    systems = names if options.systems is None else [names[number] for number in options.systems]

    measured_on = provenance(torch.cuda.get_device_name() if options.device == "cuda" else this_cpu(), options.commit)
    task = StubTask()
    check(task, options.device, [SYSTEMS[name][:2] for name in systems if SYSTEMS[name][2] is FastSequenceGenerator])
    results = Results(options.json, "decoding", measured_on)
    for case in cases:
        theirs, runs = None, dict.fromkeys(systems, fairseq_generate)
        if options.transformers:
            runs["bart" if case[1] <= LONGEST_BART else "led"] = transformers_generate
        for system, prepare in runs.items():
            if options.device == "cuda":
                torch.cuda.empty_cache()
            name = f"{HUGGING_FACE[system]}, generate" if system in HUGGING_FACE else system
            try:
                seconds, memory = measure(prepare(task, system, case, dtype, options), options)
            except torch.OutOfMemoryError:
                print(f"{case[0]:3} x {case[1]:6} {name:38} out of memory", flush=True)
                continue
            speed = case[0] * options.tokens / seconds
            theirs = speed if system == names[0] else theirs
            step = 1000 * seconds / (options.tokens + 1)
            ratio = theirs and speed / theirs
            print(
                f"{case[0]:3} x {case[1]:6} {name:38} {speed:9.1f} tokens/s {step:7.2f} ms/step  "
                f"{memory or 0:8.0f} MiB  ratio {number(ratio, '.2f')}",
                flush=True,
            )
            results.add(
                {
                    "batch": case[0],
                    "source": case[1],
                    "beam": options.beam,
                    "tokens": options.tokens,
                    "dtype": str(dtype).removeprefix("torch."),
                    "system": name,
                },
                names[0],
                speed,
                theirs,
                "tokens/s",
                peak_mib=memory and round(memory),
                python=sys.version.split()[0],
            )
        for row in add_ratio_to_full(results.rows):
            if (row["case"]["batch"], row["case"]["source"]) == case and row["ratio_full"] is not None:
                print(f"{row['case']['system']}: {row['ratio_full']:.2f} of full attention, same generator", flush=True)
        results.write()


if __name__ == "__main__":
    main()
