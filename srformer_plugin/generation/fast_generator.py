"""`--fast-generate`: fairseq's beam search without its waits, for one SRformer."""

import logging
from collections import OrderedDict

import torch
from fairseq import search
from fairseq.sequence_generator import SequenceGenerator

from ..compat.decoding import check_lengths
from ..errors import ConfigurationError
from .beam_search import BeamSearch, SearchSettings
from .static_decoder import StaticDecoder, check_supported

logger = logging.getLogger(__name__)

SOURCE_BUCKET = 128  # sources are padded to a multiple of this many tokens
ROWS_BUCKET = 8  # batches of more sentences are filled up to a multiple
LENGTH_BUCKET = 32  # positions of the longest hypothesis
KEPT_GRAPHS = 2  # batch shapes whose buffers and graphs are kept
CHECK_EVERY = 4  # steps between two looks at whether all sentences are finished


class FastSequenceGenerator(SequenceGenerator):
    """Finds the hypotheses of `SequenceGenerator` with the device always busy.

    On a GPU a step is a CUDA graph, captured once per batch shape; shapes are rounded up, so that there are few. On a
    CPU the same step runs as it is. Arguments are `SequenceGenerator`'s. What cannot be searched this way (several
    models, sampling, constraints, prefixes other than one and the same token, as BART's <s>, a model that is not an
    SRformer) is left to `SequenceGenerator`, and the log says so once.
    """

    def __init__(self, models, tgt_dict, **options):
        super().__init__(models, tgt_dict, **options)
        self._searches: OrderedDict[tuple, _Search] = OrderedDict()
        self._reasons: set[str] = set()

    def release(self) -> None:
        """Free buffers and graphs, which hold device memory between calls."""
        self._searches.clear()

    def _generate(self, sample, prefix_tokens=None, constraints=None, bos_token=None):
        check_lengths(self, sample)
        try:
            self._check(sample, prefix_tokens, constraints)
            first = None if prefix_tokens is None else int(prefix_tokens[0, 0])
            return self._find(sample["net_input"]["src_tokens"], self.eos if bos_token is None else bos_token, first)
        except ConfigurationError as error:
            if str(error) not in self._reasons:
                self._reasons.add(str(error))
                logger.warning(f"--fast-generate cannot search with {error}: SequenceGenerator does")
        return super()._generate(sample, prefix_tokens, constraints, bos_token)

    def _find(self, source, bos, first):
        """The hypotheses of `source` (B, N), which begin with the token `first` if it is not None."""
        max_len = min(int(self.max_len_a * source.size(1) + self.max_len_b), self.max_len - 1)
        rows = source.size(0)
        found = self._search(self._fill_up(source), max_len)
        found.search.start(bos, max_len, first)
        for position in range(max_len + 1):
            found.step(position)
            may_end = position >= self.min_len and position % CHECK_EVERY == 0
            if may_end and bool((found.search.finished_count[:rows] == self.beam_size).all()):
                break
        return found.search.hypotheses(rows)

    def encode(self, source) -> dict:
        """The encoder's output for `source` (B, N), padded on the right beyond what was given."""
        return self.model.single_model.encoder(source, src_lengths=source.ne(self.pad).sum(dim=1))

    def _check(self, sample, prefix_tokens, constraints) -> None:
        """Raise a ConfigurationError that names what in this search needs `SequenceGenerator`."""
        reasons = {
            "several models": len(self.model.models) > 1,
            "a language model": self.lm_model is not None,
            "prefix tokens that are more than one token, or not the same for all": not self._is_first(prefix_tokens),
            "constraints": constraints is not None,
            "a search strategy other than beam search": type(self.search) is not search.BeamSearch,
            "--match-source-len": self.match_source_len,
            "a vocabulary smaller than twice the beam": self.vocab_size <= 2 * self.beam_size,
            "sources that are not tokens": "src_tokens" not in sample["net_input"],
        }
        for reason, holds in reasons.items():
            if holds:
                raise ConfigurationError(reason)
        decoder = getattr(self.model.single_model, "decoder", None)
        check_supported(decoder)
        if decoder.need_attn:
            raise ConfigurationError("attention weights (--print-alignment)")

    def _is_first(self, prefix_tokens) -> bool:
        """Whether a prefix (B, P) is one token for all hypotheses, or there is none."""
        if prefix_tokens is None:
            return True
        if prefix_tokens.size(1) != 1 or self.max_len_b < 1 or self.max_len <= 1:
            return False
        suppressed = self._settings().suppressed
        same, first = bool((prefix_tokens == prefix_tokens[0, 0]).all()), int(prefix_tokens[0, 0])
        return same and first not in (self.pad, self.eos, *suppressed)

    def _fill_up(self, source):
        """Round a batch's shape up: padding on the right, and copies of the last sentence. Neither changes a result."""
        if source.device.type != "cuda":  # every shape costs the same there
            return source
        rows, length = source.shape
        source = torch.nn.functional.pad(source, (0, -length % SOURCE_BUCKET), value=self.pad)
        more = -rows % ROWS_BUCKET if rows > ROWS_BUCKET else 0
        return torch.cat((source, source[-1:].expand(more, -1))) if more else source

    def _search(self, source, max_len) -> "_Search":
        """Buffers for this shape that hold these sources (B, N): those that are there, or new ones."""
        try:
            return self._open_search(source, max_len)
        except torch.OutOfMemoryError:
            if not self._searches:
                raise
        # outside of the handler, whose exception holds on to what was half done
        logger.info("--fast-generate gives up the buffers of other batches: the device's memory is full")
        self.release()
        torch.cuda.empty_cache()
        return self._open_search(source, max_len)

    def _open_search(self, source, max_len) -> "_Search":
        decoder, shape = self.model.single_model.decoder, tuple(source.shape)
        length = min(-(-(max_len + 1) // LENGTH_BUCKET) * LENGTH_BUCKET, self.max_len)
        # a graph holds addresses of weights: of all, since any of them may have been replaced
        weights = tuple((tensor.data_ptr(), tensor.dtype) for tensor in (*decoder.parameters(), *decoder.buffers()))
        key = (shape, length, self._settings(), weights)
        if key in self._searches:
            self._searches.move_to_end(key)
            self._searches[key].decoder.load(self.encode(source))
            return self._searches[key]
        while len(self._searches) >= KEPT_GRAPHS:  # first, since the encoder needs memory, too
            self._searches.popitem(last=False)
        encoder_out = self.encode(source)
        found = _Search(StaticDecoder(decoder, encoder_out, self.beam_size, length), self._settings(), shape[0])
        if self._keeps_searches(found.device):
            self._searches[key] = found
        return found

    @staticmethod
    def _keeps_searches(device) -> bool:
        """Whether buffers of one batch are worth keeping for the next: where graphs belong to them."""
        return device.type == "cuda"

    def _settings(self) -> SearchSettings:
        blocker, suppressed = self.repeat_ngram_blocker, self.token_indices_to_suppress
        return SearchSettings(
            beam_size=self.beam_size,
            vocab_size=self.vocab_size,
            pad=self.pad,
            unk=self.unk,
            eos=self.eos,
            min_len=self.min_len,
            len_penalty=self.len_penalty,
            unk_penalty=self.unk_penalty,
            temperature=self.temperature,
            normalize_scores=self.normalize_scores,
            no_repeat_ngram_size=0 if blocker is None else blocker.no_repeat_ngram_size,
            suppressed=() if suppressed is None else tuple(suppressed.tolist()),
        )


class _Search:
    """A decoder and a search of the same shape, and their step, on a GPU as a graph."""

    def __init__(self, decoder: StaticDecoder, settings: SearchSettings, batch_size: int):
        self.decoder = decoder
        self.device = decoder.device
        self.search = BeamSearch(settings, batch_size, decoder.length, self.device)
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def step(self, position: int) -> None:
        """Advance all hypotheses, whose last token is at `position`."""
        if self.device.type != "cuda":
            self._step(position + 1)
            return
        # few windows, each twice the one before, so that short hypotheses do not pay for long ones
        window = LENGTH_BUCKET
        while window <= position:
            window *= 2
        window = min(window, self.decoder.length)
        if window not in self.graphs:
            self.graphs[window] = self._capture(window)
        self.graphs[window].replay()

    def _step(self, window: int) -> None:
        search = self.search
        search.advance(self.decoder.step(search.last_tokens(), search.position, search.ancestors, window))

    def _capture(self, window: int) -> torch.cuda.CUDAGraph:
        """A graph of one step; the state of the search is what it was before."""
        saved = self.search.snapshot()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries initialise themselves outside of a capture
            self._step(window)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # other threads (a data loader that pins memory) may go on calling CUDA meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step(window)
        self.search.restore(saved)
        return graph
