"""Where a summary comes from: the source segments that its cross-attention read, for words and for sentences.

The weights are those of one pass of the decoder over the finished summary (teacher forcing): what the position that
wrote a token attended to, as the mean over all heads of all decoder layers. Of a model with a recurrent memory they are
the weights of the segments that it attends to by softmax; what the memory adds has none.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data_prep.text import split_sentences

from ..errors import ConfigurationError
from ..models.attention_calls import for_each_call
from .documents import NO_SUBWORDS
from .summary import Summary
from .tokens import WORD

SEGMENT = 16  # tokens of a segment where the decoder knows no segments
MOST, LEAST = 12, 0.01  # segments that are shown for a word or sentence, and the share that the last of them has


@dataclass(frozen=True)
class Part:
    """A word or a sentence of a summary.

    Attributes:
        start, end: its characters in the summary's text.
        read: (number of a segment, share of the weight on all segments), the largest share first.
    """

    start: int
    end: int
    read: list[tuple[int, float]]


@dataclass(frozen=True)
class Explanation:
    """A summary and what it was made of.

    Attributes:
        text: the document as it was given.
        summary: of it.
        segments: (start, end), the characters of `text` of every segment; none are left out in between.
        unread: number of the first segment that was not read; None: all were.
        words, sentences: of the summary.
        elsewhere: share of the weight on what is no text of the document: <s>, </s> and the prefix.
    """

    text: str
    summary: Summary
    segments: list[tuple[int, int]]
    unread: int | None
    words: list[Part]
    sentences: list[Part]
    elsewhere: float


def explain(model, text: str, **decoding) -> Explanation:
    """Summarise a text and say where the summary comes from.

    Args:
        model: the `Model`.
        decoding: fields of `Decoding` that take the place of the model's.
    Raises:
        ConfigurationError: an empty text, or a setting that cannot work.
    """
    stream = model.open_stream()
    stream.append(text)
    if text.strip() and model.tokenizer.holds_nothing(model.tokenizer.encode(text)):
        raise ConfigurationError(NO_SUBWORDS)
    summary, network, states = stream.read(**decoding)
    weights = cross_attention(network, states, summary.ids.to(model.hub.device), model.tokenizer.end)
    size = getattr(network.decoder, "settings", None)
    size = SEGMENT if size is None or not size.has_segments else size.segment_size
    of_token, segments = _segments(model.tokenizer, text, size)
    count = weights.size(1) - 1  # </s> is the last
    of_token = of_token[:count]
    is_text = of_token >= 0
    per_segment = weights.new_zeros(len(weights), len(segments))
    per_segment.index_add_(1, of_token[is_text], weights[:, :count][:, is_text])
    ends = _ends_of_tokens(model, summary.ids)
    sentences, position = [], 0
    for sentence in split_sentences(summary.text):
        start = summary.text.index(sentence, position)
        position = start + len(sentence)
        if sentence.strip():
            sentences.append((start, position))
    words = [match.span() for match in WORD.finditer(summary.text)]
    unread = int(of_token.max()) + 1 if summary.truncated else None
    return Explanation(
        text,
        summary,
        segments,
        None if unread == len(segments) else unread,
        [_part(span, ends, per_segment) for span in words],
        [_part(span, ends, per_segment) for span in sentences],
        1 - float(per_segment.sum() / weights.sum()),
    )


@torch.inference_mode()
def cross_attention(network: nn.Module, states: dict, ids: Tensor, start: int) -> Tensor:
    """The weights (T, N) with which every position of a target attends to the source.

    Args:
        network: a model with an encoder-decoder attention in every decoder layer.
        states: the encoder's output for one source of N tokens.
        ids: (T,) target, </s> included.
        start: the token that the decoder starts from.
    """
    total, layers = torch.zeros(len(ids), states["encoder_out"][0].size(0)), 0

    def take(call):
        nonlocal total, layers
        total += call.weights.squeeze(0).float().cpu()
        layers += 1

    previous = torch.cat((ids.new_tensor([start]), ids[:-1])).unsqueeze(0)
    for_each_call(network, states, previous, take)
    return total / layers


def _segments(tokenizer, text, size):
    """(segment of every token of a source but </s>, -1 where it is no text; characters of every segment).

    A word belongs to the segment of its first token, and so do the spaces behind it.
    """
    of_token, starts, last = [-1] * len(tokenizer.start), [], None
    for number, match in enumerate(WORD.finditer(text)):
        segment = len(of_token) // size
        if segment != last:
            starts.append(match.start() if starts else 0)
            last = segment
        of_token += [len(starts) - 1] * len(tokenizer.of_word(match.group(), first=number == 0))
    return torch.tensor(of_token), list(zip(starts, [*starts[1:], len(text)]))


def _ends_of_tokens(model, ids):
    """Where in the summary's text the text of the first 1, 2, ... tokens ends."""
    ends: list[int] = []
    for count in range(1, len(ids) + 1):
        ends.append(max(len(model.text(ids[:count])), ends[-1] if ends else 0))
    return ends


def _part(span, ends, per_segment):
    """The `Part` of the summary's characters `span`: the mean over its tokens."""
    start, end = span
    chosen = [n for n, last in enumerate(ends) if last > start and (ends[n - 1] if n else 0) < end]
    shares = per_segment[chosen].sum(dim=0)
    shares = shares / shares.sum().clamp(min=torch.finfo(shares.dtype).tiny)
    best, numbers = shares.topk(min(MOST, len(shares)))
    read = [(number, share) for number, share in zip(numbers.tolist(), best.tolist()) if share >= LEAST]
    return Part(start, end, read)
