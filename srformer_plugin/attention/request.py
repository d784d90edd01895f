"""What is asked of the attention, as far as a backend must know it to say whether it can compute it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .method.plan import SegmentPlan
from .method.segments import SourceLayout


@dataclass(frozen=True)
class Request:
    """A call of one method of a backend.

    Attributes:
        method: its name: "attend_source", "open_source" or "attend_next".
        device, dtypes: of queries, keys and values; `dtypes` holds those that there are, each once.
        num_heads, head_dim: H and D.
        layout, plan, memory: as the method gets them.
        need_weights: attention weights are asked for.
    """

    method: str
    device: torch.device
    dtypes: tuple[torch.dtype, ...]
    num_heads: int
    head_dim: int
    layout: SourceLayout
    plan: SegmentPlan
    memory: nn.Module
    need_weights: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The one dtype of all tensors, where there is one."""
        return self.dtypes[0]

    @classmethod
    def of(
        cls, method: str, tensors: tuple[Tensor, ...], heads: tuple[int, int], layout, plan, memory, need_weights=False
    ) -> "Request":
        """A request about `tensors`, with (H, D) as `heads`."""
        dtypes = tuple(dict.fromkeys(x.dtype for x in tensors))
        return cls(method, tensors[0].device, dtypes, *heads, layout, plan, memory, need_weights)
