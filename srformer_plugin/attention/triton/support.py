"""Whether the fused kernels can run: which GPU, which calls; `triton_here` says whether any kernel can."""

from functools import lru_cache

import torch

from ...triton_here import is_interpreted, missing, unusable
from ..method.content import ContentSchedule, MeanScore
from ..method.memory import NoMemory, RAFMemory
from ..method.raf import raf_scan
from ..request import Request

HEAD_DIMS = (16, 32, 64, 128)
MAX_SEGMENT_SIZE = 256
MAX_CHOSEN_SIZE = 64  # of segments that are chosen by content
MOST_CHOSEN = 32  # segments per query: as many as a row of registers holds
MAX_STEP_TILE = 2**16  # bytes of a segment's keys: what fits in shared memory beside its values and a state
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def needed_shared_memory(dtype: torch.dtype, head_dim: int) -> int:
    """Bytes of shared memory that a program may take, an upper bound by what the compiler asks for.

    Halves of at most 64 channels fit in an A10's, an RTX 3090's or an L4's 99 KB; the rest was built for an H100's 227.
    """
    return 99 * 1024 if dtype != torch.float32 and head_dim <= 64 else 227 * 1024


@lru_cache  # asking takes a millisecond
def _shared_memory(index: int) -> int:
    import triton

    return triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"]


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program can have on a GPU."""
    return _shared_memory(torch.cuda.current_device() if device.index is None else device.index)


def obstacle(request: Request) -> str | None:
    """Why the kernels cannot compute a call; None: they can."""
    head_dim = request.head_dim
    if request.method == "attend_next":
        return "fairseq's step-by-step decoding has none, --fast-generate has"
    if missing() is not None:
        return missing()
    if not (request.device.type == "cuda" or is_interpreted()):
        return f"tensors are on the device {request.device.type}"
    if unusable() is not None:
        return unusable()
    if request.need_weights:
        return "attention weights are asked for"
    if len(request.dtypes) > 1:
        return f"dtypes are {' and '.join(map(str, request.dtypes))}"
    if request.dtype not in DTYPES:
        return f"the dtype is {request.dtype}"
    if head_dim not in HEAD_DIMS:
        return f"the head size {head_dim} is none of {', '.join(map(str, HEAD_DIMS))}"
    if request.device.type == "cuda" and shared_memory(request.device) < needed_shared_memory(request.dtype, head_dim):
        return f"{request.dtype} with a head size of {head_dim} needs more shared memory than this GPU has"
    if request.method == "open_source" and torch.is_grad_enabled():
        return "a source is opened for gradients"
    return _clock_obstacle(request) if request.plan.choice is None else _content_obstacle(request)


def _clock_obstacle(request: Request) -> str | None:
    memory, size, head_dim = request.memory, request.layout.segment_size, request.head_dim
    if type(memory) not in (RAFMemory, NoMemory):
        return f"the memory is a {type(memory).__name__}"
    if isinstance(memory, RAFMemory) and memory.scan is not raf_scan:
        return "the memory's scan is not its own"
    if not request.plan.in_order:
        return "queries do not come in the order of the segments they read"
    if size > MAX_SEGMENT_SIZE:
        return f"the segment size {size} is above {MAX_SEGMENT_SIZE}"
    if request.method == "open_source" and size * head_dim * request.dtype.itemsize > MAX_STEP_TILE:
        return f"a segment of {size} tokens is too long for a decoding step's kernel"
    return None


def _content_obstacle(request: Request) -> str | None:
    choice, size = request.plan.choice, request.layout.segment_size
    if type(request.memory) is not NoMemory:
        return f"the memory behind segments chosen by content is a {type(request.memory).__name__}"
    if type(choice) is not ContentSchedule or type(choice.score) is not MeanScore:
        return "segments are not rated by their mean key"
    if size > MAX_CHOSEN_SIZE:
        return f"the segment size {size} is above {MAX_CHOSEN_SIZE}"
    if choice.segments_per_query > MOST_CHOSEN:
        return f"{choice.segments_per_query} segments per query are more than {MOST_CHOSEN}"
    return None
