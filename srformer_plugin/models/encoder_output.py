"""What an encoder of fairseq's returns."""

import torch
from torch import Tensor


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
