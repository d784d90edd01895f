"""The fused kernels as a backend; Triton is imported when they compute their first call."""

from ..request import Request
from . import support


class TritonBackend:
    """`attend.py` (training, scoring) and `decode.py` (decoding) with the methods of `protocol.Backend`.

    Where queries choose their segments, those of `content/`.
    """

    name = "Triton kernels"

    def obstacle(self, request: Request) -> str | None:
        return support.obstacle(request)

    def attend_source(self, query, keys, values, layout, plan, memory, dropout=0.0, need_weights=False):
        if plan.choice is not None:
            from .content.attend import attend_by_content

            return attend_by_content(query, keys, values, layout, plan.choice.segments_per_query, dropout)[0], None
        from .attend import attend_source

        return attend_source(query, keys, values, layout, plan, memory, dropout, need_weights)

    def open_source(self, keys, values, num_heads, layout, plan, memory):
        if plan.choice is not None:
            from .content.decode import open_source
        else:
            from .decode import open_source
        return open_source(keys, values, num_heads, layout, plan, memory)

    def attend_step(self, query, source, position, memory, segment_size):
        if source.choice is not None:
            from .content.decode import attend_step
        else:
            from .decode import attend_step
        return attend_step(query, source, position, memory, segment_size)

    def attend_next(self, *arguments):
        raise NotImplementedError  # `obstacle` always has a reason
