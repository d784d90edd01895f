"""Which encoders there are (`--encoder-attention`): a line for each."""

import functools

from .chunked import ChunkedEncoder

FULL = "full"
# name -> a class to be named before an encoder of fairseq; None: the encoder as it is
ENCODERS: dict[str, type | None] = {FULL: None, "chunked": ChunkedEncoder}


@functools.cache
def encoder_class(name: str, stock: type) -> type:
    """The class of a model's encoder.

    Args:
        name: of `ENCODERS`.
        stock: the encoder of fairseq's, or T5's, that `full` is.
    """
    added = ENCODERS[name]
    return stock if added is None else type(f"{added.__name__}Of{stock.__name__}", (added, stock), {})
