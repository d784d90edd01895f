"""SRformer-T5: T5 on fairseq's encoder and decoder, with segmented recurrent cross-attention in every decoder layer.

Its encoder and decoder are in `t5_stacks`, what fairseq's transformer lacks of T5 in `t5_modules`, and the names of
Hugging Face's parameters in `t5_names`.
"""

from dataclasses import asdict, dataclass, field

from fairseq import utils
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import register_model, register_model_architecture
from fairseq.models.bart import BARTModel
from fairseq.models.transformer import TransformerConfig, TransformerModel
from fairseq.models.transformer.transformer_legacy import base_architecture
from torch import nn

from ..errors import ConfigurationError
from ..registry import choose
from .encoders.registry import encoder_class
from .hub import SRformerHubInterface
from .pretrained import load
from .segmented_model import SegmentedModel, choose_by_content
from .t5_modules import T5Embedding
from .t5_stacks import FEED_FORWARDS, T5Decoder, T5Encoder, initialise


@dataclass
class T5Settings(FairseqDataclass):
    """What T5's variants differ in, beyond sizes that fairseq has flags for."""

    d_kv: int = field(default=64, metadata={"help": "width of a head, which need not divide the model's width"})
    feed_forward: str = field(
        default="relu", metadata={"help": "relu (T5) or gated-gelu (T5 v1.1): " + ", ".join(FEED_FORWARDS)}
    )
    untied_output: bool = field(
        default=False,
        metadata={
            "help": "an output projection of its own (T5 v1.1), not the embedding behind a factor of d_model^-0.5 (T5)"
        },
    )
    relative_position_buckets: int = field(
        default=32, metadata={"help": "numbers per head for relative positions in self-attention"}
    )
    relative_position_max_distance: int = field(
        default=128, metadata={"help": "distance from which on all relative positions share a bucket"}
    )

    def check(self) -> "T5Settings":
        """Raise a ConfigurationError on the first value that cannot be right."""
        choose(FEED_FORWARDS, self.feed_forward, "--feed-forward")
        if self.d_kv < 1:
            raise ConfigurationError(f"--d-kv must be at least 1, got {self.d_kv}; T5 uses 64")
        if self.relative_position_buckets < 4 or self.relative_position_buckets % 4 != 0:
            raise ConfigurationError(
                f"--relative-position-buckets must be a multiple of 4, got {self.relative_position_buckets}; T5 uses 32"
            )
        if self.relative_position_max_distance <= self.relative_position_buckets // 2:
            raise ConfigurationError(
                "--relative-position-max-distance must be above half of --relative-position-buckets, got "
                f"{self.relative_position_max_distance}; T5 uses 128"
            )
        return self


@register_model("srformer_t5")
class SRformerT5Model(SegmentedModel, TransformerModel):
    """T5 whose decoder attends to one source segment per position and to a recurrent memory of the others.

    With `--cross-attention full`, or where the segment size is at least the source length, its logits are T5's.
    """

    def __init__(self, args, encoder, decoder):
        super().__init__(args, encoder, decoder)
        for module in self.modules():
            initialise(module)

    def draw_initial_weights(self):
        """Draw anew, module by module, all that T5 draws; norms and memories stay."""
        for module in self.modules():
            if isinstance(module, T5Embedding):
                module.reset_parameters()
            initialise(module)
        if not self.decoder.share_input_output_embed:
            nn.init.normal_(self.decoder.output_projection.weight, std=self.decoder.output_embed_dim**-0.5)

    set_beam_size = BARTModel.set_beam_size  # keys and values once per sentence; uses nothing of BART's

    @classmethod
    def add_args(cls, parser):
        """Add the flags of fairseq's transformer, `SegmentSettings` and `T5Settings`."""
        super().add_args(parser)
        gen_parser_from_dataclass(parser, T5Settings(), delete_default=True)

    @classmethod
    def check_arguments(cls, args):
        """As `SegmentedModel.check_arguments`, with `T5Settings`."""
        T5Settings.from_namespace(args).check()
        return super().check_arguments(args)

    @classmethod
    def build_model(cls, args, task):
        """As `SegmentedModel.build_model`; `T5Settings` are kept in the checkpoint as well."""
        for name, value in asdict(T5Settings.from_namespace(args)).items():
            setattr(args, name, value)
        return super().build_model(args, task)

    @classmethod
    def settings_of_weights(cls, args):
        """As in `SegmentedModel`, with T5's own."""
        distance = T5Settings.from_namespace(args).relative_position_max_distance
        return {**super().settings_of_weights(args), "--relative-position-max-distance": distance}

    @classmethod
    def build_embedding(cls, args, dictionary, embed_dim, path=None):
        embedding = T5Embedding(len(dictionary), embed_dim, dictionary.pad())
        if path:
            utils.load_embedding(utils.parse_embedding(path), dictionary, embedding)
        return embedding

    @classmethod
    def build_encoder(cls, args, src_dict, embed_tokens):
        encoder = encoder_class(args.encoder_attention, T5Encoder)
        return encoder(TransformerConfig.from_namespace(args), src_dict, embed_tokens)

    @classmethod
    def build_decoder(cls, args, tgt_dict, embed_tokens):
        cfg = TransformerConfig.from_namespace(args)
        return T5Decoder(cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention)

    @classmethod
    def from_pretrained(cls, folder, checkpoint_file="model.pt", data_name_or_path=".", bpe=None, **options):
        """A checkpoint as a `SRformerHubInterface`, whose `sample` works on text; arguments as `pretrained.load`'s."""
        loaded = load(folder, checkpoint_file, data_name_or_path, bpe, **options)
        return SRformerHubInterface(loaded["args"], loaded["task"], loaded["models"])


