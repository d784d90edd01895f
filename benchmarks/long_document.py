"""Seconds to summarise one long document: a chunked encoder, segments chosen by content and --fast-generate.

    python -m benchmarks.long_document --transformers --json benchmarks/results/long_document.json
    python -m benchmarks.long_document --cpu --json benchmarks/results/long_document_cpu.json

bart_base's sizes with random weights, one document of random tokens, beam 4, 128 tokens, no trigram twice; bfloat16 on
a GPU, float32 on a CPU. "whole" is a call of `generate`, the median of several after a first one, which makes the CUDA
graphs ("first_s" of a row); "encoder" is its encoder, with the device's waits before and behind, "decoder" the rest.
The peak is that of all calls, weights included. Exponents are the slope of log time over log N in the longer half of
the lengths. With --transformers its LED, 512 tokens a side and the first token global as published, generates as much
at 16,384 tokens, or at the longest of fewer. Nothing is timed before the fast generator has found the stock generator's
hypotheses for sources of several chunks in float32. About a minute on an H100.
"""

import argparse
import functools
import os
import statistics
import time

import torch

from benchmarks import decoding
from benchmarks.fits import add_exponents, series
from benchmarks.markdown import number
from benchmarks.random_models import PUBLISHED_WINDOW, StubTask, build, hugging_face, import_transformers
from benchmarks.rows import Results, add_options, attempt, provenance, this_device
from srformer_plugin.generation import FastSequenceGenerator

ARCH, SETTINGS = "srformer_bart_content", {"encoder_attention": "chunked"}
SHORT_CHUNKS = {"encoder_chunk": 96, "encoder_context": 16}  # the sources of the check are cut too
OURS, PEER = "chunked, content, --fast-generate", f"transformers LED, {PUBLISHED_WINDOW // 2} a side, generate"
LENGTHS = {"cuda": (4096, 8192, 16384, 32768, 65536), "cpu": (16384, 90112)}
PEERS_LENGTH = 16384
PASSES = ("whole", "encoder", "decoder")


class Clock:
    """Seconds since the start of the process, when the device has done what it was given."""

    def __init__(self, device):
        self.synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None

    def __call__(self):
        self.synchronize()
        return time.perf_counter()

    def around(self, module):
        """A list to which every call of `module` adds its seconds from now on."""
        began, taken = [], []
        module.register_forward_pre_hook(lambda *_: began.append(self()))
        module.register_forward_hook(lambda *_: taken.append(self() - began.pop()))
        return taken


def our_generate(model, task, options):
    """Document (1, N) -> number of tokens of the best hypothesis."""
    generator = decoding.fairseq_search(FastSequenceGenerator, model, task, options)

    def generate(tokens):
        sample = {"net_input": {"src_tokens": tokens, "src_lengths": tokens.new_tensor([tokens.size(1)])}}
        return len(generator.generate([model], sample)[0][0]["tokens"]) - 1

    return generate


def their_generate(model, options):
    """As `our_generate`, of transformers' LED."""

    def generate(tokens):
        first = torch.zeros_like(tokens)
        first[:, 0] = 1
        masks = {"attention_mask": torch.ones_like(tokens), "global_attention_mask": first}
        found = model.generate(tokens, **masks, **decoding.transformers_search(options))
        return found.size(1) - 1

    return generate


def measure(generate, encoder_seconds, tokens, options):
    """({pass: median seconds}, seconds of the first call, peak in MiB or None) of documents `tokens` (1, N).

    `encoder_seconds` is the list of `Clock.around` the encoder.
    """
    clock, whole = Clock(tokens.device.type), []
    if tokens.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    encoder_seconds.clear()
    for _ in range(1 + options.repeats):
        began = clock()
        count = generate(tokens)
        whole.append(clock() - began)
        if count != options.tokens or len(encoder_seconds) != len(whole):
            raise RuntimeError(f"{count} tokens and not {options.tokens}, or not one call of the encoder")
    peak = round(torch.cuda.max_memory_allocated() / 2**20) if tokens.is_cuda else None
    first = whole[0]
    if options.repeats > 0:
        del whole[0], encoder_seconds[0]
    rest = [total - encoder for total, encoder in zip(whole, encoder_seconds)]
    return dict(zip(PASSES, map(statistics.median, (whole, encoder_seconds, rest)))), first, peak


