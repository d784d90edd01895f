"""Does `--fast-generate` find the hypotheses of fairseq's generator on real sources, and how much faster?

    python -m benchmarks.hypotheses DATA CHECKPOINT --json benchmarks/results/hypotheses.json

DATA is a folder that fairseq-preprocess made, CHECKPOINT a trained SRformer. The first `--sources` sources of a subset
are searched by both generators with the same model at every `--beam` and `--dtype`: length penalty 2, at least 10
tokens, no trigram twice. In float32 one hypothesis that differs, or a score that is off, is an error and there is no
report. In half precision near ties fall either way: the share of equal hypotheses is reported, and beside it how often
fairseq's generator agrees with itself in float32.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from fairseq import checkpoint_utils, utils
from fairseq.sequence_generator import SequenceGenerator

import srformer_plugin  # noqa: F401 (registers the architectures)
from benchmarks.rows import provenance, this_cpu, write_rows
from srformer_plugin.generation import FastSequenceGenerator

SCORE_TOLERANCE = 1e-3  # of a token's log-probability, in nats, in float32
SEARCH = {"len_penalty": 2.0, "min_len": 10, "no_repeat_ngram_size": 3}


def load(data, checkpoint, subset, sources, batch_size):
    """Model, dictionary and batches of real sources, in the data's order."""
    overrides = {"data": str(data)}
    for path, what in ((checkpoint, "a checkpoint"), (data / "dict.target.txt", "fairseq-preprocess's data")):
        if not path.is_file():
            raise SystemExit(f"{path} is not there: name {what}")
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], arg_overrides=overrides)
    task.load_dataset(subset)
    dataset = task.dataset(subset)
    if len(dataset) < sources:
        raise SystemExit(f"{data} has {len(dataset)} sources in {subset}: choose --sources or --subset")
    batches = [range(first, min(first + batch_size, sources)) for first in range(0, sources, batch_size)]
    return model.eval(), task.target_dictionary, [dataset.collater([dataset[i] for i in batch]) for batch in batches]


def search(kind, model, dictionary, batches, beam, max_len, cuda):
    """The best hypothesis of every source: [(tokens, token scores)], and the seconds after one search to warm up."""
    generator = kind([model], dictionary, beam_size=beam, max_len_b=max_len, **SEARCH)
    batches = [utils.move_to_cuda(batch) for batch in batches] if cuda else batches
    for batch in batches:  # every batch shape once: graphs are captured, kernels compiled
        generator.generate([model], batch)
    best, began = {}, time.perf_counter()
    for batch in batches:
        for number, beams in zip(batch["id"].tolist(), generator.generate([model], batch)):
            best[number] = (beams[0]["tokens"].tolist(), beams[0]["positional_scores"].float().cpu())
    return [best[number] for number in sorted(best)], time.perf_counter() - began


def compare(ours, theirs):
    """The share of equal hypotheses, and the largest difference of a token's score in them."""
    equal = [(a[1] - b[1]).abs().max().item() for a, b in zip(ours, theirs, strict=True) if a[0] == b[0]]
    return len(equal) / len(theirs), max(equal, default=float("nan"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that fairseq-preprocess made")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--subset", default="test")
    parser.add_argument("--sources", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--beam", type=int, nargs="+", default=[1, 4, 6])
    parser.add_argument("--max-len", type=int, default=60, help="tokens")
    dtypes = ["float32", "bfloat16", "float16"]
    parser.add_argument("--dtype", nargs="+", default=dtypes[:2], choices=dtypes)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--commit", help="commit to write down where there is no git")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    options = parser.parse_args()
    cuda = options.device == "cuda"
    measured_on = provenance(torch.cuda.get_device_name() if cuda else this_cpu(), options.commit)
    model, dictionary, batches = load(
        options.data, options.checkpoint, options.subset, options.sources, options.batch_size
    )
    rows, exact = [], {}
    for dtype in options.dtype:
        model = model.to(options.device, getattr(torch, dtype))
        for beam in options.beam:
            theirs, ours = (
                search(kind, model, dictionary, batches, beam, options.max_len, cuda)
                for kind in (SequenceGenerator, FastSequenceGenerator)
            )
            share, off = compare(ours[0], theirs[0])
            if dtype == "float32":
                exact[beam] = theirs[0]
                if share < 1 or off > SCORE_TOLERANCE:
                    sys.exit(f"float32, beam {beam}: {share:.1%} equal, scores off by {off:.1e}: no report")
            tokens = sum(len(hypothesis) for hypothesis, _ in theirs[0])
            itself = compare(theirs[0], exact[beam])[0] if beam in exact else None
            row = {
                "benchmark": "hypotheses",
                "case": {"dtype": dtype, "beam": beam, "sources": len(ours[0]), "max_len": options.max_len, **SEARCH},
                "peer": "fairseq's SequenceGenerator, same model",
                "ours": tokens / ours[1],
                "theirs": tokens / theirs[1],
                "unit": "tokens/s",
                "ratio": theirs[1] / ours[1],
                "equal": round(share, 4),
                "stock_equal_to_float32": itself and round(itself, 4),
                "largest_score_difference": off,
                **measured_on,
            }
            print(
                f"{dtype:9} beam {beam}: {share:7.2%} equal (stock and its float32: {itself or 1:.2%}), scores within "
                f"{off:.1e}, {row['ours']:,.0f} against {row['theirs']:,.0f} tokens/s = {row['ratio']:.2f}x",
                flush=True,
            )
            rows.append(row)
            write_rows(rows, options.json)


if __name__ == "__main__":
    main()
