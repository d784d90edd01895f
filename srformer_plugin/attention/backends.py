"""The one place that chooses how the attention is computed (`--attention-backend`).

A backend computes a call or says why it cannot (`obstacle`); the dispatcher asks those of a choice in their order, and
the last one, `torch`, computes everything. To add one: write a class with the methods of `Backend` and name it in
`CHOICES`, before those that cover more.
"""

import logging

import torch

from ..errors import ConfigurationError
from ..registry import choose
from ..triton_here import can_run_on_gpu, missing, unusable
from .protocol import Backend, OpenedSource
from .request import Request
from .torch.backend import TorchBackend
from .triton.backend import TritonBackend

logger = logging.getLogger(__name__)


class Dispatcher:
    """The backends of one choice; has their methods, and lets the first one that can compute a call do so.

    Args:
        backends: in the order in which they are asked; the last one computes everything.
    """

    def __init__(self, *backends: Backend):
        self.backends = backends

    def backend_for(self, request: Request) -> Backend:
        """The first backend that can; the log says once why an earlier one cannot."""
        *others, last = self.backends
        for backend in others:
            reason = backend.obstacle(request)
            if reason is None:
                return backend
            tell(f"attention is computed by {last.name} and not by {backend.name}: {reason}")
        return last

    def attend_source(self, query, keys, values, layout, plan, memory, dropout=0.0, need_weights=False):
        """As `Backend.attend_source`."""
        tensors, heads = (query, keys, values), (query.size(1), query.size(3))
        backend = self.backend_for(Request.of("attend_source", tensors, heads, layout, plan, memory, need_weights))
        return backend.attend_source(query, keys, values, layout, plan, memory, dropout, need_weights)

    def open_source(self, keys, values, num_heads, layout, plan, memory) -> OpenedSource:
        """As `Backend.open_source`, for `attend_step` below."""
        heads = (num_heads, keys.size(2) // num_heads)
        backend = self.backend_for(Request.of("open_source", (keys, values), heads, layout, plan, memory))
        return OpenedSource(backend, backend.open_source(keys, values, num_heads, layout, plan, memory), plan.choice)

    def attend_step(self, query, source: OpenedSource, position, memory, segment_size):
        """As `Backend.attend_step`, by the backend that opened the source."""
        return source.backend.attend_step(query, source, position, memory, segment_size)

    def attend_next(self, query, keys, values, layout, plan, memory, states, dropout=0.0, need_weights=False):
        """As `Backend.attend_next`."""
        tensors, heads = (query, keys, values), (query.size(1), query.size(3))
        backend = self.backend_for(Request.of("attend_next", tensors, heads, layout, plan, memory, need_weights))
        return backend.attend_next(query, keys, values, layout, plan, memory, states, dropout, need_weights)


_told: set[str] = set()


def tell(message: str) -> None:
    """Log a message once."""
    if message not in _told:
        _told.add(message)
        logger.info(message)


AUTO = "auto"
CHOICES = {
    "torch": Dispatcher(TorchBackend()),
    "triton": Dispatcher(TritonBackend(), TorchBackend()),
}


def resolve(name: str) -> Dispatcher:
    """The choice registered as `name`; `auto` takes the kernels where there is a GPU to run them, and Triton can.

    Raises:
        ConfigurationError: there is no such choice, or it cannot run here.
    """
    choose({AUTO: None, **CHOICES}, name, "--attention-backend")
    if name == AUTO:
        return CHOICES["triton" if torch.cuda.is_available() and can_run_on_gpu() else "torch"]
    if name == "triton":
        reason = unusable() if torch.cuda.is_available() else missing()  # no GPU: nothing will be built
        if reason is not None:
            raise ConfigurationError(f"--attention-backend triton: {reason}; or use auto or torch")
    return CHOICES[name]
