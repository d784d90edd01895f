"""Dropout on attention weights, as fairseq switches it on and off.

A module of fairseq's own, and not a probability: `--retain-dropout` (dropout while decoding, to measure how sure a
model is) reaches modules alone.
"""

from fairseq.modules.fairseq_dropout import FairseqDropout

ATTENTION = "MultiheadAttention"  # what --retain-dropout-modules calls every attention


def attention_dropout(probability: float) -> FairseqDropout:
    """The dropout of an attention's weights; to be an attribute `dropout_module`, as in `MultiheadAttention`."""
    return FairseqDropout(probability, module_name=ATTENTION)


def current_rate(dropout: FairseqDropout) -> float:
    """The probability that holds now: 0 in evaluation, unless dropout is retained."""
    return dropout.p if is_active(dropout) else 0.0


def is_active(dropout: FairseqDropout) -> bool:
    return dropout.p > 0 and (dropout.training or dropout.apply_during_inference)
