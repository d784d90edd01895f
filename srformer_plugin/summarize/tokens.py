"""Documents to tokens, word by word: where each word's tokens are is known, and a document can grow.

White space of any kind and amount is one space, as in the line of a corpus. No subword of GPT-2's BPE or of
SentencePiece crosses a space, so the tokens are those of the whole line.
"""

import re
from functools import lru_cache

from data_prep.text import LONE_SURROGATE, has_lone_surrogate

from ..errors import ConfigurationError

WORD = re.compile(r"\S+")


class Tokenizer:
    """The subwords of a model, for words.

    Args:
        hub: interface of the model.
        prefix: text that stands before every document.
    Attributes:
        start: ids before a document's own: <s> where the model's sources begin with it, and those of the prefix.
        has_prefix: a prefix ends `start`.
        end: the id of </s>.
    Raises:
        ConfigurationError: the checkpoint asks for fairseq's --tokenizer, which looks at more than a word; or
            a prefix that is no text.
    """

    def __init__(self, hub, prefix: str = ""):
        if getattr(hub, "tokenizer", None) is not None:
            raise ConfigurationError("a checkpoint with --tokenizer cannot be used: its texts are no plain text")
        self.hub, self.dictionary = hub, hub.task.source_dictionary
        self.end = self.dictionary.eos()
        self._of_word = lru_cache(maxsize=100_000)(self._encode)
        self.start = [self.dictionary.bos()] if getattr(hub, "prepend_bos", False) else []
        words = prefix.split()
        if has_lone_surrogate(prefix):
            raise ConfigurationError(f"--prefix {prefix!r}: {LONE_SURROGATE}")
        self.has_prefix = bool(words)
        for number, word in enumerate(words):
            self.start += self._of_word(word, number == 0)

    def _encode(self, word, first):
        # GPT-2's BPE knows the space before a word; SentencePiece adds it itself
        line = self.hub.apply_bpe(word if first else f" {word}")
        return tuple(self.dictionary.index(piece) for piece in line.split())

    def of_word(self, word: str, first: bool) -> tuple[int, ...]:
        """Ids of a word; `first`: of a document."""
        return self._of_word(word, first and not self.has_prefix)

    def of_words(self, words, first: bool = True) -> list[int]:
        """Ids of words that follow each other; `first`: they begin the document."""
        ids: list[int] = []
        for word in words:
            ids += self.of_word(word, first)
            first = False
        return ids

    def holds_nothing(self, ids: list[int]) -> bool:
        """Whether a whole document has no subword of its own: SentencePiece leaves nothing of some characters."""
        return len(ids) == len(self.start) + 1

    def encode(self, text: str) -> list[int]:
        """Ids of a whole document, from `start` to `end`."""
        return [*self.start, *self.of_words(WORD.findall(text)), self.end]
