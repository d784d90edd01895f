"""Which encoders there are (`--encoder-attention`): a line for each."""

import functools

from ...errors import ConfigurationError
from .chunked import ChunkedEncoder
from .window import WindowEncoder

FULL = "full"
# name -> a class to be named before an encoder of fairseq; None: the encoder as it is
ENCODERS: dict[str, type | None] = {FULL: None, "chunked": ChunkedEncoder, "window": WindowEncoder}


@functools.cache
def encoder_class(name: str, stock: type) -> type:
    """The class of a model's encoder.

    Args:
        name: of `ENCODERS`.
        stock: the encoder of fairseq's, or T5's, that `full` is.
    Raises:
        ConfigurationError: a kind that is for another encoder.
    """
    added = ENCODERS[name]
    wanted = getattr(added, "stock_encoder", stock)
    if wanted is not stock:
        raise ConfigurationError(
            f"--encoder-attention {name} is for BART, and cannot be computed with {stock.__name__}: use chunked"
        )
    return stock if added is None else type(f"{added.__name__}Of{stock.__name__}", (added, stock), {})
