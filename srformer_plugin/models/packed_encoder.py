"""BART's encoder without padding: the tokens of a batch go through the layers sentence behind sentence.

What stands around the attention does the same to every token, so that padding costs as much as text; and a mask that
only hides padding makes PyTorch's fused kernels slower than no mask at all.
"""

import torch
from fairseq.models.transformer import TransformerEncoderBase
from fairseq.modules import MultiheadAttention
from torch import Tensor

from ..attention.packed import PackedSelfAttention, Packing, is_fast, read_packing
from ..compat.updates import modules_of
from .encoder_output import encoder_output, through_layers

LONG_SOURCE = 4096  # padded length from which on a mask costs more than the launches of a call per sentence


class PackedEncoder(TransformerEncoderBase):
    """fairseq's encoder: the same parameters, and the same numbers at real positions but for rounding.

    Padding is left out in training, and of sources so long that it pays in evaluation as well; what then stands at
    padding in the output, which nothing reads, is zero. Otherwise, and for whoever asks for the states of all layers,
    fairseq's own way is taken, to the bit.
    """

    def __init__(self, cfg, dictionary, embed_tokens, return_fc=False):
        super().__init__(cfg, dictionary, embed_tokens, return_fc)
        # After the modules were built: what wraps a layer (checkpointing, FSDP, layer drop), the parameters, their
        # names and the name that `--retain-dropout-modules` knows the dropout by stay as fairseq made them.
        for module in self.modules():
            if type(module) is MultiheadAttention and module.self_attention:
                module.__class__ = PackedSelfAttention

    def forward_scriptable(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        return_all_hiddens: bool = False,
        token_embeddings: Tensor | None = None,
    ) -> dict[str, list[Tensor]]:
        """As fairseq's `forward`: src_tokens (B, N) int64 -> `encoder_out` [(N, B, C)], and what else it has."""
        packing = None if return_all_hiddens or self.return_fc else self._packing(src_tokens)
        if packing is None:
            return super().forward_scriptable(src_tokens, src_lengths, return_all_hiddens, token_embeddings)
        x, embedding = self.forward_embedding(src_tokens, token_embeddings)
        x, _ = through_layers(self.layers, packing.pack(x), packing)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return encoder_output(packing.unpack(x), src_tokens.eq(self.padding_idx), embedding)

    def _packing(self, src_tokens: Tensor) -> Packing | None:
        """The packing of a batch that is to be computed without padding; None: as fairseq does."""
        is_long = src_tokens.size(1) >= LONG_SOURCE
        if not (is_long or self.training) or not _host_may_read(src_tokens):
            return None
        attentions = [module for module in modules_of(self) if isinstance(module, PackedSelfAttention)]
        if not attentions or not all(attention.is_plain for attention in attentions):
            return None
        if not (is_long or self._is_fast(attentions[0], src_tokens)):
            return None
        packing = read_packing(src_tokens.eq(self.padding_idx))
        there_is_padding = packing is not None and len(packing.places) < src_tokens.numel()
        return packing if there_is_padding else None

    @staticmethod
    def _is_fast(attention: PackedSelfAttention, src_tokens: Tensor) -> bool:
        """Whether short sentences gain: on a processor always, on a GPU with one launch for all of them."""
        device = src_tokens.device
        if device.type == "cpu":
            return True
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else attention.out_proj.weight.dtype
        return is_fast(device, dtype, attention.head_dim)


def _host_may_read(x: Tensor) -> bool:
    """Whether Python may look at what the device computed and choose by it."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" or (x.is_cuda and not torch.cuda.is_current_stream_capturing())
