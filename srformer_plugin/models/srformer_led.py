"""LED (Longformer-Encoder-Decoder): BART for sources of 16,384 tokens, with the decoder of an SRformer."""

from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerConfig

from ..attention.settings import FULL
from ..errors import ConfigurationError
from .encoders.led import LEDEncoder, parse_windows
from .encoders.registry import FULL as STOCK
from .encoders.registry import encoder_class
from .segmented_model import choose_by_content
from .srformer_bart import SRformerBARTModel, srformer_bart_base, srformer_bart_large, srformer_bart_tiny

# --encoder-attention: LED's own, and chunks that LED's own encodes as sentences
ENCODERS = (STOCK, "chunked")


@register_model("srformer_led")
class SRformerLEDModel(SRformerBARTModel):
    """BART whose encoder attends within a window and to global tokens; cross-attention is full by default.

    The logits are those of `transformers`' LED with `global_attention_mask` on the first token, and on all that are
    `--encoder-global-symbol`. A checkpoint of a BART starts it as well: positions are repeated and the first token's
    projections copied, as LED's authors did.
    """

    @classmethod
    def add_args(cls, parser):
        """BART's flags, the cross-attention's and the window's."""
        super().add_args(parser)
        parser.add_argument(
            "--attention-window",
            metavar="W",
            help="tokens that a token of the source attends to, on both sides together: an even number, or one for "
            "every encoder layer, with commas between them (default: 1024, that of the published LED)",
        )

    @classmethod
    def check_arguments(cls, args):
        """As in `SRformerBARTModel`, with an encoder and windows that LED can have."""
        encoder = getattr(args, "encoder_attention", None) or STOCK
        if encoder not in ENCODERS:
            raise ConfigurationError(
                f"--encoder-attention {encoder} is not for LED, whose encoder has a window of its own "
                f"(--attention-window); it takes {' or '.join(ENCODERS)}"
            )
        if not _keeps_layers(args):
            parse_windows(args.attention_window, args.encoder_layers)
        return super().check_arguments(args)

    @classmethod
    def settings_of_weights(cls, args):
        """As in `SegmentedModel`, with the windows and the global symbol; another architecture's options have none."""
        found = super().settings_of_weights(args)
        if hasattr(args, "encoder_global_symbol"):
            found["--encoder-global-symbol"] = args.encoder_global_symbol
        if getattr(args, "attention_window", None) is None:
            return found
        windows = parse_windows(args.attention_window, args.encoder_layers)
        return {**found, "--attention-window": ",".join(map(str, windows))}

    @classmethod
    def build_model(cls, args, task):
        """As in `SRformerBARTModel`; layers that are kept keep their windows."""
        if _keeps_layers(args):
            args.attention_window = _windows_kept(args.attention_window, args.encoder_layers_to_keep)
        return super().build_model(args, task)

    @classmethod
    def build_encoder(cls, args, src_dict, embed_tokens):
        kind = encoder_class(args.encoder_attention, LEDEncoder)
        return kind(TransformerConfig.from_namespace(args), src_dict, embed_tokens)


def _keeps_layers(args) -> bool:
    """Some layers are left out; what fairseq-train makes of the flag is no text, and refused elsewhere."""
    keep = getattr(args, "encoder_layers_to_keep", None)
    return isinstance(keep, str) and bool(keep)


def _windows_kept(windows: str, keep: str) -> str:
    """The windows of the layers that `--encoder-layers-to-keep` names: of as many as there are, or of all."""
    numbers, windows = keep.split(","), str(windows).split(",")
    if len(windows) in (1, len(numbers)):
        return ",".join(windows)
    try:
        return ",".join(windows[number] for number in sorted(map(int, numbers)))
    except (ValueError, IndexError):
        raise ConfigurationError(
            f"--encoder-layers-to-keep {keep!r} must be numbers of the checkpoint's layers, 0 to {len(windows) - 1}, "
            "with commas between them"
        ) from None


def _led(args, window: str = "1024") -> None:
    """What is LED's own, where the command line leaves it open."""
    preset = {"cross_attention": FULL, "attention_window": window, "max_source_positions": 16384}
    for name, value in preset.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)


@register_model_architecture("srformer_led", "srformer_led_large")
def srformer_led_large(args):
    """The sizes of allenai/led-large-16384: 12 + 12 layers of 1,024."""
    _led(args)
    srformer_bart_large(args)


@register_model_architecture("srformer_led", "srformer_led_base")
def srformer_led_base(args):
    """The sizes of allenai/led-base-16384: 6 + 6 layers of 768."""
    _led(args)
    srformer_bart_base(args)


@register_model_architecture("srformer_led", "srformer_led")
def srformer_led(args):
    """The default: base sizes."""
    srformer_led_base(args)


@register_model_architecture("srformer_led", "srformer_led_content")
def srformer_led_content(args):
    """Base sizes; every query of every head of the decoder chooses 8 segments of 16 tokens by content."""
    choose_by_content(args)
    srformer_led_base(args)


@register_model_architecture("srformer_led", "srformer_led_content_large")
def srformer_led_content_large(args):
    """Large sizes; segments as with `srformer_led_content`."""
    choose_by_content(args)
    srformer_led_large(args)


@register_model_architecture("srformer_led", "srformer_led_tiny")
def srformer_led_tiny(args):
    """1 + 1 layers of 32 with a window of 8 tokens, for tests."""
    _led(args, window="8")
    srformer_bart_tiny(args)
