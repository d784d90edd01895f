"""LED's encoder: BART's, with a window in every layer's self-attention and the first token of a sentence global.

Longformer-Encoder-Decoder (Beltagy et al., arXiv 2004.05150, section 7). The first token, which is <s> in the texts
that the published models were trained on, has projections of its own for what it reads. So has PRIMERA's <doc-sep>,
which stands between the documents of a source (Xiao et al., arXiv 2110.08499).
"""

from fairseq.models.transformer import TransformerEncoderBase

from ...errors import ConfigurationError
from .window import WindowEncoder

NUM_GLOBAL = 1


def parse_windows(text: str, layers: int) -> list[int]:
    """`--attention-window` as tokens on both sides together, for each of `layers`.

    Raises:
        ConfigurationError: not one number, nor one for every layer; or one that is odd or below 2.
    """
    try:
        windows = [int(number) for number in str(text).split(",")]
    except ValueError:
        windows = []
    if len(windows) == 1:
        windows *= layers
    if len(windows) != layers or any(window < 2 or window % 2 != 0 for window in windows):
        raise ConfigurationError(
            f"--attention-window {text} must be an even number from 2 on, the tokens on both sides together, or "
            f"{layers} of them with commas between: one for every encoder layer; 1024 is that of the published models"
        )
    return windows


class LEDEncoder(WindowEncoder, TransformerEncoderBase):
    """BART's encoder with the windows of `cfg.attention_window` (see `parse_windows`) and global tokens.

    The first token is global, and all that are `cfg.encoder_global_symbol`.
    """

    def windows(self, cfg, layers):
        return [window // 2 for window in parse_windows(cfg.attention_window, layers)]

    def num_global(self, cfg):
        return NUM_GLOBAL
