"""How a source is cut into the rows that a chunked encoder encodes as sentences of their own (docs/long.md).

A row has W = C + 2 P tokens. Rows begin C tokens after one another, and of each the middle C states are kept: every
kept token has at least P tokens of context on either side. The first row also keeps what is before its middle, and the
last one, moved back so that it ends where the source ends, what is behind it. A source of at most W tokens is one row:
what a stock encoder computes. (After SLED, Ivgi et al., TACL 2023, section 3.)

A question of q tokens at the source's beginning stands before every row and is kept in the first. It takes its room
from the chunk: rows then begin C - q tokens after one another.
"""

from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """Tokens 0 ... question - 1 and first ... end - 1 of a source, of which start_kept ... end_kept - 1 are kept.

    The first row has no question before it: its own first tokens are the question.
    """

    question: int
    first: int
    end: int
    start_kept: int
    end_kept: int

    @property
    def length(self) -> int:
        return self.question + self.end - self.first

    def tokens(self) -> np.ndarray:
        """Which tokens of the source stand in the row, (length,) int64."""
        return np.concatenate((np.arange(self.question), np.arange(self.first, self.end)))

    def kept_columns(self) -> slice:
        """Where in the row the kept tokens stand."""
        return slice(*(token - self.first + self.question for token in (self.start_kept, self.end_kept)))


def cut(length: int, chunk: int, context: int, question: int = 0) -> list[Row]:
    """The rows of a source of `length` tokens; what they keep is every token once, in order.

    What row j keeps of a growing source stays as it is once there is a row j + 1: with more than j (C - q) + W tokens.

    Args:
        chunk: C, at least 1.
        context: P, at least 0.
        question: q, below C.
    """
    width = chunk + 2 * context
    if length <= width:
        return [Row(0, 0, length, 0, length)]
    stride = chunk - question
    count = 1 - (width - length) // stride  # 1 + ceil((length - width) / stride)
    rows = []
    for number in range(count):
        start = min(number * stride, length - width)  # of the row, as if its question were the tokens before it
        middle = question + number * stride + context
        first = 0 if number == 0 else start + question
        end_kept = length if number == count - 1 else middle + stride
        rows.append(Row(min(question, first), first, start + width, 0 if number == 0 else middle, end_kept))
    return rows
