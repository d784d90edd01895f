"""The same weights for sources longer than a model's positions: chunked encoder, segments chosen by content."""

from fairseq.models.bart import BARTModel
from torch import nn

from ..attention.settings import FULL
from ..models.segmented_model import SegmentedModel

CONTEXT, SHARE = 128, 8  # tokens on either side of a chunk: those of `--encoder-context`, at most an eighth of a row


def changes_for_long_sources(network: nn.Module, positions: int, tokenizer) -> dict:
    """Arguments of `change_attention` that make a network read sources of any length.

    The encoder becomes a chunked one whose rows have as many tokens as the model has positions; a prefix stands before
    every row. A decoder that attends to the whole source chooses segments by content; one that was trained with
    segments keeps its own.

    Args:
        positions: that the encoder has.
        tokenizer: its `start`, if a prefix ends it, stands before every row.
    """
    changes: dict = {
        "encoder_attention": "chunked",
        "encoder_positions": positions,
        "encoder_context": min(CONTEXT, positions // SHARE),
    }
    settings = getattr(network.decoder, "settings", None)
    if settings is None or settings.cross_attention == FULL:
        changes["segment_schedule"] = "content"
    if tokenizer.has_prefix and tokenizer.start.count(tokenizer.start[-1]) == 1:
        changes["encoder_prefix_symbol"] = tokenizer.dictionary[tokenizer.start[-1]]
    return changes


def can_be_changed(network: nn.Module) -> bool:
    """Whether there is such a network for these weights."""
    return isinstance(network, (BARTModel, SegmentedModel))