def _architecture(args, width, ffn, layers, heads, v1_1=False, **others):
    """Fill in what the command line leaves open: the sizes, T5's fixed choices, and the paper's T5 preset."""
    dropout = getattr(args, "dropout", 0.1)
    defaults = {
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": ffn,
        "encoder_layers": layers,
        "encoder_attention_heads": heads,
        "decoder_layers": getattr(args, "encoder_layers", layers),
        "decoder_attention_heads": getattr(args, "encoder_attention_heads", heads),
        "feed_forward": "gated-gelu" if v1_1 else "relu",
        "untied_output": v1_1,
        # the paper (docs/attention.md, section 3)
        "segment_size": 64,
        "raf_leak": 0.1,
        "raf_threshold": 0.1,
        "kv_clamp": 0.0,
        # T5 has one rate for all dropouts
        "dropout": dropout,
        "attention_dropout": dropout,
        "activation_dropout": dropout,
        "max_source_positions": 1024,
        "max_target_positions": 1024,
        "share_all_embeddings": True,
        **others,
    }
    for name, value in defaults.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    # not a matter of choice
    args.encoder_normalize_before = args.decoder_normalize_before = True
    args.no_token_positional_embeddings = True
    args.no_scale_embedding = True
    args.layernorm_embedding = False
    for name, value in asdict(T5Settings()).items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    base_architecture(args)


@register_model_architecture("srformer_t5", "srformer_t5_small")
def srformer_t5_small(args):
    """t5-small's sizes: 6 + 6 layers of 512."""
    _architecture(args, 512, 2048, 6, 8)


@register_model_architecture("srformer_t5", "srformer_t5")
def srformer_t5(args):
    """The default: small sizes."""
    srformer_t5_small(args)


@register_model_architecture("srformer_t5", "srformer_t5_base")
def srformer_t5_base(args):
    """t5-base's sizes: 12 + 12 layers of 768."""
    _architecture(args, 768, 3072, 12, 12)


@register_model_architecture("srformer_t5", "srformer_t5_large")
def srformer_t5_large(args):
    """t5-large's sizes: 24 + 24 layers of 1,024."""
    _architecture(args, 1024, 4096, 24, 16)


@register_model_architecture("srformer_t5", "srformer_t5_v1_1_small")
def srformer_t5_v1_1_small(args):
    """T5 v1.1's (and Flan-T5's) small sizes: 8 + 8 layers of 512."""
    _architecture(args, 512, 1024, 8, 6, v1_1=True)


@register_model_architecture("srformer_t5", "srformer_t5_v1_1_base")
def srformer_t5_v1_1_base(args):
    """T5 v1.1's base sizes: 12 + 12 layers of 768."""
    _architecture(args, 768, 2048, 12, 12, v1_1=True)


@register_model_architecture("srformer_t5", "srformer_t5_v1_1_large")
def srformer_t5_v1_1_large(args):
    """T5 v1.1's large sizes: 24 + 24 layers of 1,024."""
    _architecture(args, 1024, 2816, 24, 16, v1_1=True)


def _register_content(sizes, suffix):
    """An architecture of the same sizes whose queries choose 8 segments of 16 tokens by content."""

    @register_model_architecture("srformer_t5", f"srformer_t5_content{suffix}")
    def architecture(args):
        choose_by_content(args)
        sizes(args)


_register_content(srformer_t5_small, "")
_register_content(srformer_t5_base, "_base")
_register_content(srformer_t5_large, "_large")
_register_content(srformer_t5_v1_1_small, "_v1_1_small")
_register_content(srformer_t5_v1_1_base, "_v1_1_base")
_register_content(srformer_t5_v1_1_large, "_v1_1_large")


@register_model_architecture("srformer_t5", "srformer_t5_tiny")
def srformer_t5_tiny(args):
    """1 + 1 layers of 32 with 2 heads of 8 and segments of 4 tokens, for tests."""
    _architecture(args, 32, 64, 1, 2, d_kv=8, segment_size=4)
