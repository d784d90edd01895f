"""Numbers between the host and a device, for which the host does not wait."""

import torch


def goes_its_own_way(device: torch.device) -> bool:
    """Whether the host goes on while `device` computes, and shares memory with it that is pinned: CUDA."""
    return device.type == "cuda"


def to_device(numbers: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on `device`, of any shape and dtype.

    By way of pinned memory: a copy from elsewhere returns behind all that the device was given before.
    """
    if goes_its_own_way(device):
        numbers = numbers.pin_memory()  # the allocator keeps it until the device has read it
    return numbers.to(device, non_blocking=True)


class HostCopy:
    """What a tensor of a device, of any shape and dtype, holds at this place of the device's stream, on the host.

    The copy is launched here, without a wait. Of a tensor on the host it is a copy.
    """

    def __init__(self, tensor: torch.Tensor):
        tensor = tensor.detach()
        self._arrived = None
        if goes_its_own_way(tensor.device):
            self._values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._values.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(tensor.device))
        else:
            self._values = tensor.clone()

    def read(self) -> torch.Tensor:
        """The values, as soon as the device has come to this place; what was launched since is not waited for."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values
