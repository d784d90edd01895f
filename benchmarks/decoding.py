"""Beam search: tokens a second of SRformer with --fast-generate beside stock BART with fairseq's own generator.

    python -m benchmarks.decoding --json benchmarks/results/decoding.json

Models of bart_base's sizes with random weights, random sources of which every second is a fifth shorter, 64 tokens a
hypothesis, beam 4, no trigram twice. A time is that of `generate`, encoder included; the median of several. Before
anything is timed, the fast generator must find the stock generator's hypotheses for the same model in float32, with
their scores: else there is no report.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from fairseq import utils
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.sequence_generator import SequenceGenerator

import srformer_plugin  # noqa: F401 (registers the architectures)
from benchmarks.rows import provenance, this_cpu, write_rows
from srformer_plugin.generation import FastSequenceGenerator

WORDS = 50_260  # BART's vocabulary without the four special symbols
# name in the table -> architecture, its settings, generator; the first is the peer of the others
SYSTEMS = {
    "bart_base, stock generator": ("bart_base", {}, SequenceGenerator),
    "srformer_bart_base, stock generator": ("srformer_bart_base", {}, SequenceGenerator),
    "srformer_bart_base, --fast-generate": ("srformer_bart_base", {}, FastSequenceGenerator),
    "full attention, --fast-generate": ("srformer_bart_base", {"cross_attention": "full"}, FastSequenceGenerator),
}
CASES = {"cuda": [(32, 1024), (1, 1024), (16, 4096), (4, 16384), (16, 16384)], "cpu": [(8, 1024)]}


class StubTask:
    """A dictionary of BART's size and no data."""

    def __init__(self):
        self.source_dictionary = self.target_dictionary = Dictionary()
        for number in range(WORDS):
            self.source_dictionary.add_symbol(f"w{number}")
        self.datasets = {}


def build(task, arch, positions, settings):
    """A model with random weights of seed 1, in eval mode."""
    torch.manual_seed(1)
    args = argparse.Namespace(
        arch=arch, task="translation", share_all_embeddings=True, max_source_positions=positions,
        max_target_positions=1024, expected_target_length=64, **settings,
    )  # fmt: skip
    ARCH_CONFIG_REGISTRY[arch](args)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, task).eval()


def make_sample(task, batch_size, length, device):
    """Random sources, padded on the left; of every second a fifth is padding."""
    dictionary, generator = task.source_dictionary, torch.Generator().manual_seed(batch_size * length)
    tokens = torch.randint(dictionary.nspecial, len(dictionary), (batch_size, length), generator=generator)
    tokens[:, -1] = dictionary.eos()
    tokens[1::2, : length // 5] = dictionary.pad()
    lengths = tokens.ne(dictionary.pad()).sum(1)
    sample = {"net_input": {"src_tokens": tokens, "src_lengths": lengths}}
    return utils.move_to_cuda(sample) if device == "cuda" else sample


def check(task, device):
    """Refuse to go on if the fast generator does not find what the stock one finds."""
    for settings in ({}, {"cross_attention": "full"}):
        model = build(task, "srformer_bart_base", 1024, settings).to(device)
        for beam in (1, 4):
            options = {"beam_size": beam, "max_len_b": 24, "no_repeat_ngram_size": 3, "len_penalty": 2.0, "min_len": 5}
            sample, found = make_sample(task, 6, 300, device), []
            for kind in (SequenceGenerator, FastSequenceGenerator):
                found.append(kind([model], task.target_dictionary, **options).generate([model], sample))
            for one, other in zip(*found, strict=True):
                same = [h["tokens"].tolist() for h in one] == [h["tokens"].tolist() for h in other]
                close = all((a["score"] - b["score"]).abs() < 1e-4 for a, b in zip(one, other))
                if not (same and close):
                    raise SystemExit(f"the fast generator finds other hypotheses ({settings}, beam {beam}): no report")
    print("checked: the hypotheses of the stock generator in float32", flush=True)


def measure(task, system, case, dtype, options):
    """Median seconds of one `generate`, and the peak memory in MiB."""
    arch, settings, kind = SYSTEMS[system]
    batch_size, length = case
    model = build(task, arch, max(length, 1024), settings).to(options.device, dtype)
    sample = make_sample(task, batch_size, length, options.device)
    generator = kind(
        [model], task.target_dictionary, beam_size=options.beam, min_len=options.tokens, max_len_b=options.tokens,
        no_repeat_ngram_size=3,
    )  # fmt: skip
    cuda = options.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(options.warm_up + options.repeats):
        began = time.perf_counter()
        found = generator.generate([model], sample)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    assert all(len(beams[0]["tokens"]) == options.tokens + 1 for beams in found)
    memory = torch.cuda.max_memory_allocated() / 2**20 if cuda else None
    return statistics.median(seconds[options.warm_up :]), memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], help="default: bfloat16 on a GPU")
    parser.add_argument("--cases", nargs="+", metavar="BxN", help="sentences x source tokens (default: the issue's)")
    parser.add_argument("--systems", nargs="+", type=int, help="only these numbers of: " + "; ".join(SYSTEMS))
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64, help="of every hypothesis")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--commit", help="commit to write down where there is no git")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype or ("bfloat16" if options.device == "cuda" else "float32"))
    cases = [tuple(map(int, case.split("x"))) for case in options.cases or []] or CASES[options.device]
    names = list(SYSTEMS)
    systems = names if options.systems is None else [names[number] for number in options.systems]

    measured_on = provenance(torch.cuda.get_device_name() if options.device == "cuda" else this_cpu(), options.commit)
    task = StubTask()
    check(task, options.device)
    rows = []
    for case in cases:
        theirs = None
        for system in systems:
            if options.device == "cuda":
                torch.cuda.empty_cache()
            try:
                seconds, memory = measure(task, system, case, dtype, options)
            except torch.OutOfMemoryError:
                print(f"{case[0]:3} x {case[1]:6} {system:38} out of memory", flush=True)
                continue
            speed = case[0] * options.tokens / seconds
            theirs = speed if system == names[0] else theirs
            step = 1000 * seconds / (options.tokens + 1)
            ratio = theirs and round(speed / theirs, 2)
            print(
                f"{case[0]:3} x {case[1]:6} {system:38} {speed:9.1f} tokens/s {step:7.2f} ms/step  "
                f"{memory or 0:8.0f} MiB  ratio {ratio}",
                flush=True,
            )
            rows.append(
                {
                    "benchmark": "decoding",
                    "case": {
                        "batch": case[0], "source": case[1], "beam": options.beam, "tokens": options.tokens,
                        "dtype": str(dtype).removeprefix("torch."), "system": system,
                    },
                    "peer": names[0],
                    "ours": round(speed, 1),
                    "theirs": theirs and round(theirs, 1),
                    "unit": "tokens/s",
                    "ratio": ratio,
                    "peak_mib": memory and round(memory),
                    "python": sys.version.split()[0],
                    **measured_on,
                }
            )  # fmt: skip
    write_rows(rows, options.json)


if __name__ == "__main__":
    main()
