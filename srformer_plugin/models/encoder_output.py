"""fairseq's encoder around its layers, for encoders whose layers take something else than a padding mask."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def through_layers(
    layers: Iterable[nn.Module], x: Tensor, mask: object, keep: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """The output of the last layer, and the input and the outputs of all if they are to be kept.

    Args:
        layers: of an encoder; those that layer drop leaves out are not among what it gives.
        mask: what every layer takes for its `encoder_padding_mask`.
    """
    states = [x] if keep else []
    for layer in layers:
        x = layer(x, encoder_padding_mask=mask)
        if keep:
            states.append(x)
    return x, states


def encoder_output(states: Tensor, padding: Tensor, embedding: Tensor | None = None, of_layers=()) -> dict:
    """The dict of `TransformerEncoderBase.forward`.

    Args:
        states: (N, B, C), the last layer's.
        padding: (B, N) bool, True at padding.
        embedding: (B, N, C), or None.
        of_layers: (N, B, C) each, those of all layers where they were asked for.
    """
    return {
        "encoder_out": [states],
        "encoder_padding_mask": [padding],
        "encoder_embedding": [] if embedding is None else [embedding],
        "encoder_states": list(of_layers),
        "fc_results": [],
        "src_tokens": [],
        "src_lengths": [padding.logical_not().sum(dim=1, dtype=torch.int32).unsqueeze(1)],
    }
