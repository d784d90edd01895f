"""The settings of the encoder: names, defaults, checks, and their flags."""

from dataclasses import dataclass, field, fields
from typing import Optional

from fairseq.dataclass import FairseqDataclass

from ...errors import ConfigurationError
from ...registry import choose
from .registry import ENCODERS, FULL

STOCK_POSITIONS = 1024  # of the published BARTs


@dataclass
class EncoderSettings(FairseqDataclass):
    """Everything the encoder of an SRformer needs to know beside what fairseq has flags for."""

    encoder_attention: str = field(
        default=FULL,
        metadata={
            "help": "how the source is encoded: full (stock: every token attends to all), chunked (chunks with some "
            "context, each encoded as a sentence of its own: sources of any length, linear cost, weights as they are), "
            "or window (every token attends to its neighbours and to global ones: linear cost; BART only); "
            "registered: " + ", ".join(ENCODERS)
        },
    )
    encoder_chunk: Optional[int] = field(  # noqa: UP045 (fairseq's parser needs Optional)
        default=None,
        metadata={
            "help": "with --encoder-attention chunked: tokens of a chunk (default: what --encoder-positions leaves "
            "beside both contexts)"
        },
    )
    encoder_context: int = field(
        default=128,
        metadata={"help": "with chunked: tokens on either side that are encoded with a chunk and not kept"},
    )
    encoder_positions: Optional[int] = field(  # noqa: UP045
        default=None,
        metadata={
            "help": "with chunked: positions of a chunk with its contexts, those of the checkpoint that training "
            "starts from (default: 1024, BART's, or more where the chunk needs more)"
        },
    )
    encoder_prefix_symbol: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={
            "help": "with chunked: a symbol of the source dictionary that ends a question; the source up to it is put "
            "before every chunk, and kept once"
        },
    )

    encoder_window: int = field(
        default=512, metadata={"help": "with window: tokens on either side that a token attends to"}
    )
    encoder_global_tokens: int = field(
        default=1,
        metadata={
            "help": "with window: how many of a source's first tokens attend to all, by projections of their own, and "
            "are attended to by all"
        },
    )
    encoder_global_symbol: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={
            "help": "with window, and of LED: a symbol of the source dictionary that is global wherever it stands, as "
            "PRIMERA's <doc-sep>; a source should have few of them"
        },
    )

    @property
    def is_full(self) -> bool:
        return self.encoder_attention == FULL

    @property
    def reads_any_length(self) -> bool:
        """The encoder itself has no limit of positions."""
        return getattr(ENCODERS[self.encoder_attention], "reads_any_length", False)

    @property
    def with_an_effect(self) -> tuple[str, ...]:
        """Which settings count beside the kind of encoder."""
        return {
            "chunked": ("encoder_chunk", "encoder_context", "encoder_positions", "encoder_prefix_symbol"),
            "window": ("encoder_window", "encoder_global_tokens", "encoder_global_symbol"),
        }.get(self.encoder_attention, ())

    def check(self) -> "EncoderSettings":
        """Fill in what is left open; raise a ConfigurationError on the first value that cannot be right."""
        choose(ENCODERS, self.encoder_attention, "--encoder-attention")
        for name in ("encoder_chunk", "encoder_positions"):
            value, flag = getattr(self, name), _flag(name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{flag} must be at least 1, got {value}; leave it out for the default")
        for name, least, usual in (("context", 0, 128), ("window", 1, 512), ("global_tokens", 0, 1)):
            name = f"encoder_{name}"
            if getattr(self, name) < least:
                raise ConfigurationError(
                    f"{_flag(name)} must be at least {least}, got {getattr(self, name)}; {usual} is usual"
                )
        if self.encoder_attention == "chunked":
            self._fill_in_chunk()
        return self

    def _fill_in_chunk(self):
        contexts = 2 * self.encoder_context
        if self.encoder_positions is None:
            needed = self.encoder_chunk + contexts if self.encoder_chunk else 0
            self.encoder_positions = max(STOCK_POSITIONS, needed)
        if self.encoder_chunk is None:
            self.encoder_chunk = self.encoder_positions - contexts
        if self.encoder_chunk < 1 or self.encoder_chunk + contexts > self.encoder_positions:
            chunk = "a chunk" if self.encoder_chunk < 1 else f"--encoder-chunk {self.encoder_chunk}"
            raise ConfigurationError(
                f"{chunk} with --encoder-context {self.encoder_context} on either side does not fit "
                f"--encoder-positions {self.encoder_positions}: make the context (or the chunk) smaller"
            )


def _flag(name):
    return "--" + name.replace("_", "-")


CHANGEABLE = tuple(one.name for one in fields(EncoderSettings) if one.name != "_name")
