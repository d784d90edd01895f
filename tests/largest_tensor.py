"""How large the tensors are that a computation makes."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class largest_tensor(TorchDispatchMode):
    """`elements`: those of the largest tensor that is made inside; views count as what they show, expanded
    ones as what they hold in memory.

    With `last_size` only tensors count whose last dimension has it.
    """

    def __init__(self, last_size=None):
        super().__init__()
        self.elements, self._last_size = 0, last_size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for x in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(x, torch.Tensor) and self._last_size in (None, *x.shape[-1:]):
                held = x.untyped_storage().nbytes() // x.element_size()
                self.elements = max(self.elements, min(x.numel(), held))
        return output
