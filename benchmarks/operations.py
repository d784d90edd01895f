"""Operations of SRformer's cross-attention beside full attention's, forward: the paper's "about 40% less".

    python -m benchmarks.operations --json benchmarks/results/operations.json

Counted (multiply-adds, twice) by PyTorch's flop counter while `--attention-backend torch` runs, for one sentence
without padding, 8 heads of 64, a schedule as long as the target; a count outside the formula's bounds
(docs/attention.md, section 6) is an error. "Core" leaves out the four projections, which both kinds of attention have.
"""

import argparse

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rows import Results, add_options, provenance, this_cpu
from srformer_plugin.attention.cross_attention import SegmentedCrossAttention
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.torch.grouping import MAX_DENSE_OVERHEAD

HEADS, HEAD_DIM = 8, 64
WIDTH = HEADS * HEAD_DIM
SIZES = [(128, 1024), (128, 4096), (128, 16384), (256, 4096), (512, 16384)]  # T, N
SEGMENTS = [(64, 2.0), (64, 0.0), (16, 2.0), (16, 0.0)]  # s, the clip (0: none)


def count(segment_size: int, clamp: float, targets: int, source: int) -> int:
    """Operations of the attention core, counted while the module runs, less those of its projections."""
    settings = SegmentSettings(segment_size=segment_size, kv_clamp=clamp, expected_target_length=targets)
    module = SegmentedCrossAttention(WIDTH, HEADS, settings)
    query, encoder = (torch.randn(length, 1, WIDTH) for length in (targets, source))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(query, encoder, encoder, None)
    return counter.get_total_flops() - projections(targets, source)


def formula(segment_size: int, clamp: float, targets: int, source: int) -> tuple[int, int]:
    """The same by docs/attention.md, section 6, for whole segments: the least and the most.

    The least is what is needed. Targets are grouped by their segments in groups of one size, so that where they do not
    spread evenly, as many slots as there are targets may be empty, which are computed all the same.
    """
    states = min(source // segment_size, targets)
    local, reading = 4 * targets * segment_size * WIDTH, 2 * targets * WIDTH * HEAD_DIM
    products, weight = 2 * source * WIDTH * HEAD_DIM, 2 * states * WIDTH * HEAD_DIM**2
    if clamp == 0:  # W may act on the values instead
        weight = min(weight, products)
    least = local + products + weight + reading
    return least, least + int((MAX_DENSE_OVERHEAD - 1) * (local + reading))


def full(targets: int, source: int) -> int:
    """Operations of the core of full attention."""
    return 4 * targets * source * WIDTH


def projections(targets: int, source: int) -> int:
    """Operations of the four projections: queries and output, keys and values."""
    return 2 * WIDTH**2 * 2 * (targets + source)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "the paper's size only")
    options = parser.parse_args()
    results = Results(options.json, "operations", provenance(this_cpu(), options.commit))
    for targets, source in SIZES[: 1 if options.quick else None]:
        for segment_size, clamp in SEGMENTS:
            size = (segment_size, clamp, targets, source)
            ours, theirs = count(*size), full(targets, source)
            least, most = formula(*size)
            if not least <= ours <= most:
                raise SystemExit(f"s, clip, T, N = {size}: {ours:,} operations and not {least:,} to {most:,}")
            others = projections(targets, source)
            row = results.add(
                {"targets": targets, "source": source, "segment": segment_size, "clip": clamp, "heads": HEADS,
                 "head_dim": HEAD_DIM},
                "full attention", ours, theirs, "operations",
                saved_percent=round(100 * (1 - ours / theirs), 1),
                saved_percent_with_projections=round(100 * (1 - (ours + others) / (theirs + others)), 1),
            )  # fmt: skip
            shown = f"{row['saved_percent']:6.1f}% fewer"
            print(f"T {targets:4} N {source:6} s {segment_size:3} clip {clamp:g}: {shown}", flush=True)


if __name__ == "__main__":
    main()