class Run:
    """The rows of one run."""

    def __init__(self, task, options, device, results):
        self.task, self.options, self.device, self.results = task, options, device, results
        self.dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self.theirs = {}

    def prepared(self, system, length):
        """(maker of a function to generate with, seconds of its encoder's calls) of sources up to `length`."""
        if system == OURS:
            model = build(self.task, ARCH, length, SETTINGS)
            encoder, make = model.encoder, functools.partial(our_generate, model, self.task, self.options)
        else:
            words = len(self.task.source_dictionary) - self.task.source_dictionary.nspecial
            model = hugging_face("led", length, words, PUBLISHED_WINDOW)
            encoder, make = model.get_encoder(), functools.partial(their_generate, model, self.options)
        model.eval().to(self.device, self.dtype)
        return make, Clock(self.device).around(encoder)

    def time(self, system, lengths):
        """A row for every length and pass."""
        prepared, failure = attempt(self.device, self.prepared, system, max(lengths))
        for length in lengths:
            numbers = None
            if prepared:
                tokens = decoding.make_sample(self.task, 1, length, self.device)["net_input"]["src_tokens"]
                make, encoder_seconds = prepared  # a generator of its own: it keeps the buffers of the last lengths
                numbers, failure = attempt(self.device, measure, make(), encoder_seconds, tokens, self.options)
            seconds, first, peak = numbers or (dict.fromkeys(PASSES), None, None)
            for kind in PASSES:
                self._add(system, length, kind, seconds[kind], peak_mib=peak, first_s=first, not_timed=failure)

    def _add(self, system, length, kind, seconds, **more):
        if system == PEER:
            self.theirs[length, kind] = seconds
        case = {"source": length, "beam": self.options.beam, "tokens": self.options.tokens, "system": system}
        case |= {"pass": kind, "dtype": str(self.dtype).removeprefix("torch.")}
        load = round(os.getloadavg()[0], 2)
        row = self.results.add(case, PEER, seconds, self.theirs.get((length, kind)), "s", **more, load=load)
        shown = f"{seconds:8.3f} s" if seconds else f"not timed: {more['not_timed']}"
        memory = f", peak {more['peak_mib']} MiB" if more["peak_mib"] else ""
        print(f"{length:6} {system:42} {kind:8} {shown}{memory}, ratio {number(row['ratio'], '.3f')}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="on the CPU, in float32, two lengths")
    parser.add_argument(
        "--lengths",
        nargs="+",
        type=int,
        help="of the document in tokens (default: 4,096 to 65,536; CPU: 16,384 and 90,112)",
    )
    parser.add_argument("--transformers", action="store_true", help="transformers' LED too, with its generate")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128, help="of every hypothesis")
    parser.add_argument("--repeats", type=int, help="timed calls after the first one (default 5; quick and CPU: 1)")
    parser.add_argument("--words", type=int, help="of the vocabulary; fewer for a trial")
    add_options(parser, "one timed call each")
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        parser.error("needs a CUDA device, or --cpu")
    device = "cpu" if options.cpu else "cuda"
    if options.repeats is None:
        options.repeats = 1 if options.quick or options.cpu else 5
    if options.transformers:
        import_transformers()
    results = Results(options.json, "long_document", provenance(this_device(options.cpu), options.commit))
    task = StubTask(options.words) if options.words else StubTask()
    decoding.check(task, device, [(ARCH, {**SETTINGS, **SHORT_CHUNKS})])
    run = Run(task, options, device, results)
    lengths = options.lengths or LENGTHS[device]
    if options.transformers:
        run.time(PEER, [min(PEERS_LENGTH, max(lengths))])
    run.time(OURS, lengths)
    add_exponents(results.rows)
    results.write()
    for (system, kind), rows in series(results.rows).items():
        if rows[0]["exponent"] is not None:
            print(f"{system} {kind} grows as N^{rows[0]['exponent']} from {rows[0]['exponent_from']}", flush=True)


if __name__ == "__main__":
    main()
