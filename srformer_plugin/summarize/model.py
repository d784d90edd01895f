"""A model that summarises texts: loading it, tokens in batches, search, text again."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from fairseq.data import data_utils
from torch import nn
from tqdm import tqdm

from data_prep.errors import UserError

from ..devices import usable_device
from ..errors import ConfigurationError
from ..models.hub import check_strings
from .decoding import Decoding
from .documents import NO_SUBWORDS, what_is_wrong
from .long_sources import can_be_changed, changes_for_long_sources
from .model_folder import find, open_hub
from .same_weights import with_the_same_weights
from .search import search
from .stream import Stream
from .summary import Summary
from .tokens import Tokenizer

MAX_TOKENS = 8192  # source tokens of a batch, padding counted
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def _silent(line):
    """Report nothing."""


def load(
    folder,
    device: str | torch.device = "cpu",
    dtype: str | None = None,
    data=None,
    prefix: str | None = None,
    truncate: bool = False,
    cache_dir=None,
    say: Callable[[str], None] = _silent,
    **decoding,
) -> "Model":
    """A model from a folder.

    Args:
        folder: a checkpoint folder of fairseq's (checkpoint_best.pt, model.pt or checkpoint_last.pt; or such a file),
            or a Hugging Face folder, which is converted once.
        device: "cpu", "cuda", "cuda:1", ...
        dtype: "float32", "float16" or "bfloat16"; None: float32 on a CPU, else bfloat16.
        data: folder of dictionaries and subword files; None: `folder`, or where the checkpoint says that they were.
        prefix: text before every document; None: what config.json says (T5's "summarize: ").
        truncate: read only the beginning of a document that is longer than the model's positions; else it is encoded in
            chunks, and a decoder that would attend to all of it chooses segments by content.
        cache_dir: where converted folders are kept; None: `cache.default_folder`.
        say: called with a line about what takes long.
        decoding: fields of `Decoding` that take the place of the folder's.
    Raises:
        ConfigurationError: no such model, or a setting that cannot work.
    """
    device = usable_device(device)
    if dtype is not None and dtype not in DTYPES:
        raise ConfigurationError(f"--dtype {dtype!r} is none of {', '.join(DTYPES)}")
    found = find(Path(folder), Path(cache_dir) if cache_dir else None, data, say)
    hub = open_hub(found)
    chosen = DTYPES[dtype] if dtype else torch.float32 if device.type == "cpu" else torch.bfloat16
    hub = hub.to(device=device, dtype=chosen)
    model = Model(hub, found.decoding, found.prefix if prefix is None else prefix, truncate)
    model.decoding = model.decoding.changed(model.target_positions, decoding)
    return model


class Model:
    """A model with its subwords and settings; made by `load`.

    Attributes:
        decoding: what is not named in a call.
        tokenizer: words to tokens, the prefix of all documents included.
        network: fairseq's model, for sources that fit its positions; `long_network`: for others, with the same weights.
        source_positions, target_positions: tokens that encoder and decoder take at once, </s> included.
        truncate: there is no `long_network`; longer documents are truncated.
    """

    def __init__(self, hub, decoding: Decoding, prefix: str = "", truncate: bool = False):
        self.hub = hub
        self.network = hub.models[0]
        self.tokenizer = Tokenizer(hub, prefix)
        self.source_positions, self.target_positions = self.network.max_positions()
        self.reads_any_length = getattr(self.network.encoder, "reads_any_length", False)
        if self.reads_any_length:
            self.source_positions = self.network.encoder.width
        self.truncate = truncate
        self.decoding = decoding.changed(self.target_positions, {})
        if len(self.tokenizer.start) + 2 > self.source_positions:
            raise ConfigurationError(f"--prefix has as many tokens as the model's {self.source_positions} positions")

    @cached_property
    def long_network(self) -> "nn.Module | None":
        """The same weights for sources that do not fit the positions, built when one comes; None: they are cut."""
        if self.reads_any_length:
            return self.network
        if self.truncate or not can_be_changed(self.network):
            return None
        loaded = {"args": self.hub.cfg, "task": self.hub.task, "models": [self.network]}
        return with_the_same_weights(loaded, self.changes_for_long_sources())["models"][0]

    def changes_for_long_sources(self) -> dict:
        """Arguments of `change_attention` that make `long_network` of `network`."""
        return changes_for_long_sources(self.network, self.source_positions, self.tokenizer)

    def how_long_sources_are_read(self) -> str:
        """In words, for a source that does not fit the positions."""
        encoder, settings = self.long_network.encoder, self.long_network.decoder.settings
        how = f"encoded in chunks of {encoder.chunk:,} tokens with {encoder.context} of context a side"
        if settings.by_content:
            chosen = f"{settings.segments_per_query} segments of {settings.segment_size}"
            how += f"; the decoder chooses {chosen} by content"
        return how

    def open_stream(self) -> Stream:
        """A document that grows."""
        return Stream(self)

    def network_for(self, tokens: int) -> nn.Module:
        """The network that reads a source of so many tokens; `truncated` has cut it before if it must be."""
        return self.network if tokens <= self.source_positions else self.long_network

    def summarize(self, texts: "list[str] | str", **options) -> "list[str] | str":
        """Summaries of texts in their order, each on one line; of one str, its summary.

        Arguments as `summarize_texts`.

        Raises:
            ConfigurationError: an empty text, or a setting that cannot work.
        """
        if isinstance(texts, str):
            return self.summarize([texts], **options)[0]
        summaries = self.summarize_texts(texts, **options)
        for number, summary in enumerate(summaries):
            if summary.error is not None:
                raise ConfigurationError(f"text {number}: {summary.error}")
        return [summary.text for summary in summaries]

    def summarize_texts(
        self, texts: list[str], max_tokens: int = MAX_TOKENS, progress: bool = False, **decoding
    ) -> list[Summary]:
        """A `Summary` of each text, in their order; one that cannot be summarised says so in its `error`.

        Args:
            max_tokens: of a batch, padding counted; a longer text is a batch of its own.
            progress: show a bar on standard error.
            decoding: fields of `Decoding` that take the place of `self.decoding`'s.
        Raises:
            ConfigurationError: what is no text, or a setting that cannot work.
        """
        texts = check_strings("summarize", texts)
        settings = self.decoding.changed(self.target_positions, decoding)
        results = [Summary(error=what_is_wrong(text)) for text in texts]
        sources = {number: self._source(texts[number]) for number, found in enumerate(results) if found.error is None}
        for number in [number for number, ids in sources.items() if self.tokenizer.holds_nothing(ids)]:
            del sources[number]
            results[number] = Summary(error=NO_SUBWORDS)
        lengths = {number: len(ids) for number, ids in sources.items()}
        with tqdm(total=len(lengths), unit="text", disable=not progress) as bar:
            for batch in self._batches(lengths, max_tokens):
                found = self._summarize_batch([sources[number] for number in batch], settings)
                for number, summary in zip(batch, found):
                    results[number] = summary
                bar.update(len(batch))
        return results

    def _source(self, text):
        return self.tokenizer.encode(text)

    def _batches(self, lengths, max_tokens):
        """Those of the longer documents first: another network reads them."""
        fits = {number: tokens <= self.source_positions for number, tokens in lengths.items()}
        for chosen in (False, True):
            yield from batches({number: lengths[number] for number in lengths if fits[number] is chosen}, max_tokens)

    def _summarize_batch(self, sources, settings):
        """Summaries of token lists; where the search of one fails, the others are searched again without it."""
        cut = [self.truncated(ids) for ids in sources]
        try:
            found = self._search(cut, settings)
        except UserError as error:
            if len(sources) > 1:
                return [self._summarize_batch([ids], settings)[0] for ids in sources]
            return [Summary(source_tokens=len(sources[0]), error=str(error))]
        return [self.summary(ids, len(whole), len(read)) for whole, read, ids in zip(sources, cut, found)]

    def summary(self, ids: torch.Tensor, tokens: int, read: int) -> Summary:
        """The `Summary` of a hypothesis for a document of so many tokens, of which `read` were read."""
        chunked = read > self.source_positions
        return Summary(self.text(ids), ids.cpu(), tokens, truncated=tokens > read, chunked=chunked)

    def truncated(self, ids: list[int]) -> list[int]:
        """A source cut to the positions where no network reads more; </s> stays."""
        if len(ids) <= self.source_positions or self.long_network is not None:
            return ids
        return [*ids[: self.source_positions - 1], ids[-1]]

    def _search(self, sources, settings):
        """The best hypothesis (T,) of each of several token lists, which one network reads."""
        dictionary = self.hub.task.source_dictionary
        tokens = data_utils.collate_tokens([torch.tensor(ids) for ids in sources], dictionary.pad())
        tokens = tokens.to(self.hub.device)
        return search(self.hub, self.network_for(tokens.size(1)), tokens, settings)

    def text(self, ids: torch.Tensor) -> str:
        """The text of tokens (T,) on one line."""
        return " ".join(self.hub.decode(ids).split())


def batches(lengths: dict[int, int], max_tokens: int) -> list[list[int]]:
    """Numbers of texts in batches of at most `max_tokens` tokens, padding counted, the longest first.

    Texts of about the same length share one. The longest come first, so that what takes too much memory fails at once.

    Args:
        lengths: number of a text -> its tokens.
    """
    found: list[list[int]] = []
    longest = 0
    for number in sorted(lengths, key=lambda number: (-lengths[number], number)):
        if found and (len(found[-1]) + 1) * longest <= max_tokens:
            found[-1].append(number)
        else:
            found.append([number])
            longest = lengths[number]
    return found
