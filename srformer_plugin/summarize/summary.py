"""What became of a text."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Summary:
    """A summary, or why there is none.

    Attributes:
        text: the summary, on one line.
        ids: its tokens as the decoder wrote them, </s> included; (T,) int64 on the CPU.
        source_tokens: of the text, with <s>, </s> and prefix.
        truncated: tokens beyond the model's positions were left out.
        chunked: they were read in chunks.
        error: why there is no summary; None: there is one.
    """

    text: str = ""
    ids: Tensor | None = None
    source_tokens: int = 0
    truncated: bool = False
    chunked: bool = False
    error: str | None = None
