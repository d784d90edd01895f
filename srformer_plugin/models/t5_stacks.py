"""T5's encoder and decoder as fairseq's, with T5's parts, and their initial values."""

import math

from fairseq.models.transformer import TransformerEncoderBase
from fairseq.modules.quant_noise import quant_noise
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn

from ..attention.cross_attention import SegmentedCrossAttention
from ..attention.hepos import HeposCrossAttention
from .encoder_output import encoder_output, through_layers
from .segmented_decoder import SegmentedDecoder, SegmentedDecoderLayer, wrap_layer
from .t5_modules import (
    GatedLinear,
    RelativePositionBias,
    RMSNorm,
    T5CrossAttention,
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
        options = {"settings": self.settings, "bias": False, "scale_query": False}
        return self._build_attention(self.partial_kind, cfg, heads, kdim=kdim, **options)


def _build_position_bias(cfg, heads: int, bidirectional: bool) -> RelativePositionBias:
    return RelativePositionBias(heads, bidirectional, cfg.relative_position_buckets, cfg.relative_position_max_distance)


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
        x, states = through_layers(self.layers, x, bias, return_all_hiddens)
        x = self.dropout_module(self.layer_norm(x))
        return encoder_output(x, padding_mask, embedding, states)

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
        padded = self.target_padding(prev_output_tokens).exists
        tokens, first = self.start_with_pad(prev_output_tokens), 0
        if incremental_state is not None:
            tokens, first = tokens[:, -1:], keys - 1
        bias = self.relative_attention_bias(
            first,
            tokens.size(1),
            keys,
            padding_mask if padded else None,
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


def initialise(module: nn.Module) -> None:
    """T5's initial values of one module's own parameters; a module that T5 does not have keeps its own.

    As in Mesh TensorFlow and Hugging Face's `T5PreTrainedModel`: every product keeps the variance of its input, and
    the query's weights also hold the D^-1/2 that T5's attention leaves out. (The embeddings are N(0, 1) by
    `T5Embedding`, and an untied output is N(0, 1 / d_model) by fairseq, which starts v1.1 with logits like T5's.)
    """
    if isinstance(module, (T5SelfAttention, T5CrossAttention, SegmentedCrossAttention, HeposCrossAttention)):
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
