"""Softmax attention to all keys by PyTorch's fused kernels, for batches whose shapes hardly come again.

No (B, H, T, S) tensor on a GPU, and dropout inside the kernel. On a CPU, with dropout, PyTorch makes one.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

BIAS_ALIGNMENT = 16  # numbers; the rows of a bias must begin at multiples of it in memory


def fused_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
    often: bool = False,
    causal: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention`, without cuDNN for a shape that does not come `often`.

    cuDNN's is the fastest on an H100, but it prepares a plan for every shape that it has not seen: 90 ms forward and
    90 ms backward, with torch 2.11. PyTorch's switch for it is one of the whole process, other threads' too; so where
    PyTorch would choose cuDNN, another of its kernels, which takes all that cuDNN takes, is called by name.

    Args:
        query, keys, values: (B, H, T, D), (B, H, S, D), (B, H, S, D).
        bias: added to the scores, broadcastable to (B, H, T, S), of the query's dtype.
        dropout: probability, on the weights.
        scale: of the scores (default: D^-1/2).
        often: the shape comes again and again.
        causal: no query attends to a key behind its own place; with S = T, and no bias.
    Returns:
        (B, H, T, D).
    """
    if not often and query.is_cuda:
        chosen = torch._fused_sdp_choice(query, keys, values, bias, dropout, causal, scale=scale)
        if chosen == SDPBackend.CUDNN_ATTENTION.value:
            return without_cudnn(query, keys, values, bias, dropout, scale, causal)
    return F.scaled_dot_product_attention(query, keys, values, bias, dropout_p=dropout, is_causal=causal, scale=scale)


def without_cudnn(query, keys, values, bias, dropout, scale, causal) -> Tensor:
    """`fused_attention` by FlashAttention, which takes no bias, or by the memory-efficient kernel, which does."""
    if bias is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, keys, values, dropout, causal, scale=scale)[0]
    bias = aligned(bias).expand(*query.shape[:3], keys.size(2))
    for_gradients = torch.is_grad_enabled()  # the softmax's denominators
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, keys, values, bias, for_gradients, dropout, scale=scale
    )[0]


def aligned(bias: Tensor) -> Tensor:
    """A bias whose rows lie as the kernel needs them: copied where they are of another width."""
    width = bias.size(-1)
    if width % BIAS_ALIGNMENT == 0:
        return bias
    return F.pad(bias, (0, -width % BIAS_ALIGNMENT))[..., :width]


class Padding(NamedTuple):
    """What hides the padding of sources from an attention to all of them; made by `hide`.

    The softmax over a source of padding alone has finite weights, the same for all its keys, and so has its gradient.
    What it reads is to be no number but zero: either the attention's output, or the values, are filled with zeros
    where `empty` is True.

    Attributes:
        bias: (B, 1 or H, 1, S), added to the scores: 0, or at padding `lowest` of its dtype.
        empty: (B, 1 or H, 1, 1) bool, True where there is padding alone.
    """

    bias: Tensor
    empty: Tensor


def lowest(dtype: torch.dtype) -> float:
    """What is added to a score to hide its key, whose weight is then 0 beside any other's.

    Not infinity: the softmax of a row that has nothing else would be NaN, and its gradient too. Half of the lowest
    number, so that the sum with a score is finite.
    """
    return torch.finfo(dtype).min / 2


def hide(padding_mask: Tensor | None, like: Tensor) -> Padding | None:
    """The `Padding` of a mask that is True at padding, of the dtype of `like`; None: there is none.

    Args:
        padding_mask: (B, S), or (B, H, S) where heads have keys of their own.
    """
    if padding_mask is None:
        return None
    padding_mask = padding_mask.bool().unsqueeze(-2)
    padding_mask = padding_mask.unsqueeze(1) if padding_mask.dim() == 3 else padding_mask
    bias = like.new_zeros(padding_mask.shape).masked_fill_(padding_mask, lowest(like.dtype))
    return Padding(bias, padding_mask.all(dim=-1, keepdim=True))
