"""How a checkpoint says what schedule its model was trained with: a buffer that survives whatever is done to weights.

fairseq's tools (EMA, averaging, casts to half precision) take everything in a model's state for a tensor of weights.
So the record is one of floats: the bits of a JSON text as +1 and -1. A sign outlives every positive scaling, every
average of equal records and every rounding, and the numbers in the text come back exactly.
"""

import json

import torch
from torch import Tensor

from ..attention.settings import HEPOS, SegmentSettings
from ..errors import ConfigurationError

FLAGS = {
    "segment_size": "--segment-size",
    "segment_schedule": "--segment-schedule",
    "expected_target_length": "--expected-target-length",
    "segments_per_query": "--segments-per-query",
    "segment_score": "--segment-score",
    "head_stride": "--head-stride",
    "cross_attention": "--cross-attention",
}
ALWAYS = ("segment_size", "segment_schedule", "expected_target_length")
# Bits of one record are scaled alike. One that is smaller than the largest by more than rounding was an average of
# +1 and -1: of the records of different schedules.
SMALLEST_BIT = 0.9


def encode_schedule(settings: SegmentSettings) -> Tensor:
    """The schedule as a record: (8 n,) float32 of +1 and -1, the bits of n bytes of JSON, the lowest bit first."""
    fields = list(ALWAYS)
    if settings.by_content:
        fields += ["segments_per_query", "segment_score"]
    if settings.cross_attention == HEPOS:
        fields.append("head_stride")
    if settings.cross_attention not in ("srformer", "segmented"):  # which the memory's parameters tell apart
        fields.append("cross_attention")
    text = json.dumps({name: getattr(settings, name) for name in fields}).encode()
    codes = torch.tensor(list(text), dtype=torch.int64)
    bits = (codes.unsqueeze(1) >> torch.arange(8)) & 1
    return (2 * bits - 1).flatten().float()


def decode_schedule(record: Tensor) -> dict:
    """The inverse of `encode_schedule`, for a record of any float dtype; integers are the bytes (version 0.1.0).

    Raises:
        ConfigurationError: the record says nothing: it is damaged, or an average over different schedules.
    """
    record = record.detach().cpu()
    try:
        if record.is_floating_point():
            size = record.abs()
            if record.numel() % 8 != 0 or not (size > SMALLEST_BIT * size.max()).all():
                raise ValueError("bits that are neither +1 nor -1")
            record = ((record > 0).view(-1, 8).long() << torch.arange(8)).sum(dim=1)
        schedule = json.loads(bytes(record.tolist()))
        return {name: schedule[name] for name in FLAGS if name in ALWAYS or name in schedule}
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            "the checkpoint's record of its schedule (segment_schedule) cannot be read: it is damaged, or an average "
            f"of checkpoints that differ in {', '.join(FLAGS.values())}; average checkpoints of one training"
        ) from error
