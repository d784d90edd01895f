"""Which calls the kernels of this folder can compute."""

from torch import Tensor

from ...method.segments import SourceLayout
from ..support import DTYPES, HEAD_DIMS, is_interpreted, needed_shared_memory, shared_memory, unusable

SEGMENT_SIZES = (1, 64)  # the smallest and the largest
MOST_CHOSEN = 32  # segments per query: as many as a row of registers holds


def obstacle(query: Tensor, keys: Tensor, values: Tensor, layout: SourceLayout, k: int) -> str | None:
    """Why the kernels cannot attend from `query` (B, H, Q, D) to k segments; None: they can."""
    head_dim, (smallest, largest) = query.size(3), SEGMENT_SIZES
    if unusable() is not None:
        return unusable()
    if not (query.is_cuda or is_interpreted()):
        return f"tensors are on the device {query.device.type}"
    if not query.dtype == keys.dtype == values.dtype:
        return f"dtypes are {query.dtype}, {keys.dtype} and {values.dtype}"
    if query.dtype not in DTYPES:
        return f"the dtype is {query.dtype}"
    if head_dim not in HEAD_DIMS:
        return f"the head size {head_dim} is none of {', '.join(map(str, HEAD_DIMS))}"
    if not smallest <= layout.segment_size <= largest:
        return f"the segment size {layout.segment_size} is above {largest}"
    if not 1 <= k <= MOST_CHOSEN:
        return f"{k} segments per query are more than {MOST_CHOSEN}"
    if query.is_cuda and shared_memory(query.device) < needed_shared_memory(query.dtype, head_dim):
        return f"{query.dtype} with a head size of {head_dim} needs more shared memory than this GPU has"
    return None
