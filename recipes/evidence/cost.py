"""What a kind of cross-attention costs, counted by its formula, beside full attention.

Per head of D numbers, for T target and N source tokens, m = ceil(N / s) segments (docs/attention.md, section 6; one
multiply-add is 2 operations; projections are counted by themselves, below):

    full                  N keys a query                       4 T N D
    hepos                 N / S keys a query                   4 T N D / S
    segmented, clock      the segment's                        4 T (keys) D
    previous              that and the segment before it
    pooled                that and a mean of every other segment; 4 N D for the means
    srformer              as segmented; and 2 N D^2 + min(2 m D^3, 2 N D^2) + 2 T D^2 for the memory (without a clip)
    content               the tokens of the K best segments; 2 T m D for the scores and 2 N D for the mean keys

Keys and values are projections of the N encoder states of C numbers, 4 N C D operations a head, whoever reads them: a
query's segment is known later than they are. hepos alone knows which head reads a token, and projects it for no other
(`HeposCrossAttention._project`): 4 N C D / S. The projections of queries and outputs are everybody's.

A system with a --max-source-positions of its own reads so many tokens, beside full attention to all N.
"""

import math
from dataclasses import dataclass

import numpy as np
from fairseq import options

import srformer_plugin  # noqa: F401 (registers the architectures)
from recipes.evidence.work import value_of
from srformer_plugin.attention.settings import HEPOS, SegmentSettings


@dataclass(frozen=True)
class Cost:
    """Means over the texts, beside full attention to the same sources."""

    keys: float  # share of the source's tokens that a query attends to, pooled segments counted as one key each
    operations: float  # share of full attention's, without projections
    projections: float  # share of full attention's to project keys and values


def options_of(words):
    """What fairseq-train makes of its flags `words`: with what the architecture and the defaults fill in."""
    return options.parse_args_and_arch(options.get_training_parser(), ["data", "--task", "summarization", *words])


def head_size(model):
    """Numbers of a decoder's head, D; `model` as `options_of` returns it."""
    if hasattr(model, "d_kv"):  # of T5, whatever the width
        return model.d_kv
    return model.decoder_embed_dim // model.decoder_attention_heads


def cost(words, sources, targets):
    """The `Cost` of the model that fairseq-train makes of the flags `words`.

    Args:
        sources: tokens of every source, [texts].
        targets: mean tokens of a target, over which the clock walks through the source unless the flags say it.
    """
    model, kinds = options_of(words), []
    chosen, head = SegmentSettings.from_namespace(model), head_size(model)
    most = float(value_of(words, "--max-source-positions", math.inf))
    for source in np.asarray(sources, dtype=float):
        read = min(source, most)
        shares = *_one(chosen, read, targets, chosen.expected_target_length or targets, head), _projected(chosen)
        kinds.append(np.array(shares) * (read / source))
    return Cost(*map(float, np.mean(kinds, axis=0)))


def _projected(chosen):
    """Share of the keys and values of all heads that are computed, of what is read of a source."""
    return 1 / chosen.head_stride if chosen.cross_attention == HEPOS else 1.0


def _one(chosen, source, targets, length, head):
    """[share of keys, share of operations] of one source, beside full attention to what is read of it."""
    size = chosen.segment_size
    count = int(-(-source // size))
    if chosen.is_full:
        return np.ones(2)
    if chosen.cross_attention == HEPOS:  # whatever its length: every token is read by one of S heads
        return np.full(2, 1 / chosen.head_stride)
    if chosen.by_content:
        segments = min(chosen.segments_per_query, count)
        keys = min(segments * size, source)
        extra = 2 * targets * count * head + 2 * source * head if count > segments else 0.0
    else:
        segments = 1
        visited = np.minimum(np.arange(max(1, round(targets))) * count // length, count - 1)
        sizes = np.minimum(size, source - visited * size)
        if chosen.cross_attention == "previous":
            sizes = sizes + size * (visited > 0)
        keys, extra = float(sizes.mean()), 0.0
    if chosen.cross_attention == "pooled":
        extra += 2 * source * head * (1 if chosen.by_content else 2)
        keys += count - segments
    if chosen.cross_attention == "srformer" and count > 1:
        products, weight = 2 * source * head**2, 2 * min(count, targets) * head**3
        extra += products + (min(weight, products) if chosen.clamp is None else weight) + 2 * targets * head**2
    full = 4 * targets * source * head
    return np.array((keys / source, (4 * targets * keys * head + extra) / full))
