"""`--encoder-attention window`: BART's encoder, with a window in every layer's self-attention and global first tokens.

Longformer (Beltagy et al., arXiv 2004.05150), whose encoder-decoder is LED. Global tokens have projections of their own
for what they read.
"""

import torch
from fairseq.modules import MultiheadAttention
from fairseq.modules.quant_noise import quant_noise
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn

from ...attention.dropout import current_rate
from ...attention.shared_by_beams import merge_heads, split_heads
from ...errors import ConfigurationError
from ..packed_encoder import PackedEncoder
from ..segmented_decoder import wrap_layer
from .window_attention import GlobalProjections, global_places, window_attention

# a global token's projection -> the one of all tokens that it was before LED's training
GLOBAL_PROJECTIONS = {f"global_{name}_proj": f"{name}_proj" for name in ("q", "k", "v")}


class WindowSelfAttention(MultiheadAttention):
    """Self-attention to `window` tokens on either side and to the first ones, which have projections of their own."""

    def __init__(self, embed_dim, num_heads, num_global, dropout=0.0, q_noise=0.0, qn_block_size=8):
        super().__init__(
            embed_dim, num_heads, dropout=dropout, self_attention=True, q_noise=q_noise, qn_block_size=qn_block_size
        )
        self.window, self.num_global = 0, num_global  # the encoder sets the window
        for name in GLOBAL_PROJECTIONS if num_global > 0 else ():
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
        output = window_attention(
            self._heads(self.q_proj(query)),
            self._heads(self.k_proj(query)),
            self._heads(self.v_proj(query)),
            padding,
            self.window,
            self.num_global,
            self._of_global_tokens(query, padding) if self.num_global > 0 else None,
            current_rate(self.dropout_module),
        )
        return self.out_proj(merge_heads(output)), None

    def _of_global_tokens(self, query, padding):
        places = global_places(padding, self.num_global)
        first = query.gather(0, places.T.unsqueeze(2).expand(-1, -1, query.size(2)))  # (g, B, C)
        return GlobalProjections(
            self._heads(self.global_q_proj(first)),
            self._heads(self.global_k_proj(query)),
            self._heads(self.global_v_proj(query)),
        )

    def _heads(self, x):
        """(N, B, C) -> (B, H, N, D)."""
        return split_heads(x, self.num_heads)


class WindowEncoderLayer(TransformerEncoderLayerBase):
    """BART's encoder layer with `WindowSelfAttention`."""

    def __init__(self, cfg, return_fc=False, *, num_global: int):
        self.num_global = num_global  # first, since the base class builds the attention
        super().__init__(cfg, return_fc)

    def build_self_attention(self, embed_dim, cfg):
        return WindowSelfAttention(
            embed_dim,
            cfg.encoder.attention_heads,
            self.num_global,
            dropout=cfg.attention_dropout,
            q_noise=self.quant_noise,
            qn_block_size=self.quant_noise_block_size,
        )


class WindowEncoder:
    """To be named before fairseq's encoder: its layers attend within `cfg.encoder_window` tokens on either side.

    The first `cfg.encoder_global_tokens` tokens of a sentence are global. Positions are the stock encoder's: a source
    has at most as many tokens as there are learned ones.
    """

    stock_encoder = PackedEncoder  # BART's; T5's relative positions are not computed in windows

    def __init__(self, cfg, dictionary, embed_tokens, return_fc=False):
        super().__init__(cfg, dictionary, embed_tokens, return_fc)
        attentions = [module for module in self.modules() if isinstance(module, WindowSelfAttention)]
        for attention, window in zip(attentions, self.windows(cfg, len(attentions)), strict=True):
            attention.window = window

    def windows(self, cfg, layers: int) -> list[int]:
        """Tokens on either side that every layer reads."""
        return [cfg.encoder_window] * layers

    def num_global(self, cfg) -> int:
        """How many of a sentence's first tokens are global."""
        return cfg.encoder_global_tokens

    def build_encoder_layer(self, cfg):
        layer = WindowEncoderLayer(cfg, return_fc=self.return_fc, num_global=self.num_global(cfg))
        return wrap_layer(layer, cfg)


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
        if is_global_projection(key):
            *path, projection, parameter = key.split(".")
            missing[key] = ".".join((*path, GLOBAL_PROJECTIONS[projection], parameter))
    if any(key in state for key in missing) or not all(original in state for original in missing.values()):
        return 0
    state.update({key: state[original].clone() for key, original in missing.items()})
    return len(missing)


def is_global_projection(name: str) -> bool:
    """Whether a parameter, by its name in a model's state, is of a projection that only global tokens need."""
    return any(part in GLOBAL_PROJECTIONS for part in name.split("."))
