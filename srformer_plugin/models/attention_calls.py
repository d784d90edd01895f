"""What the cross-attention of every decoder layer does in one pass over a finished target."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError


class AttentionCall(NamedTuple):
    """One layer's cross-attention in one pass.

    Attributes:
        weights: (B, T, N), what each position attends to: the mean over heads. What a recurrent memory adds has none.
        attention: the module.
        query, key: (T, B, C) and (N, B, C_enc), what it got.
        key_padding_mask: as it got it.
    """

    weights: Tensor
    attention: nn.Module
    query: Tensor
    key: Tensor
    key_padding_mask: Any

    def segments_read(self) -> "Tensor | None":
        """As `SegmentedCrossAttention.segments_read`; None: the attention knows no segments."""
        if not hasattr(self.attention, "segments_read"):
            return None
        return self.attention.segments_read(self.query, self.key, self.key_padding_mask)


@torch.inference_mode()
def for_each_call(network: nn.Module, states: dict, previous: Tensor, take: Callable[[AttentionCall], None]) -> None:
    """Run the decoder once over targets and hand the calls of its cross-attentions to `take`, the first layer first.

    Args:
        network: a model with an encoder and a decoder.
        states: the encoder's output for B sources.
        previous: (B, T), the targets' tokens moved on by one, as the decoder reads them.
    Raises:
        ConfigurationError: a decoder layer has no cross-attention.
    """
    layers = getattr(getattr(network, "decoder", None), "layers", None)
    if not layers or any(getattr(layer, "encoder_attn", None) is None for layer in layers):
        raise ConfigurationError("the model has decoder layers without cross-attention: nothing looks at the source")

    def ask(module, args, kwargs):
        return args, {**kwargs, "need_weights": True}

    def hand_on(module, args, kwargs, output):
        take(AttentionCall(output[1], module, kwargs["query"], kwargs["key"], kwargs["key_padding_mask"]))

    hooks = []
    for layer in layers:
        hooks.append(layer.encoder_attn.register_forward_pre_hook(ask, with_kwargs=True))
        hooks.append(layer.encoder_attn.register_forward_hook(hand_on, with_kwargs=True))
    try:
        network.decoder(previous, encoder_out=states, features_only=True)
    finally:
        for hook in hooks:
            hook.remove()
