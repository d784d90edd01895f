"""The fused kernels as a backend; Triton is imported when they compute their first call."""

from ..request import Request
from . import support


class TritonBackend:
    """`attend.py` (training, scoring) and `decode.py` (decoding) with the methods of `backends.Backend`."""

    name = "Triton kernels"

    def obstacle(self, request: Request) -> str | None:
        return support.obstacle(request)

    def attend_source(self, *arguments):
        from .attend import attend_source

        return attend_source(*arguments)

    def open_source(self, *arguments):
        from .decode import open_source

        return open_source(*arguments)

    def attend_step(self, *arguments):
        from .decode import attend_step

        return attend_step(*arguments)

    def attend_next(self, *arguments):
        raise NotImplementedError  # `obstacle` always has a reason
