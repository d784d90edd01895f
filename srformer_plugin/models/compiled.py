"""Compiled layers (`--compile`): what stands around the attention in every layer, as code that PyTorch generates.

Dropout, residual sums, norms and the feed-forward between two attentions are one compiled function each, the same for
all layers of a kind. The attentions are called between them as they are: they are fused already, or choose their way by
what is in a batch, which compiled code cannot. Sizes of a batch are symbols in the compiled code, so that a batch of
another shape does not compile anew.

The forward of a layer is replaced on the layer itself: parameters, their names, hooks and what wraps a layer
(checkpointing, FSDP, layer drop) stay as they are.
"""

import functools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase, TransformerEncoderLayerBase
from torch import nn

from ..errors import ConfigurationError
from ..triton_here import no_launchers

BACKEND = "inductor"
# Of one compiled function: with and without gradients, training or not, by dtype, by layers that differ. PyTorch allows
# 8 and computes without compiling from then on.
MOST_VARIANTS = 64
# What fairseq may add to a layer and the functions below do not have -> its flag
NOT_COMPILED = {
    "quant_noise": "--quant-noise-pq",
    "c_attn": "--scale-heads",
    "attn_ln": "--scale-attn",
    "ffn_layernorm": "--scale-fc",
    "w_resid": "--scale-resids",
}


@dataclass
class CompileSettings(FairseqDataclass):
    """How a training computes its layers. Not what: no checkpoint keeps it."""

    compile: bool = field(
        default=False,
        metadata={
            "help": "train and validate with compiled layers (torch.compile): what stands around the attention in a "
            "layer becomes a few fused kernels; needs a C++ compiler on a CPU, Triton, a C compiler and Python's "
            "headers on a GPU. The checkpoint does not keep it"
        },
    )

    def check(self, cpu: bool = False) -> "CompileSettings":
        """Raise a ConfigurationError where `compile` asks for a compiler that is not here.

        Args:
            cpu: the model is not for a GPU, if there is one.
        """
        reason = missing_compiler(cpu) if self.compile else None
        if reason is not None:
            raise ConfigurationError(f"--compile: {reason}; or leave --compile out")
        return self


def missing_compiler(cpu: bool = False) -> str | None:
    """What torch.compile lacks here, and how to get it; None: nothing.

    Args:
        cpu: code for the processor, though there may be a GPU.
    """
    if torch.cuda.is_available() and not cpu:
        from torch.utils._triton import has_triton

        if not has_triton():
            return "torch.compile needs Triton for this GPU: pip install -U triton"
        return no_launchers()
    named = os.environ.get("CXX")
    if not any(map(shutil.which, [named] if named else ["g++", "clang++"])):
        return "torch.compile needs a C++ compiler: install g++, or name one in the variable CXX"
    return None


class Parts(NamedTuple):
    """The compiled functions, each for all layers."""

    norm: Callable
    add: Callable
    feed_forward: Callable


@functools.cache
def parts(backend: str) -> Parts:
    """The functions below as compiled by `backend`; compilation itself waits for the first call."""
    return Parts(*(torch.compile(one, backend=backend, dynamic=True) for one in (_norm, _add, _feed_forward)))


def compile_layers(model: nn.Module, backend: str | None = None) -> None:
    """Let every layer of fairseq's transformer in `model` compute with compiled functions.

    Decoding step by step (an incremental state) is left as it is. So are calls with what only other models of fairseq
    hand to their layers.

    Args:
        model: BART or T5 of this package, or a stock BART, on any device; changed in place.
        backend: of torch.compile (default: PyTorch's own, inductor).
    Raises:
        ConfigurationError: a layer has parts that are not among the compiled ones.
    """
    compiled = parts(backend or BACKEND)
    for layer in model.modules():
        if isinstance(layer, (TransformerEncoderLayerBase, TransformerDecoderLayerBase)):
            for name, flag in NOT_COMPILED.items():
                part = getattr(layer, name, None)
                if part is not None and not (isinstance(part, (int, float)) and part == 0):
                    raise ConfigurationError(f"--compile cannot compute {flag}: leave one of them out")
            is_encoder = isinstance(layer, TransformerEncoderLayerBase)
            _replace_forward(layer, _encoder_layer if is_encoder else _decoder_layer, compiled)


def _replace_forward(layer, function, compiled):
    """Partial objects and not closures: a deep copy of the model (--store-ema) calls its own layers."""
    forward = functools.partial(function, layer, compiled)
    if hasattr(layer, "precheckpoint_forward"):  # of fairseq's checkpoint_wrapper, which calls what it was given
        wrapper = layer.forward
        layer.precheckpoint_forward = forward
        forward = functools.partial(wrapper.func, forward, *wrapper.args[1:], **wrapper.keywords)
    layer.forward = forward


