"""Decoding by segments chosen by content (`StaticDecoder`): what is kept of a source, and a step that reads it."""

from dataclasses import dataclass

from torch import Tensor

from .attend import segment_means
from .step import attend_step_chosen


@dataclass
class KeptLayout:
    """What a step reads of a `SourceLayout`, from the tensors that were kept."""

    segment_size: int
    lengths: Tensor
    segment_counts: Tensor
    source_index: Tensor | None


def open_source(keys: Tensor, values: Tensor, num_heads: int, layout, plan, memory) -> "dict[str, Tensor | None]":
    """As `protocol.Backend.open_source`: keys and values stay where they are, and there is a mean per segment."""
    return {
        "keys": keys.transpose(0, 1),
        "values": values.transpose(0, 1),
        "means": segment_means(keys, layout, num_heads),
        "lengths": layout.lengths,
        "segment_counts": layout.segment_counts,
        "index": layout.source_index,
    }


def attend_step(query: Tensor, source, position: Tensor, memory, segment_size: int) -> Tensor:
    """As `protocol.Backend.attend_step`, in two launches."""
    layout = KeptLayout(segment_size, source["lengths"], source["segment_counts"], source.get("index"))
    chosen = source.choice.segments_per_query
    return attend_step_chosen(query, source["keys"], source["values"], source["means"], layout, chosen)
