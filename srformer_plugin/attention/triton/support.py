"""Whether the fused kernels can run: which Triton, which GPU, which calls."""

import logging
from functools import lru_cache

import torch
from torch import Tensor

from ..method.plan import SegmentPlan
from ..method.runs import unordered
from ..method.segments import SourceLayout

try:
    import triton
except ImportError:  # it comes with PyTorch's CUDA wheels
    triton = None

logger = logging.getLogger(__name__)

OLDEST_TRITON = (3, 6)  # what the kernels were run with, by the GPU and by the interpreter
HEAD_DIMS = (16, 32, 64, 128)
MAX_SEGMENT_SIZE = 256
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def unusable() -> str | None:
    """Why no kernel can be built here; None: they can."""
    if triton is None:
        return "Triton is not installed"
    if tuple(map(int, triton.__version__.split(".")[:2])) < OLDEST_TRITON:
        return f"Triton {triton.__version__} is older than {'.'.join(map(str, OLDEST_TRITON))}"
    return None


def is_interpreted() -> bool:
    """Kernels run in Triton's interpreter, on the CPU (TRITON_INTERPRET=1 when Triton was imported)."""
    return unusable() is None and triton.knobs.runtime.interpret


def needed_shared_memory(dtype: torch.dtype, head_dim: int) -> int:
    """Bytes of shared memory that a program may take, an upper bound by what the compiler asks for.

    Halves of at most 64 channels fit in an A10's, an RTX 3090's or an L4's 99 KB; the rest was built for an H100's 227.
    """
    return 99 * 1024 if dtype != torch.float32 and head_dim <= 64 else 227 * 1024


@lru_cache  # asking takes a millisecond
def _shared_memory(index: int) -> int:
    return triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"]


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program can have on a GPU."""
    return _shared_memory(torch.cuda.current_device() if device.index is None else device.index)


def obstacle(
    query: Tensor, keys: Tensor, values: Tensor, layout: SourceLayout, plan: SegmentPlan, memory, need_weights: bool
) -> str | None:
    """Why the kernels cannot compute this call; None: they can."""
    head_dim = query.size(3)
    if unusable() is not None:
        return unusable()
    if not (query.is_cuda or is_interpreted()):
        return f"tensors are on the device {query.device.type}"
    reason = unordered(query, keys, values, plan, memory, need_weights)
    if reason is not None:
        return reason
    if query.dtype not in DTYPES:
        return f"the dtype is {query.dtype}"
    if head_dim not in HEAD_DIMS:
        return f"the head size {head_dim} is none of {', '.join(map(str, HEAD_DIMS))}"
    if layout.segment_size > MAX_SEGMENT_SIZE:
        return f"the segment size {layout.segment_size} is above {MAX_SEGMENT_SIZE}"
    if query.is_cuda and shared_memory(query.device) < needed_shared_memory(query.dtype, head_dim):
        return f"{query.dtype} with a head size of {head_dim} needs more shared memory than this GPU has"
    return None


_told: set[str] = set()


def tell(reason: str) -> None:
    """Log once why PyTorch operations are used."""
    if reason not in _told:
        _told.add(reason)
        logger.info(f"attention is computed by PyTorch operations and not by Triton kernels: {reason}")
