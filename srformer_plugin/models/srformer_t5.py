"""SRformer-T5: T5 on fairseq's encoder and decoder, with segmented recurrent cross-attention in every decoder layer.

What fairseq's transformer lacks of T5 is in `t5_modules`; the names of Hugging Face's parameters are in `t5_names`.
"""

import math
from dataclasses import asdict, dataclass, field

from fairseq import utils
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import register_model, register_model_architecture
from fairseq.models.bart import BARTModel
from fairseq.models.transformer import TransformerConfig, TransformerEncoderBase, TransformerModel
from fairseq.models.transformer.transformer_legacy import base_architecture
from fairseq.modules.quant_noise import quant_noise
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn

from ..attention.cross_attention import SegmentedCrossAttention
from ..errors import ConfigurationError
from ..hub import SRformerHubInterface, load
from ..registry import choose
from .segmented_decoder import SegmentedDecoder, SegmentedDecoderLayer, wrap_layer
from .segmented_model import SegmentedModel, choose_by_content
from .t5_modules import (
    GatedLinear,
    RelativePositionBias,
    RMSNorm,
    T5CrossAttention,
    T5Embedding,
    T5SelfAttention,
    WideLinear,
    finite_half,
    relu,
    residual_stream,
)

# --feed-forward: the first projection and what follows it
FEED_FORWARDS = {
    "relu": (lambda width_in, width_out: nn.Linear(width_in, width_out, bias=False), relu),
    "gated-gelu": (GatedLinear, finite_half),
}


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
            "help": "an output projection of its own (T5 v1.1), not the embedding behind a factor of "
            "d_model^-0.5 (T5)"
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
                f"--relative-position-buckets must be a multiple of 4, got {self.relative_position_buckets}; "
                "T5 uses 32"
            )
        if self.relative_position_max_distance <= self.relative_position_buckets // 2:
            raise ConfigurationError(
                "--relative-position-max-distance must be above half of --relative-position-buckets, got "
                f"{self.relative_position_max_distance}; T5 uses 128"
            )
        return self


class _T5Layer:
    """What both kinds of layer share; to be named before a layer of fairseq, whose `forward` is used as it is."""

    def __init__(self, cfg, *args, **kwargs):
        super().__init__(cfg, *args, **kwargs)
        for name in ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"):
            if getattr(self, name, None) is not None:
                setattr(self, name, RMSNorm(self.embed_dim))
        first, self.activation_fn = FEED_FORWARDS[cfg.feed_forward]
        width = self.fc1.out_features
        self.fc1 = quant_noise(first(self.embed_dim, width), self.quant_noise, self.quant_noise_block_size)
        self.fc2 = quant_noise(WideLinear(width, self.embed_dim), self.quant_noise, self.quant_noise_block_size)

    def _build_attention(self, kind, cfg, heads, **options):
        return kind(
            self.embed_dim,
            heads,
            head_dim=cfg.d_kv,
            dropout=cfg.attention_dropout,
            q_noise=self.quant_noise,
            qn_block_size=self.quant_noise_block_size,
            **options,
        )


class T5EncoderLayer(_T5Layer, TransformerEncoderLayerBase):
    """fairseq's encoder layer with T5's parts."""

    def build_self_attention(self, embed_dim, cfg):
        return self._build_attention(T5SelfAttention, cfg, cfg.encoder.attention_heads)


class T5DecoderLayer(_T5Layer, SegmentedDecoderLayer):
    """fairseq's decoder layer with T5's parts, and the `encoder_attn` that the settings choose."""

    def build_self_attention(self, embed_dim, cfg, add_bias_kv=False, add_zero_attn=False):
        return self._build_attention(T5SelfAttention, cfg, cfg.decoder.attention_heads)

    def build_encoder_attention(self, embed_dim, cfg):
        heads, kdim = cfg.decoder.attention_heads, cfg.encoder.embed_dim
        if self.settings.is_full:
            return self._build_attention(T5CrossAttention, cfg, heads, kdim=kdim)
        return self._build_attention(
            SegmentedCrossAttention, cfg, heads, kdim=kdim, settings=self.settings, bias=False, scale_query=False
        )


def _build_position_bias(cfg, heads: int, bidirectional: bool) -> RelativePositionBias:
    return RelativePositionBias(
        heads, bidirectional, cfg.relative_position_buckets, cfg.relative_position_max_distance
    )


