"""The settings of segmented attention: names, defaults, checks, and their flags."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import FairseqDataclass

from ..errors import ConfigurationError
from ..registry import choose
from .backends import resolve
from .method.memory import MEMORIES
from .method.schedule import SCHEDULES

# --cross-attention full keeps stock attention to the whole source.
FULL = "full"


@dataclass
class SegmentSettings(FairseqDataclass):
    """Everything the cross-attention of an SRformer needs to know; the defaults are the BART preset's."""

    cross_attention: str = field(
        default="srformer",
        metadata={
            "help": "what decoder positions attend to: srformer (one source segment and a recurrent memory of "
            "the others), segmented (one segment, no memory) or full (all of the source, stock attention); "
            "registered: " + ", ".join([*MEMORIES, FULL])
        },
    )
    segment_size: int = field(default=64, metadata={"help": "source tokens per segment"})
    segment_schedule: str = field(
        default="fixed",
        metadata={
            "help": "target length the schedule goes by: fixed (one length in training, scoring and decoding) "
            "or target (the paper's: the true length where it is known, else the expected one); "
            "registered: " + ", ".join(SCHEDULES)
        },
    )
    expected_target_length: Optional[int] = field(  # noqa: UP045 (fairseq's parser needs Optional)
        default=None,
        metadata={
            "help": "target tokens over which the schedule walks through the source; stored in the checkpoint "
            "(default: the mean length of the training targets)"
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
    def clamp(self) -> Optional[float]:  # noqa: UP045
        """The clip bound; None where nothing is clipped."""
        return self.kv_clamp if self.kv_clamp > 0 else None

    def check(self) -> "SegmentSettings":
        """Raise a ConfigurationError on the first value that cannot be right."""
        choose({**MEMORIES, FULL: None}, self.cross_attention, "--cross-attention")
        choose(SCHEDULES, self.segment_schedule, "--segment-schedule")
        resolve(self.attention_backend)
        if self.segment_size < 1:
            raise ConfigurationError(
                f"--segment-size must be at least 1, got {self.segment_size}; the paper uses 16 and 64"
            )
        if self.expected_target_length is not None and self.expected_target_length < 1:
            raise ConfigurationError(
                f"--expected-target-length must be at least 1, got {self.expected_target_length}; leave the "
                "flag out to take the mean length of the training targets"
            )
        if not 0 <= self.raf_leak <= 1:
            raise ConfigurationError(f"--raf-leak must be in [0, 1], got {self.raf_leak}; the paper uses 0.1 and 0.5")
        if not self.raf_threshold > 0:
            raise ConfigurationError(f"--raf-threshold must be above 0, got {self.raf_threshold}; the paper uses 0.1")
        if self.kv_clamp < 0:
            raise ConfigurationError(f"--kv-clamp must be at least 0, got {self.kv_clamp}; 0 means no clipping")
        return self
