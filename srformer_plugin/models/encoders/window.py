"""`--encoder-attention window`: BART's encoder, with a window in every layer's self-attention and global tokens.

Longformer (Beltagy et al., arXiv 2004.05150), whose encoder-decoder is LED. Global tokens have projections of their own
for what they read.
"""

from typing import NamedTuple

from fairseq.modules import MultiheadAttention
from fairseq.modules.quant_noise import quant_noise
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor, nn

from ...attention.dropout import current_rate
from ...attention.shared_by_beams import merge_heads, split_heads
from ...errors import ConfigurationError
from ..encoder_output import encoder_output, through_layers
from ..packed_encoder import PackedEncoder
from ..segmented_decoder import wrap_layer
from .symbols import index_of
from .window_attention import GlobalProjections, GlobalTokens, find_global, window_attention

# a global token's projection -> the one of all tokens that it was before LED's training
GLOBAL_PROJECTIONS = {f"global_{name}_proj": f"{name}_proj" for name in ("q", "k", "v")}
GLOBAL_SYMBOL = "a symbol of binarised sources; for a token of GPT-2's BPE that is its number in encoder.json"


class SourceTokens(NamedTuple):
    """Where the tokens of a batch are, and which are global: what the layers get in the place of a padding mask."""

    padding: Tensor  # (B, N) bool, True at padding
    global_tokens: GlobalTokens


class WindowSelfAttention(MultiheadAttention):
    """Self-attention to `window` tokens on either side and to global ones, which have projections of their own."""

    def __init__(self, embed_dim, num_heads, has_global, dropout=0.0, q_noise=0.0, qn_block_size=8):
        super().__init__(
            embed_dim, num_heads, dropout=dropout, self_attention=True, q_noise=q_noise, qn_block_size=qn_block_size
        )
        self.window, self.has_global = 0, has_global  # the encoder sets the window
        for name in GLOBAL_PROJECTIONS if has_global else ():
            setattr(self, name, quant_noise(nn.Linear(embed_dim, embed_dim), q_noise, qn_block_size))

    def forward(
        self, query, key, value, key_padding_mask=None, need_weights=False, attn_mask=None
    ) -> tuple[Tensor, None]:
        """As in `MultiheadAttention.forward`, without attention weights.

        Args:
            query: (N, B, C); `key` and `value` are the same.
            key_padding_mask: the `SourceTokens`.
        Returns:
            (N, B, C), the projection of zeros at padding; and None.
        Raises:
            ConfigurationError: a mask over pairs of tokens, or weights are asked for.
        """
        if attn_mask is not None or need_weights:
            raise ConfigurationError("attention within a window has no attn_mask and returns no weights")
        padding, global_tokens = key_padding_mask
        output = window_attention(
            self._heads(self.q_proj(query)),
            self._heads(self.k_proj(query)),
            self._heads(self.v_proj(query)),
            padding,
            self.window,
            global_tokens,
            self._of_global_tokens(query, global_tokens.places) if self.has_global else None,
            current_rate(self.dropout_module),
        )
        return self.out_proj(merge_heads(output)), None

    def _of_global_tokens(self, query, places):
        chosen = query.gather(0, places.T.unsqueeze(2).expand(-1, -1, query.size(2)))  # (g, B, C)
        return GlobalProjections(
            self._heads(self.global_q_proj(chosen)),
            self._heads(self.global_k_proj(query)),
            self._heads(self.global_v_proj(query)),
        )

    def _heads(self, x):
        """(N, B, C) -> (B, H, N, D)."""
        return split_heads(x, self.num_heads)


class WindowEncoderLayer(TransformerEncoderLayerBase):
    """BART's encoder layer with `WindowSelfAttention`."""

    def __init__(self, cfg, *, has_global: bool):
        self.has_global = has_global  # first, since the base class builds the attention
        super().__init__(cfg)

    def build_self_attention(self, embed_dim, cfg):
        return WindowSelfAttention(
            embed_dim,
            cfg.encoder.attention_heads,
            self.has_global,
            dropout=cfg.attention_dropout,
            q_noise=self.quant_noise,
            qn_block_size=self.quant_noise_block_size,
        )


class WindowEncoder:
    """To be named before fairseq's encoder: its layers attend within `cfg.encoder_window` tokens on either side.

    The first `cfg.encoder_global_tokens` tokens of a sentence are global, and all that are `cfg.encoder_global_symbol`.
    Positions are the stock encoder's: a source has at most as many tokens as there are learned ones.
    """

    stock_encoder = PackedEncoder  # BART's; T5's relative positions are not computed in windows

    def __init__(self, cfg, dictionary, embed_tokens, return_fc=False):
        self.first_global = self.num_global(cfg)
        self.global_index = index_of(cfg.encoder_global_symbol, dictionary, "--encoder-global-symbol", GLOBAL_SYMBOL)
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
        has_global = self.first_global > 0 or self.global_index is not None
        return wrap_layer(WindowEncoderLayer(cfg, has_global=has_global), cfg)

    def forward_scriptable(self, src_tokens, src_lengths=None, return_all_hiddens=False, token_embeddings=None):
        """As the base class's; `SourceTokens`, found once for all layers, take the place of the padding mask."""
        padding = src_tokens.eq(self.padding_idx)
        chosen = None if self.global_index is None else src_tokens.eq(self.global_index)
        tokens = SourceTokens(padding, find_global(padding, self.first_global, chosen))
        x, embedding = self.forward_embedding(src_tokens, token_embeddings)
        x = x.masked_fill(padding.unsqueeze(2), 0).transpose(0, 1)
        x, states = through_layers(self.layers, x, tokens, return_all_hiddens)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return encoder_output(x, padding, embedding, states)


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
