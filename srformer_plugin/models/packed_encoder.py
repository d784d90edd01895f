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
    padding in the output, which nothing reads, is zero. Otherwise the numbers are fairseq's to the bit, and who asks
    for the states of all layers goes fairseq's own way.
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
        if return_all_hiddens or self.return_fc or not _host_may_read(src_tokens):
            return super().forward_scriptable(src_tokens, src_lengths, return_all_hiddens, token_embeddings)
        padding = src_tokens.eq(self.padding_idx)
        packing, mask = self._read(padding)
        x, embedding = self.forward_embedding(src_tokens, token_embeddings)
        if packing is None:
            if mask is not None:
                x = x * (1 - mask.unsqueeze(2).type_as(x))
            x, _ = through_layers(self.layers, x.transpose(0, 1), mask)
        else:
            x, _ = through_layers(self.layers, packing.pack(x), packing)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return encoder_output(x if packing is None else packing.unpack(x), padding, embedding)

    def _read(self, padding: Tensor) -> tuple[Packing | None, Tensor | None]:
        """The packing of a batch that is to be computed without padding, and the mask of any other that has padding.

        The host reads from the device here, once for all layers: fairseq asks before every layer whether there is
        padding, and waits for the layer before it each time.
        """
        packing = read_packing(padding) if self._packs(padding) else None
        if packing is None:
            return None, padding if padding.any() else None
        there_is_padding = len(packing.places) < padding.numel()
        return packing if there_is_padding else None, None

    def _packs(self, padding: Tensor) -> bool:
        is_long = padding.size(1) >= LONG_SOURCE
        if not (is_long or self.training):
            return False
        attentions = [module for module in modules_of(self) if isinstance(module, PackedSelfAttention)]
        if not attentions or not all(attention.is_plain for attention in attentions):
            return False
        return is_long or self._is_fast(attentions[0], padding.device)

    @staticmethod
    def _is_fast(attention: PackedSelfAttention, device: torch.device) -> bool:
        """Whether short sentences gain: on a processor always, on a GPU with one launch for all of them."""
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
