"""PyTorch operations as a backend: the one that computes every call."""

from ..request import Request
from . import attend


class TorchBackend:
    """`attend.py` with the methods of `protocol.Backend`."""

    name = "PyTorch operations"

    def obstacle(self, request: Request) -> None:
        return None

    def attend_source(self, *arguments):
        return attend.attend_source(*arguments)

    def open_source(self, *arguments):
        return attend.open_source(*arguments)

    def attend_step(self, *arguments):
        return attend.attend_step(*arguments)

    def attend_next(self, query, keys, values, layout, plan, memory, states, dropout=0.0, need_weights=False):
        weights_on = layout if need_weights else None
        return attend.attend(query, keys, values, layout.is_real, plan, memory, states, dropout, weights_on)
