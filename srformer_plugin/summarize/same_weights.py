"""Another network with the weights of one that is loaded: no file is read again, no parameter copied."""

import copy

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..models.change_attention import change_attention


def with_the_same_weights(loaded: dict, changes: dict) -> dict:
    """What `pretrained.load` would return with other settings of the attention.

    Args:
        loaded: {"args", "task", "models"}, of one model; it stays as it is, and shares its parameters.
        changes: of `change_attention`.
    Raises:
        ConfigurationError: a model of another kind, or settings that cannot work.
    """
    (network,) = loaded["models"]
    changed = change_attention({"cfg": loaded["args"], "model": network.state_dict()}, changes, "the model")
    task = copy.copy(loaded["task"])
    task.cfg = copy.copy(task.cfg)  # how much of a source is read is written there
    with _NoInitialValues():
        other = task.build_model(changed["cfg"].model, from_checkpoint=True)
    other.to(next(network.parameters()).device)
    # PyTorch's own: fairseq's, which upgrades old checkpoints, cannot take tensors as they are
    nn.Module.load_state_dict(other, changed["model"], assign=True)
    return {"args": changed["cfg"], "task": task, "models": [other.eval()]}


class _NoInitialValues(TorchFunctionMode):
    """Modules are built without the values that are drawn for their parameters: that takes longer than all else."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return args[0] if func in (Tensor.normal_, Tensor.uniform_) else func(*args, **kwargs)