class T5Encoder(TransformerEncoderBase):
    """fairseq's encoder with relative positions: where the padding is makes no difference."""

    def __init__(self, cfg, dictionary, embed_tokens, return_fc=False):
        super().__init__(cfg, dictionary, embed_tokens, return_fc)
        self.relative_attention_bias = _build_position_bias(cfg, cfg.encoder.attention_heads, bidirectional=True)
        self.layer_norm = RMSNorm(cfg.encoder.embed_dim)

    def build_encoder_layer(self, cfg):
        return wrap_layer(T5EncoderLayer(cfg), cfg)

    def forward_scriptable(self, src_tokens, src_lengths=None, return_all_hiddens=False, token_embeddings=None):
        """As the base class's; the bias takes the place of the padding mask in the layers."""
        padding_mask = src_tokens.eq(self.padding_idx)
        length = src_tokens.size(1)
        bias = self.relative_attention_bias(0, length, length, padding_mask if padding_mask.any() else None)
        x, embedding = self.forward_embedding(src_tokens, token_embeddings)
        x = residual_stream(x).transpose(0, 1)
        states = [x] if return_all_hiddens else []
        for layer in self.layers:
            x = layer(x, encoder_padding_mask=bias)
            if return_all_hiddens:
                states.append(x)
        x = self.dropout_module(self.layer_norm(x))
        return {
            "encoder_out": [x],  # (N, B, C)
            "encoder_padding_mask": [padding_mask],  # (B, N)
            "encoder_embedding": [embedding],  # (B, N, C)
            "encoder_states": states,  # (N, B, C) each
            "fc_results": [],
            "src_tokens": [],
            "src_lengths": [padding_mask.logical_not().sum(dim=1, dtype=src_tokens.dtype).int().unsqueeze(1)],
        }

    def upgrade_state_dict_named(self, state_dict, name):
        state_dict.setdefault(f"{name}.version", self.version.clone())  # a T5 of before this version does not exist
        return super().upgrade_state_dict_named(state_dict, name)


class T5Decoder(SegmentedDecoder):
    """fairseq's decoder with relative positions and T5's output.

    T5's targets start with `<pad>`, fairseq's with `</s>` (fairseq-train's batches and `SequenceGenerator` alike).
    So the first token of a target is embedded as `<pad>` where it is `</s>`. It is a real position all the same:
    what is padding is decided by the tokens as they come in.
    """

    layer_class = T5DecoderLayer

    def __init__(self, cfg, dictionary, embed_tokens, no_encoder_attn=False, output_projection=None):
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn, output_projection)
        self.relative_attention_bias = _build_position_bias(cfg, cfg.decoder.attention_heads, bidirectional=False)
        self.layer_norm = RMSNorm(cfg.decoder.embed_dim)

    def build_output_projection(self, cfg, dictionary, embed_tokens):
        # --share-all-embeddings, which v1.1 needs for encoder and decoder, has tied the output as well
        self.share_input_output_embed = cfg.share_decoder_input_output_embed and not cfg.untied_output
        super().build_output_projection(cfg, dictionary, embed_tokens)

    def start_with_pad(self, tokens: Tensor) -> Tensor:
        """`tokens` (B, T), padded on either side, each row's first real one replaced by `<pad>` if it is `</s>`."""
        is_real = tokens.ne(self.padding_idx)
        is_first = is_real & (is_real.cumsum(dim=1) == 1)
        return tokens.masked_fill(is_first & tokens.eq(self.dictionary.eos()), self.padding_idx)

    def extract_features_scriptable(
        self,
        prev_output_tokens,
        encoder_out,
        incremental_state=None,
        full_context_alignment=False,
        alignment_layer=None,
        alignment_heads=None,
    ):
        """As the base class's; the bias takes the place of the padding mask and of the causal mask in the layers."""
        if alignment_layer is None:
            alignment_layer = self.num_layers - 1
        encoder_states = context = None
        if encoder_out is not None and len(encoder_out["encoder_out"]) > 0:
            encoder_states, context = encoder_out["encoder_out"][0], encoder_out["encoder_padding_mask"][0]

        keys = prev_output_tokens.size(1)
        padding_mask = prev_output_tokens.eq(self.padding_idx)
        tokens, first = self.start_with_pad(prev_output_tokens), 0
        if incremental_state is not None:
            tokens, first = tokens[:, -1:], keys - 1
        bias = self.relative_attention_bias(
            first,
            tokens.size(1),
            keys,
            padding_mask if padding_mask.any() else None,
            causal=incremental_state is None and not full_context_alignment,
        )
        x = residual_stream(self.dropout_module(self.embed_scale * self.embed_tokens(tokens))).transpose(0, 1)

        attention, inner_states = None, [x]
        for number, layer in enumerate(self.layers):
            wanted = number == alignment_layer
            x, weights, _ = layer(
                x,
                encoder_states,
                context,
                incremental_state,
                self_attn_padding_mask=bias,
                need_attn=wanted,
                need_head_weights=wanted,
            )
            inner_states.append(x)
            if wanted and weights is not None:
                attention = weights.float()[:alignment_heads].mean(dim=0)
        x = self.dropout_module(self.layer_norm(x)).transpose(0, 1)
        return x, {"attn": [attention], "inner_states": inner_states}

    def self_attention_bias_table(self, length, device):
        return self.relative_attention_bias(0, length, length)[0].transpose(0, 1)

    def embed_step(self, tokens, position, positions):
        start = (position == 0) & tokens.eq(self.dictionary.eos())
        return residual_stream(self.embed_scale * self.embed_tokens(tokens.masked_fill(start, self.padding_idx)))

    def output_layer(self, features):
        """Logits (B, T, vocabulary); a tied output is scaled by d_model^-0.5, since T5's embeddings are N(0, 1)."""
        if self.share_input_output_embed:
            features = features * self.output_embed_dim**-0.5
        return super().output_layer(features)

    def upgrade_state_dict_named(self, state_dict, name):
        state_dict.setdefault(f"{name}.version", self.version.clone())
        return super().upgrade_state_dict_named(state_dict, name)


