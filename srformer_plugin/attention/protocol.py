"""What a backend of the attention is: the methods that the dispatcher (`backends.py`) calls."""

from typing import Protocol

from torch import Tensor, nn

from .method.plan import Choice, SegmentPlan
from .method.segments import SourceLayout
from .request import Request


class Backend(Protocol):
    """One way of computing the attention.

    Shapes: B sentences, H heads, Q queries (all hypotheses of a sentence, one after the other), D head size,
    N source positions, m segments of s slots. `query` (B, H, Q, D) is scaled already.
    """

    name: str  # as the log calls it

    def obstacle(self, request: Request) -> str | None:
        """Why this backend cannot compute a call; None: it can."""

    def attend_source(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        layout: SourceLayout,
        plan: SegmentPlan,
        memory: nn.Module,
        dropout: float = 0.0,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """All positions of a training or scoring batch at once.

        Args:
            keys, values: (N, B, H * D), projections of the padded source.
            layout: where its segments lie.
            plan: what every query reads.
            dropout: probability, on the weights of the softmax.
            need_weights: also return these weights.
        Returns:
            (B, H, Q, D) in the query's dtype, and (B, H, Q, N) or None.
        """

    def open_source(
        self,
        keys: Tensor,
        values: Tensor,
        num_heads: int,
        layout: SourceLayout,
        plan: SegmentPlan,
        memory: nn.Module,
    ) -> dict[str, Tensor | None]:
        """What `attend_step` reads of a source; the first dimension is the sentence.

        Args:
            keys, values: (N, B, H * D), projections of the padded source.
            plan: of all positions that will be decoded.
        """

    def attend_step(
        self, query: Tensor, source: dict[str, Tensor], position: Tensor, memory: nn.Module, segment_size: int
    ) -> Tensor:
        """One position of every hypothesis (`--fast-generate`): (B, H, x, D) to (B, H, x, D), x hypotheses a sentence.

        Args:
            source: what `open_source` returned and is not None; `segments` and `states` (B, 1, T) of the plan where it
                returned none.
            position: (1,) int64, in [0, T), on the device.
        """

    def attend_next(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        layout: SourceLayout,
        plan: SegmentPlan,
        memory: nn.Module,
        states: Tensor | None,
        dropout: float = 0.0,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The next positions of every hypothesis, from what fairseq's incremental state keeps of the source.

        Args:
            keys, values: (B, H, m, s, D), zeros in empty slots.
            states: what the memory's `encode` returned; None: there is no recurrent term.
            dropout, need_weights: as in `attend_source`, and so is what is returned.
        """


class OpenedSource(dict):
    """The tensors that one backend keeps of a source, by name, for its own `attend_step`.

    Attributes:
        backend: it.
        choice: how queries choose their segments; None: they do not.
    """

    def __init__(self, backend: Backend, tensors: dict[str, Tensor | None], choice: Choice | None = None):
        super().__init__((name, tensor) for name, tensor in tensors.items() if tensor is not None)
        self.backend, self.choice = backend, choice
