"""One decoding step of an SRformer in tensors of fixed shapes, at a position that only the device knows.

It computes what the decoder's `forward` computes with fairseq's incremental state. Three things differ, so that a CUDA
graph can replay it: buffers are allocated for the longest hypothesis, the position is a tensor, and keys and values of
earlier positions are never reordered. A hypothesis instead knows which hypothesis of its sentence wrote every earlier
position (its ancestors), and masks what others wrote; the buffers are read once per sentence and not per hypothesis.
"""

import torch
import torch.nn.functional as F
from fairseq.modules.fairseq_dropout import FairseqDropout
from torch import Tensor

from ..attention.dropout import is_active
from ..attention.source_context import SourceContext
from ..errors import ConfigurationError
from ..models.segmented_decoder import SegmentedDecoder, SegmentedDecoderLayer


class StaticDecoder:
    """The buffers and the step of one batch shape.

    Args:
        decoder: of an SRformer; in eval mode.
        encoder_out: the encoder's output for B sentences (never reordered to B * beam).
        beam: x, hypotheses per sentence.
        length: T, positions of the longest hypothesis, its end of sentence included.
    Raises:
        ConfigurationError: a decoder with parts that have no step here.
    """

    def __init__(self, decoder: SegmentedDecoder, encoder_out: dict, beam: int, length: int):
        check_supported(decoder)
        self.decoder, self.beam, self.length = decoder, beam, length
        self.sources = list(self._open_sources(encoder_out))
        batch_size, self.device = encoder_out["encoder_out"][0].size(1), encoder_out["encoder_out"][0].device
        device, options = self.device, {"device": self.device, "dtype": decoder.output_projection.weight.dtype}
        # slot p * x + i holds what hypothesis i wrote at position p; zeros, since a masked NaN is still NaN
        heads = [(layer.self_attn.num_heads, layer.self_attn.head_dim) for layer in decoder.layers]
        self.caches = [torch.zeros(2, batch_size, count, length * beam, size, **options) for count, size in heads]
        self.hypothesis = torch.arange(beam, device=device)
        self.tables = self._open_tables()

    def _open_tables(self):
        """What positions contribute, by today's weights: embeddings (T, C) and attention scores (T, H, T), or None."""
        decoder, length, device = self.decoder, self.length, self.device
        bias = decoder.self_attention_bias_table(length, device)
        if bias is not None:
            bias = bias.to(decoder.output_projection.weight.dtype)
        return {"positions": decoder.position_table(length, device), "bias": bias}

    def _open_sources(self, encoder_out):
        """What each layer's cross-attention keeps of the sources, layer by layer."""
        masks, states = encoder_out["encoder_padding_mask"], encoder_out["encoder_out"][0]
        context = SourceContext(masks[0] if len(masks) > 0 else None)
        for layer in self.decoder.layers:
            yield layer.encoder_attn.open_source(states, context, self.length)

    def load(self, encoder_out: dict) -> None:
        """Put other sources of the same shape in the place of those there are, and what weights may have changed.

        Weights are trained, loaded and averaged in place: nothing that was computed from them outlives a call.
        """
        for name, table in self._open_tables().items():
            if table is not None:
                self.tables[name].copy_(table)
        for source, other in zip(self.sources, self._open_sources(encoder_out)):
            for name, tensor in other.items():
                source[name].copy_(tensor)

    def step(self, tokens: Tensor, position: Tensor, ancestors: Tensor, window: int) -> Tensor:
        """Logits of the next token.

        Args:
            tokens: (B, x) int64, the last token of every hypothesis.
            position: (1,) int64, theirs.
            ancestors: (B, x, T) int64: which hypothesis wrote each position of a hypothesis; -1: none did.
            window: positions from 0 that are looked at, above `position`; a Python int.
        Returns:
            (B, x, V).
        """
        decoder = self.decoder
        visible = ancestors[:, :, :window].unsqueeze(3) == self.hypothesis  # (B, x, window, x)
        mask = visible.flatten(2).unsqueeze(1)
        if self.tables["bias"] is not None:
            bias = self.tables["bias"][:, :, :window].index_select(0, position)  # (1, H, window)
            bias = bias.repeat_interleave(self.beam, dim=2)  # every distance once per slot
            mask = torch.where(mask, bias.unsqueeze(2), float("-inf"))
        slots = position * self.beam + self.hypothesis
        x = decoder.embed_step(tokens.view(1, -1), position, self.tables["positions"])
        for layer, cache, source in zip(decoder.layers, self.caches, self.sources):
            x = self._layer_step(layer, x, cache, source, slots, mask, position)
        if decoder.layer_norm is not None:
            x = decoder.layer_norm(x)
        return decoder.output_layer(x).view(*tokens.shape, -1)

    def _layer_step(self, layer, x, cache, source, slots, mask, position):
        """`TransformerDecoderLayerBase.forward` without dropout."""

        def residual(x, norm, branch):
            if layer.normalize_before:
                return x + branch(norm(x))
            return norm(x + branch(x))

        attention = layer.self_attn
        x = residual(x, layer.self_attn_layer_norm, lambda y: self._self_attention(attention, y, cache, slots, mask))
        x = residual(x, layer.encoder_attn_layer_norm, lambda y: layer.encoder_attn.step(y, source, position))
        return residual(x, layer.final_layer_norm, lambda y: layer.fc2(layer.activation_fn(layer.fc1(y))))

    def _self_attention(self, attention, x, cache, slots, mask):
        """Of the x hypotheses of each sentence to what their ancestors wrote: (1, B * x, C) -> (1, B * x, C)."""
        heads = (attention.num_heads, attention.head_dim)
        q, k, v = (
            project(x).view(-1, self.beam, *heads).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        keys, values = cache
        keys.index_copy_(2, slots, k)
        values.index_copy_(2, slots, v)
        seen = mask.size(-1)
        scale = getattr(attention, "scaling", 1.0)
        output = F.scaled_dot_product_attention(q, keys[:, :, :seen], values[:, :, :seen], mask, scale=scale)
        return attention.out_proj(output.transpose(1, 2).reshape(x.shape[:2] + (-1,)))


def check_supported(decoder) -> None:
    """Raise a ConfigurationError that names what of `decoder` has no step here."""
    if not isinstance(decoder, SegmentedDecoder):
        raise ConfigurationError("a decoder that is not an SRformer's")
    for attribute, flag in (
        ("project_in_dim", "--decoder-input-dim"),
        ("project_out_dim", "--decoder-output-dim"),
        ("adaptive_softmax", "--adaptive-softmax-cutoff"),
    ):
        if getattr(decoder, attribute, None) is not None:
            raise ConfigurationError(f"a decoder with {flag}")
    if any(isinstance(module, FairseqDropout) and is_active(module) for module in decoder.modules()):
        raise ConfigurationError("dropout in the decoder (--retain-dropout, or a model in training)")
    for layer in decoder.layers:
        if not isinstance(layer, SegmentedDecoderLayer) or layer.encoder_attn is None or layer.cross_self_attention:
            raise ConfigurationError("a decoder layer that is not an SRformer's")
        for attribute in ("c_attn", "attn_ln", "ffn_layernorm", "w_resid"):
            if getattr(layer, attribute) is not None:
                raise ConfigurationError(f"a decoder layer with {attribute}")
        if getattr(layer.self_attn, "bias_k", None) is not None or getattr(layer.self_attn, "add_zero_attn", False):
            raise ConfigurationError("self-attention with --add-bias-kv or --add-zero-attn")