@register_model("srformer_t5")
class SRformerT5Model(SegmentedModel, TransformerModel):
    """T5 whose decoder attends to one source segment per position and to a recurrent memory of the others.

    With `--cross-attention full`, or where the segment size is at least the source length, its logits are T5's.
    """

    def __init__(self, args, encoder, decoder):
        super().__init__(args, encoder, decoder)
        for module in self.modules():
            initialise(module)

    set_beam_size = BARTModel.set_beam_size  # keys and values once per sentence; uses nothing of BART's

    @classmethod
    def add_args(cls, parser):
        """Add the flags of fairseq's transformer, `SegmentSettings` and `T5Settings`."""
        super().add_args(parser)
        gen_parser_from_dataclass(parser, T5Settings(), delete_default=True)

    @classmethod
    def build_model(cls, args, task):
        """As `SegmentedModel.build_model`; `T5Settings` are checked and kept in the checkpoint as well."""
        for name, value in asdict(T5Settings.from_namespace(args).check()).items():
            setattr(args, name, value)
        return super().build_model(args, task)

    @classmethod
    def build_embedding(cls, args, dictionary, embed_dim, path=None):
        embedding = T5Embedding(len(dictionary), embed_dim, dictionary.pad())
        if path:
            utils.load_embedding(utils.parse_embedding(path), dictionary, embedding)
        return embedding

    @classmethod
    def build_encoder(cls, args, src_dict, embed_tokens):
        return T5Encoder(TransformerConfig.from_namespace(args), src_dict, embed_tokens)

    @classmethod
    def build_decoder(cls, args, tgt_dict, embed_tokens):
        cfg = TransformerConfig.from_namespace(args)
        return T5Decoder(cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention)

    @classmethod
    def from_pretrained(cls, folder, checkpoint_file="model.pt", data_name_or_path=".", bpe=None, **options):
        """A checkpoint as a `SRformerHubInterface`, whose `sample` works on text; arguments as `hub.load`'s."""
        loaded = load(folder, checkpoint_file, data_name_or_path, bpe, **options)
        return SRformerHubInterface(loaded["args"], loaded["task"], loaded["models"])


def initialise(module: nn.Module) -> None:
    """T5's initial values of one module's own parameters; a module that T5 does not have keeps its own.

    As in Mesh TensorFlow and Hugging Face's `T5PreTrainedModel`: every product keeps the variance of its input, and
    the query's weights also hold the D^-1/2 that T5's attention leaves out. (The embeddings are N(0, 1) by
    `T5Embedding`, and an untied output is N(0, 1 / d_model) by fairseq, which starts v1.1 with logits like T5's.)
    """
    if isinstance(module, (T5SelfAttention, T5CrossAttention, SegmentedCrossAttention)):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            projection = getattr(module, name)
            extra = module.head_dim if name == "q_proj" else 1
            nn.init.normal_(projection.weight, std=(projection.in_features * extra) ** -0.5)
    elif isinstance(module, _T5Layer):
        for projection in (module.fc1, getattr(module.fc1, "linear", None), module.fc2):
            if projection is not None:
                nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
    elif isinstance(module, (T5Encoder, T5Decoder)):
        width = module.embed_tokens.embedding_dim
        nn.init.normal_(module.relative_attention_bias.weight, std=1 / math.sqrt(width))


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
        # the paper (MATH.md section 3)
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
