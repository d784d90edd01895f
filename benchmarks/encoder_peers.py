"""Encoders for long sources of transformers, with random weights, that look like fairseq's from outside."""

import torch
from torch import Tensor, nn

from benchmarks.random_models import PUBLISHED_WINDOW, hugging_face, import_transformers

LONGT5_RADIUS = 127  # of the published LongT5s: blocks of 128, each of which reads its two neighbours
LED = f"transformers LED, {PUBLISHED_WINDOW // 2} a side"
LONGT5 = f"transformers LongT5, blocks of {LONGT5_RADIUS + 1}"


class LikeFairseq(nn.Module):
    """An encoder of transformers that takes (B, N) tokens without padding and returns "encoder_out": [(N, B, C)].

    `with_global`: LED's argument that the first token attends to all and is attended to by all.
    """

    def __init__(self, encoder: nn.Module, with_global: bool = False):
        super().__init__()
        self.encoder, self.with_global = encoder, with_global

    def forward(self, tokens: Tensor) -> dict:
        masks = {"attention_mask": torch.ones_like(tokens)}
        if self.with_global:
            first = torch.zeros_like(tokens)
            first[:, 0] = 1
            masks["global_attention_mask"] = first
        return {"encoder_out": [self.encoder(input_ids=tokens, **masks).last_hidden_state.transpose(0, 1)]}


def peers(positions: int, words: int, layers: int, width: int, ffn: int, heads: int) -> dict[str, LikeFairseq]:
    """name -> an encoder in float32 and eval mode, of the sizes that fairseq's has.

    LED is transformers' BART with the published window and one global token; LongT5 has local attention as published,
    and a plain GELU feed-forward of `ffn`, so that the products outside of the attention are the same.
    """
    sizes = {"d_model": width, "encoder_layers": layers, "encoder_ffn_dim": ffn, "encoder_attention_heads": heads}
    smallest = {"decoder_layers": 1, "decoder_ffn_dim": 1, "decoder_attention_heads": heads}
    led = hugging_face("led", positions, words, PUBLISHED_WINDOW, **sizes, **smallest).get_encoder()
    transformers = import_transformers()
    torch.manual_seed(1)
    config = transformers.LongT5Config(
        vocab_size=words + 4,
        d_model=width,
        d_kv=width // heads,
        d_ff=ffn,
        num_layers=layers,
        num_heads=heads,
        local_radius=LONGT5_RADIUS,
        encoder_attention_type="local",
        feed_forward_proj="gelu",
    )
    longt5 = transformers.LongT5EncoderModel(config)
    return {LED: LikeFairseq(led, with_global=True).eval(), LONGT5: LikeFairseq(longt5).eval()}
