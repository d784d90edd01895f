"""LED's encoder: BART's, with a window in every layer's self-attention and the first token of a sentence global.

Longformer-Encoder-Decoder (Beltagy et al., arXiv 2004.05150, section 7). The first token, which is <s> in the texts
that the published models were trained on, has projections of its own for what it reads.
"""

import torch
from fairseq.models.transformer import TransformerEncoderBase
from fairseq.modules import MultiheadAttention
from fairseq.modules.quant_noise import quant_noise
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn

from ...attention.dropout import current_rate
from ...errors import ConfigurationError
from ..segmented_decoder import wrap_layer
from .window_attention import GlobalProjections, global_places, window_attention

NUM_GLOBAL = 1
# a global token's projection -> the one of all tokens that it was before LED's training
GLOBAL_PROJECTIONS = {f"global_{name}_proj": f"{name}_proj" for name in ("q", "k", "v")}


def parse_windows(text: str, layers: int) -> list[int]:
    """`--attention-window` as tokens on both sides together, for each of `layers`.

    Raises:
        ConfigurationError: not one number, nor one for every layer; or one that is odd or below 2.
    """
    try:
        windows = [int(number) for number in str(text).split(",")]
    except ValueError:
        windows = []
    if len(windows) == 1:
        windows *= layers
    if len(windows) != layers or any(window < 2 or window % 2 != 0 for window in windows):
        raise ConfigurationError(
            f"--attention-window {text} must be an even number from 2 on, the tokens on both sides together, or "
            f"{layers} of them with commas between: one for every encoder layer; 1024 is that of the published models"
        )
    return windows


class WindowSelfAttention(MultiheadAttention):
    """Self-attention to `window` tokens on either side and to the first one, which has projections of its own."""

    def __init__(self, embed_dim, num_heads, dropout=0.0, q_noise=0.0, qn_block_size=8):
        super().__init__(
            embed_dim, num_heads, dropout=dropout, self_attention=True, q_noise=q_noise, qn_block_size=qn_block_size
        )
        self.window = 0  # the encoder sets it
        for name in GLOBAL_PROJECTIONS:
            setattr(self, name, quant_noise(nn.Linear(embed_dim, embed_dim), q_noise, qn_block_size))

    def forward(
        self, query, key, value, key_padding_mask=None, need_weights=False, attn_mask=None
    ) -> tuple[Tensor, None]:
        """As in `MultiheadAttention.forward`, without attention weights.

        Args:
            query: (N, B, C); `key` and `value` are the same.
            key_padding_mask: (B, N), True at padding, or None.
        Returns:
            (N, B, C), the projection of zeros at padding; and None.
        Raises:
            ConfigurationError: a mask over pairs of tokens, or weights are asked for.
        """
        if attn_mask is not None or need_weights:
            raise ConfigurationError("attention within a window has no attn_mask and returns no weights")
        padding = key_padding_mask
        if padding is None:
            padding = torch.zeros(query.shape[1::-1], dtype=torch.bool, device=query.device)
        padding = padding.bool()
        places = global_places(padding, NUM_GLOBAL)
        first = query.gather(0, places.T.unsqueeze(2).expand(-1, -1, query.size(2)))  # (g, B, C)
        output = window_attention(
            self._heads(self.q_proj(query)),
            self._heads(self.k_proj(query)),
            self._heads(self.v_proj(query)),
            padding,
            self.window,
            NUM_GLOBAL,
            GlobalProjections(
                self._heads(self.global_q_proj(first)),
                self._heads(self.global_k_proj(query)),
                self._heads(self.global_v_proj(query)),
            ),
            current_rate(self.dropout_module),
        )
        return self.out_proj(output.permute(2, 0, 1, 3).flatten(2)), None

    def _heads(self, x):
        """(N, B, C) -> (B, H, N, D)."""
        return x.unflatten(2, (self.num_heads, self.head_dim)).permute(1, 2, 0, 3)


class LEDEncoderLayer(TransformerEncoderLayerBase):
    """BART's encoder layer with `WindowSelfAttention`."""

    def build_self_attention(self, embed_dim, cfg):
        return WindowSelfAttention(
            embed_dim,
            cfg.encoder.attention_heads,
            dropout=cfg.attention_dropout,
            q_noise=self.quant_noise,
            qn_block_size=self.quant_noise_block_size,
        )


class LEDEncoder(TransformerEncoderBase):
    """BART's encoder of `LEDEncoderLayer`; `cfg.attention_window` is that of `parse_windows`."""

    def __init__(self, cfg, dictionary, embed_tokens, return_fc=False):
        super().__init__(cfg, dictionary, embed_tokens, return_fc)
        attentions = [module for module in self.modules() if isinstance(module, WindowSelfAttention)]
        for attention, window in zip(attentions, parse_windows(cfg.attention_window, len(attentions)), strict=True):
            attention.window = window // 2

    def build_encoder_layer(self, cfg):
        return wrap_layer(LEDEncoderLayer(cfg, return_fc=self.return_fc), cfg)


def fill_global_projections(state: dict[str, Tensor], own: dict[str, Tensor]) -> int:
    """Give the state of a BART the global tokens' projections: copies of those it has, as LED itself began.

    Args:
        state: name -> tensor, changed in place. One that has any of these projections is left as it is.
        own: the model's state, with the same names.
    Returns:
        how many tensors were added.
    """
    missing = {}
    for key in own:
        *path, projection, parameter = key.split(".")
        if projection in GLOBAL_PROJECTIONS:
            missing[key] = ".".join((*path, GLOBAL_PROJECTIONS[projection], parameter))
    if any(key in state for key in missing) or not all(original in state for original in missing.values()):
        return 0
    state.update({key: state[original].clone() for key, original in missing.items()})
    return len(missing)
