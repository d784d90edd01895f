"""A document that grows: what came before is not encoded again.

A chunked encoder reads rows of W tokens that begin C tokens after one another, and what a row keeps stays as it is once
the source goes on behind it (`models/encoders/rows.py`). So a row is encoded when all of its tokens are there, and its
states are kept. Of the text only what the unfinished rows need is kept as well: at most W + C tokens, and the last word
as long as no white space has ended it.
"""

import torch
from torch import Tensor

from ..errors import ConfigurationError
from ..models.encoder_output import encoder_output
from ..models.encoders.chunked import PORTION
from ..models.encoders.rows import Row, cut
from ..models.hub import check_texts
from .search import search
from .summary import Summary
from .tokens import WORD


class Stream:
    """A growing document of a `Model`; `Model.open_stream` makes it.

    Its summary is that of the whole text at once. An append costs time and memory for what is new, whatever came
    before, but for the encoder's states of all tokens, which are kept. A model that truncates (`truncate=True`) reads
    the beginning here, too.

    Args:
        model: the `Model`.

    Attributes:
        words: how many have come, the last one included although it may be unfinished.
        encoded_tokens: how many went through the encoder, context and repetitions counted.
    """

    def __init__(self, model):
        self.model = model
        self.words = 0
        self.encoded_tokens = 0
        self._unfinished = ""
        self._tail = list(model.tokenizer.start)  # tokens from number `_base` on
        self._base = 0
        self._tokens = len(self._tail)  # that have come
        self._question_ids: list[int] = []  # what stands before every row, once it has left the tail
        self._any_word = False
        self._final: list[Tensor] = []  # states (n, 1, C) that rows keep, in order
        self._rows = 0  # that are final

    def append(self, text: str) -> None:
        """Add text. Words are separated by white space: a word may come in parts.

        Raises:
            ConfigurationError: half of a surrogate pair; nothing is added then.
        """
        check_texts("append", [text])
        text = self._unfinished + text
        self.words -= bool(self._unfinished)
        found = WORD.findall(text)
        self.words += len(found)
        self._unfinished = found.pop() if found and not text[-1].isspace() else ""
        if found:
            ids = self.model.tokenizer.of_words(found, first=not self._any_word)
            self._tail += ids
            self._tokens += len(ids)
            self._any_word = True
        self._encode_finished_rows()

    def summarize(self, **decoding) -> str:
        """The summary of all that has come.

        Args:
            decoding: fields of `Decoding` that take the place of the model's.
        Raises:
            ConfigurationError: nothing has come, or a setting that cannot work.
        """
        return self.summary(**decoding).text

    def summary(self, **decoding) -> Summary:
        """As `summarize`, with what `Summary` says besides."""
        return self.read(**decoding)[0]

    def read(self, **decoding) -> tuple[Summary, torch.nn.Module, dict]:
        """The summary, the network that wrote it and the encoder's output that it read."""
        if not self.words:
            raise ConfigurationError("there is no text to summarise yet")
        settings = self.model.decoding.changed(self.model.target_positions, decoding)
        last = self.model.tokenizer.of_words(self._unfinished.split(), first=not self._any_word)
        ids, total = [*self._tail, *last, self.model.tokenizer.end], self._tokens + len(last) + 1
        if self._base == 0 and not self._final:
            ids = self.model.truncated(ids)
        read = self._base + len(ids)
        network = self.model.network_for(read)
        states = self._states(network, ids, read)
        tokens = torch.full((1, read), self.model.tokenizer.end, device=self.model.hub.device)
        (best,) = search(self.model.hub, network, tokens, settings, states)
        return self.model.summary(best, total, read), network, states

    @torch.inference_mode()
    def _states(self, network, ids, length):
        """The encoder's output for a source whose tokens from number `_base` on are `ids`."""
        if length <= self.model.source_positions:
            self.encoded_tokens += length
            return network.encoder(torch.tensor([ids], device=self.model.hub.device))
        rows = self._cut(network.encoder, length)[self._rows :]
        states = torch.cat([*self._final, *self._encode(network.encoder, rows, ids)])
        return encoder_output(states, torch.zeros(1, length, dtype=torch.bool, device=states.device))

    @torch.inference_mode()
    def _encode_finished_rows(self):
        """Encode the rows whose tokens are all there. </s> is still to come, so none of them is the last."""
        known = self._base + len(self._tail)
        if known < self.model.source_positions:
            return
        network = self.model.long_network
        if network is None:  # what is beyond the positions is never read
            del self._tail[self.model.source_positions :]
            return
        rows = self._cut(network.encoder, known + 1)[:-1][self._rows :]
        self._final += self._encode(network.encoder, rows, self._tail)
        self._rows += len(rows)
        if rows:
            # the last row is moved back to where the source ends: behind the beginning of the last final one
            question = self._question(network.encoder)
            beginning = max(rows[-1].first - rows[-1].question, 0)
            self._question_ids = self._question_ids if self._base else self._tail[:question]
            del self._tail[: beginning - self._base]
            self._base = beginning

    def _question(self, encoder):
        if encoder.prefix_index is None:
            return 0
        return encoder.usable_question(len(self.model.tokenizer.start))

    def _cut(self, encoder, length) -> list[Row]:
        return cut(length, encoder.chunk, encoder.context, self._question(encoder))

    def _encode(self, encoder, rows, ids):
        """What the rows keep, (n, 1, C) each; `ids` are the tokens from number `_base` on."""
        kept = []
        count = max(PORTION // encoder.width, 1)
        question = self._question_ids if self._base else ids
        for first in range(0, len(rows), count):
            portion = rows[first : first + count]
            tokens = [
                [*question[: row.question], *ids[row.first - self._base : row.end - self._base]] for row in portion
            ]
            self.encoded_tokens += sum(map(len, tokens))
            encoded = encoder(torch.tensor(tokens, device=self.model.hub.device))["encoder_out"][0]
            # copies: a view would keep what is not kept
            kept += [encoded[row.kept_columns(), n : n + 1].clone() for n, row in enumerate(portion)]
        return kept