def _encoder_layer(layer, compiled, x, encoder_padding_mask, attn_mask=None):
    """`TransformerEncoderLayerBase.forward`."""
    if attn_mask is not None or layer.return_fc:
        return type(layer).forward(layer, x, encoder_padding_mask, attn_mask)
    states = _start(layer, compiled, x)
    attended, _ = layer.self_attn(
        query=states, key=states, value=states, key_padding_mask=encoder_padding_mask, need_weights=False
    )
    return _finish(layer, compiled, layer.self_attn_layer_norm, attended, x)


def _decoder_layer(
    layer,
    compiled,
    x,
    encoder_out=None,
    encoder_padding_mask=None,
    incremental_state=None,
    prev_self_attn_state=None,
    prev_attn_state=None,
    self_attn_mask=None,
    self_attn_padding_mask=None,
    need_attn=False,
    need_head_weights=False,
):
    """`TransformerDecoderLayerBase.forward`."""
    if not (incremental_state is None and prev_self_attn_state is None and prev_attn_state is None):
        return type(layer).forward(
            layer, x, encoder_out, encoder_padding_mask, incremental_state, prev_self_attn_state, prev_attn_state,
            self_attn_mask, self_attn_padding_mask, need_attn, need_head_weights,
        )  # fmt: skip
    states = _start(layer, compiled, x)
    attended, weights = layer.self_attn(
        query=states,
        key=states,
        value=states,
        key_padding_mask=self_attn_padding_mask,
        incremental_state=None,
        need_weights=False,
        attn_mask=self_attn_mask,
    )
    norm = layer.self_attn_layer_norm
    if layer.encoder_attn is not None and encoder_out is not None:
        norms = (norm, layer.encoder_attn_layer_norm)
        outputs = _call(compiled.add, (layer.normalize_before, layer.dropout_module, *norms), attended, x)
        x, states = outputs[0], outputs[-1]
        attended, weights = layer.encoder_attn(
            query=states,
            key=encoder_out,
            value=encoder_out,
            key_padding_mask=encoder_padding_mask,
            incremental_state=None,
            static_kv=True,
            need_weights=need_attn or need_head_weights or (not layer.training and layer.need_attn),
            need_head_weights=need_head_weights,
        )
        norm = layer.encoder_attn_layer_norm
    return _finish(layer, compiled, norm, attended, x), weights, None


def _start(layer, compiled, x):
    """The input of a layer's first attention."""
    return _call(compiled.norm, (layer.self_attn_layer_norm,), x)[0] if layer.normalize_before else x


def _finish(layer, compiled, norm, attended, x):
    """A layer's output, from that of its last attention, whose norm is `norm`."""
    feed_forward = (layer.fc1, layer.activation_fn, layer.activation_dropout_module, layer.fc2, layer.final_layer_norm)
    modules = (layer.normalize_before, layer.dropout_module, norm, *feed_forward)
    return _call(compiled.feed_forward, modules, attended, x)[0]


def _call(function, modules, *states):
    """A compiled function of states (N, B, C), as rows: what stands around an attention does the same to every row.

    Rows have one size that varies, and one layout: a batch of one sentence, or one that comes transposed, is no other
    variant. Nor is a tensor that autograd knows as a view, whose base would be guarded too: hence `_unsafe_view`, for
    tensors that nobody writes to.
    """
    shape = states[0].shape
    rows = [torch.ops.aten._unsafe_view(x.contiguous(), (-1, x.size(-1))) for x in states]
    # Layers are compiled one by one: DDP's gradients come layer by layer without its own splitting of graphs.
    # The settings are those of this call, not of the process.
    with torch._dynamo.config.patch({limit_name(): MOST_VARIANTS, "optimize_ddp": False}):
        return [y.view(shape) for y in function(*modules, *rows)]


def limit_name():
    """PyTorch's setting for how many variants there may be; 2.6 has it by another name."""
    return "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"


# What is compiled. Modules and not a layer are arguments, so that encoder and decoder share what they can; states are
# (rows, C).


def _norm(norm, x):
    """Before an attention."""
    return (norm(x),)


def _add(normalize_before, dropout, norm, next_norm, attended, residual):
    """Between two attentions: what the second is added to, and its queries where they are something else."""
    x = _sum(normalize_before, dropout, norm, attended, residual)
    return (x, next_norm(x)) if normalize_before else (x,)


def _feed_forward(
    normalize_before, dropout, norm, fc1, activation, activation_dropout, fc2, final_norm, attended, residual
):
    """Behind the last attention."""
    x = _sum(normalize_before, dropout, norm, attended, residual)
    states = final_norm(x) if normalize_before else x
    states = fc2(activation_dropout(activation(fc1(states))))
    return (_sum(normalize_before, dropout, final_norm, states, x),)


def _sum(normalize_before, dropout, norm, branch, residual):
    x = residual + dropout(branch)
    return x if normalize_before else norm(x)
