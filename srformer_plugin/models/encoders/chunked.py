"""A stock encoder on a source of any length: cut into rows, each encoded as a sentence of its own (docs/long.md)."""

import copy
import logging
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..encoder_output import encoder_output
from .rows import Row, cut
from .symbols import index_of

logger = logging.getLogger(__name__)

ANY_LENGTH = 2**31 - 1  # what a limit of tokens says where there is none
PORTION = 8192  # tokens that go through the layers at once where no gradients are kept
PREFIX_SYMBOL = "a symbol that ends the question in every binarised source"


class Placed(NamedTuple):
    """A row of sentence `sentence`, whose first token stands in column `start` of the padded batch."""

    sentence: int
    start: int
    row: Row


class ChunkedEncoder:
    """To be named before an encoder of fairseq: no new parameters, and the stock encoder's own numbers in every row.

    A source of at most `chunk + 2 context` tokens is encoded as by the stock encoder, to the bit where the whole batch
    is that short. A sentence does not depend on its batch, but for rounding. Time and memory are linear in the length.
    With gradients all rows go through the layers at once; without, in portions of `PORTION` tokens, so that beside the
    output nothing grows with the length.
    """

    reads_any_length = True
    positions_flag = "--encoder-positions"  # how many learned positions there are

    def __init__(self, cfg, dictionary, embed_tokens, return_fc=False):
        """As the stock encoder's; `cfg` has the fields of a checked `EncoderSettings` as well."""
        self.chunk, self.context = cfg.encoder_chunk, cfg.encoder_context
        self.prefix_index = index_of(cfg.encoder_prefix_symbol, dictionary, "--encoder-prefix-symbol", PREFIX_SYMBOL)
        cfg = copy.copy(cfg)
        cfg.max_source_positions = cfg.encoder_positions
        super().__init__(cfg, dictionary, embed_tokens, return_fc)

    @property
    def width(self) -> int:
        """Tokens of a row, W."""
        return self.chunk + 2 * self.context

    def max_positions(self) -> int:
        """No limit: every row has positions of its own."""
        return ANY_LENGTH

    def forward(self, src_tokens, src_lengths=None, return_all_hiddens=False, token_embeddings=None) -> dict:
        """As in fairseq; where something is cut, without embeddings and states of single layers, which nothing reads.

        Args:
            src_tokens: (B, N) int64, padded on either side.
            token_embeddings: (B, N, C), or None.
        Returns:
            `encoder_out` [(N, B, C)], zero at padding, `encoder_padding_mask` [(B, N)], and what else fairseq's has.
        """
        if src_tokens.size(1) <= self.width:
            return super().forward(src_tokens, src_lengths, return_all_hiddens, token_embeddings)
        padding = src_tokens.eq(self.padding_idx)
        rows = self._cut(src_tokens, padding)
        states = None
        for portion in self._portions(rows):
            encoded, columns, places = self._encode(portion, src_tokens, token_embeddings)
            if states is None:
                states = encoded.new_zeros(src_tokens.numel(), encoded.size(2))
            kept = encoded.flatten(0, 1).index_select(0, columns)
            states = states.index_copy(0, places, kept) if kept.requires_grad else states.index_copy_(0, places, kept)
        return encoder_output(states.view(src_tokens.size(1), src_tokens.size(0), -1), padding)

    def _cut(self, src_tokens: Tensor, padding: Tensor) -> list[Placed]:
        """The rows of all sentences, full ones first; one copy from the device to the host."""
        tokens = ~padding
        length = src_tokens.size(1)
        extents = [tokens.byte().argmax(dim=1), length - tokens.flip(1).byte().argmax(dim=1), tokens.any(dim=1).long()]
        if self.prefix_index is not None:
            found = src_tokens.eq(self.prefix_index)
            extents.append(torch.where(found.any(dim=1), found.byte().argmax(dim=1) + 1, 0))
        rows = []
        for sentence, (start, end, any_token, *prefix) in enumerate(torch.stack(extents, dim=1).tolist()):
            if any_token:
                question = self.usable_question(max(prefix[0] - start, 0)) if prefix else 0
                placed = cut(end - start, self.chunk, self.context, question)
                rows += [Placed(sentence, start, row) for row in placed]
        return sorted(rows, key=lambda placed: -placed.row.length)

    def usable_question(self, length: int) -> int:
        """Of a question of `length` tokens, its symbol included, how many can stand before every row: all or none."""
        if length <= self.chunk // 2:
            return length
        logger.warning(
            f"a question of {length} tokens has no room before every chunk: more than half of --encoder-chunk "
            f"{self.chunk}; such sources are cut without it"
        )
        return 0

    def _portions(self, rows: list[Placed]):
        """Rows that go through the layers together. Without gradients padded rows do not mix with full ones, which
        need no mask."""
        if torch.is_grad_enabled():
            yield rows
            return
        count, full = max(PORTION // self.width, 1), sum(placed.row.length == self.width for placed in rows)
        for part in (rows[:full], rows[full:]):
            for first in range(0, len(part), count):
                yield part[first : first + count]

    def _encode(self, rows: list[Placed], src_tokens: Tensor, token_embeddings: Tensor | None):
        """The states of some rows, (W', R, C), and of those to keep: where in the states, and in an (N, B) tensor."""
        batch, length = src_tokens.shape
        width = max(placed.row.length for placed in rows)
        read = np.full((len(rows), width), -1)  # places in the flat (B, N) source
        columns, places = [], []
        for number, (sentence, start, row) in enumerate(rows):
            tokens = row.tokens() + start
            read[number, : row.length] = tokens + sentence * length
            kept = np.arange(row.length)[row.kept_columns()]
            columns.append(kept * len(rows) + number)
            places.append(tokens[kept] * batch + sentence)
        read, columns, places = (
            torch.from_numpy(x).to(src_tokens.device) for x in (read, np.concatenate(columns), np.concatenate(places))
        )
        tokens = src_tokens.flatten()[read.clamp(min=0)].masked_fill(read < 0, self.padding_idx)
        embeddings = None if token_embeddings is None else token_embeddings.flatten(0, 1)[read.clamp(min=0)]
        encoded = super().forward(tokens, tokens.ne(self.padding_idx).sum(dim=1), False, embeddings)
        return encoded["encoder_out"][0], columns, places
