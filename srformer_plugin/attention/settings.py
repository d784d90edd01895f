"""The settings of segmented attention: names, defaults, checks, and their flags."""

from dataclasses import dataclass, field, fields
from typing import Optional

from fairseq.dataclass import FairseqDataclass

from ..errors import ConfigurationError
from ..registry import choose
from .backends import resolve
from .method.content import SCORES, SEGMENTS_PER_QUERY, check_segments_per_query
from .method.memory import MEMORIES
from .method.schedule import SCHEDULES

# Kinds of --cross-attention that know no segments: stock attention to the whole source, and `hepos.py`.
FULL, HEPOS = "full", "hepos"


@dataclass
class SegmentSettings(FairseqDataclass):
    """Everything the cross-attention of an SRformer needs to know; the defaults are the BART preset's."""

    cross_attention: str = field(
        default="srformer",
        metadata={
            "help": "what decoder positions attend to beside the segments that --segment-schedule names: srformer (a "
            "recurrent memory of the others), segmented (nothing), pooled (the others' means, in the same softmax), "
            "previous (the segment visited before; not with --segment-schedule content); or, without segments, full "
            "(all of the source, stock attention) or hepos (every head another one of --head-stride positions); "
            "registered: " + ", ".join([*MEMORIES, FULL, HEPOS])
        },
    )
    segment_size: int = field(default=64, metadata={"help": "source tokens per segment"})
    segment_schedule: str = field(
        default="fixed",
        metadata={
            "help": "which source segments a position attends to: one by the clock, which goes by a target length that "
            "is fixed (one length in training, scoring and decoding) or target (the paper's: the true length where it "
            "is known, else the expected one); or content (every query of every head chooses --segments-per-query); "
            "registered: " + ", ".join(SCHEDULES)
        },
    )
    segments_per_query: int = field(
        default=SEGMENTS_PER_QUERY,
        metadata={"help": "segments that a query chooses with --segment-schedule content; all where there are no more"},
    )
    segment_score: str = field(
        default="mean",
        metadata={
            "help": "how queries rate segments with --segment-schedule content: mean (by the mean key); "
            "registered: " + ", ".join(SCORES)
        },
    )
    expected_target_length: Optional[int] = field(  # noqa: UP045 (fairseq's parser needs Optional)
        default=None,
        metadata={
            "help": "target tokens over which the clock walks through the source; stored in the checkpoint (default: "
            "the mean length of the training targets); without effect where there is no clock, with --segment-schedule "
            "content and a memory other than srformer"
        },
    )
    head_stride: int = field(
        default=4,
        metadata={
            "help": "with --cross-attention hepos: head h attends to the source positions h, h + STRIDE, ... (modulo "
            "STRIDE); it must divide --decoder-attention-heads"
        },
    )
    raf_leak: float = field(default=0.5, metadata={"help": "initial leak factor of the RAF neuron, in [0, 1]"})
    raf_threshold: float = field(default=0.1, metadata={"help": "initial threshold of the RAF neuron, above 0"})
    kv_clamp: float = field(
        default=2.0,
        metadata={"help": "clip key-value products to [-C, C] before the neuron; 0: do not clip"},
    )
    memory_gate: bool = field(
        default=False,
        metadata={
            "help": "scale the recurrent term by a tanh gate per head that starts at 0, so that a converted "
            "model starts as segmented attention"
        },
    )
    attention_backend: str = field(
        default="auto",
        metadata={
            "help": "implementation of the segmented attention: torch (any device), triton (fused kernels, on a GPU) "
            "or auto (triton where there is a GPU and Triton, else torch)"
        },
    )

    @property
    def is_full(self) -> bool:
        return self.cross_attention == FULL

    @property
    def has_segments(self) -> bool:
        """Positions attend to segments."""
        return self.cross_attention in MEMORIES

    @property
    def by_content(self) -> bool:
        """Queries choose their segments."""
        return self.has_segments and SCHEDULES[self.segment_schedule].uses_content

    @property
    def needs_target_length(self) -> bool:
        """A clock is needed: for the segments, or for the memory's visits."""
        return self.has_segments and (not self.by_content or MEMORIES[self.cross_attention].goes_by_visits)

    @property
    def clamp(self) -> Optional[float]:  # noqa: UP045
        """The clip bound; None where nothing is clipped."""
        return self.kv_clamp if self.kv_clamp > 0 else None

    def check(self) -> "SegmentSettings":
        """Raise a ConfigurationError on the first value that cannot be right."""
        choose({**MEMORIES, FULL: None, HEPOS: None}, self.cross_attention, "--cross-attention")
        choose(SCHEDULES, self.segment_schedule, "--segment-schedule")
        choose(SCORES, self.segment_score, "--segment-score")
        if self.by_content and MEMORIES[self.cross_attention].needs_clock:
            raise ConfigurationError(
                f"--cross-attention {self.cross_attention} goes by the order in which a clock visits segments, and "
                f"--segment-schedule {self.segment_schedule} has none: use --cross-attention segmented, pooled or "
                "srformer, or --segment-schedule fixed"
            )
        check_segments_per_query(self.segments_per_query)
        resolve(self.attention_backend)
        if self.segment_size < 1:
            raise ConfigurationError(
                f"--segment-size must be at least 1, got {self.segment_size}; the paper uses 16 and 64"
            )
        if self.head_stride < 1:
            raise ConfigurationError(f"--head-stride must be at least 1, got {self.head_stride}; HEPOS's paper uses 4")
        if self.expected_target_length is not None and self.expected_target_length < 1:
            raise ConfigurationError(
                f"--expected-target-length must be at least 1, got {self.expected_target_length}; leave the "
                "flag out to take the mean length of the training targets"
            )
        if not 0 <= self.raf_leak <= 1:
            raise ConfigurationError(f"--raf-leak must be in [0, 1], got {self.raf_leak}; the paper uses 0.1 and 0.5")
        if not self.raf_threshold > 0:
            raise ConfigurationError(f"--raf-threshold must be above 0, got {self.raf_threshold}; the paper uses 0.1")
        if not self.kv_clamp >= 0:  # nan neither
            raise ConfigurationError(f"--kv-clamp must be at least 0, got {self.kv_clamp}; 0 means no clipping")
        return self


# What changes the numbers that a model computes: all but the backend.
CHANGEABLE = tuple(one.name for one in fields(SegmentSettings) if one.name not in ("_name", "attention_backend"))
