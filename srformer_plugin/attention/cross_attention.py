"""The modules that stand in for fairseq's `MultiheadAttention` as a decoder layer's `encoder_attn`."""

import torch.nn.functional as F
from fairseq.incremental_decoding_utils import with_incremental_state
from fairseq.modules import MultiheadAttention
from fairseq.modules.quant_noise import quant_noise
from torch import Tensor, nn

from ..errors import ConfigurationError
from . import torch_ops
from .backends import resolve
from .memory import MEMORIES
from .registry import choose
from .schedule import build_schedule
from .segments import SegmentPlan, SourceLayout
from .settings import SegmentSettings


class SourceContext:
    """What one forward pass of the decoder knows and every layer's cross-attention needs.

    A decoder hands it to its layers in the place of the padding mask, which fairseq's layers pass on untouched.
    It lives for one forward pass, so that layout and plan are computed once and not per layer.

    Args:
        padding_mask: (B, N) bool, True at padding; None: no padding.
        target_lengths: (B,) int64, true target lengths where they are known (teacher forcing).
        first_position: t of the first query; None: the position that the incremental state has reached.
    """

    def __init__(
        self,
        padding_mask: Tensor | None,
        target_lengths: Tensor | None = None,
        first_position: int | None = None,
    ):
        self.padding_mask = padding_mask
        self.target_lengths = target_lengths
        self.first_position = first_position
        self._layouts: dict[tuple, SourceLayout] = {}
        self._plans: dict[tuple, SegmentPlan] = {}

    def layout(self, batch_size: int, source_length: int, segment_size: int, device) -> SourceLayout:
        """The source's segments, computed once."""
        key = (batch_size, source_length, segment_size)
        if key not in self._layouts:
            mask = self.padding_mask
            if mask is not None and mask.size(0) != batch_size:
                mask = mask.repeat_interleave(batch_size // mask.size(0), dim=0)
            self._layouts[key] = SourceLayout(mask, batch_size, source_length, segment_size, device)
        return self._layouts[key]

    def plan(self, schedule, layout: SourceLayout, **queries) -> SegmentPlan:
        """The schedule's plan; shared by the layers unless the schedule looks at their content."""
        if schedule.uses_content:
            return schedule.plan(layout, **queries)
        key = (type(schedule), schedule.expected_target_length, layout.segment_size)
        if key not in self._plans:
            queries = {name: value for name, value in queries.items() if name not in ("query", "keys")}
            self._plans[key] = schedule.plan(layout, **queries)
        return self._plans[key]


def as_context(key_padding_mask) -> SourceContext:
    """A bare padding mask (or None) as the context that a decoder would make of it."""
    return key_padding_mask if isinstance(key_padding_mask, SourceContext) else SourceContext(key_padding_mask)


def add_projections(
    module: nn.Module, embed_dim: int, inner: int, kdim: int, bias: bool, q_noise: float, qn_block_size: int
) -> None:
    """Give an attention the four projections of fairseq's names; `inner` is H * D, `kdim` the width of the keys."""
    for name, width_in, width_out in (
        ("k_proj", kdim, inner),
        ("v_proj", kdim, inner),
        ("q_proj", embed_dim, inner),
        ("out_proj", inner, embed_dim),
    ):
        setattr(module, name, quant_noise(nn.Linear(width_in, width_out, bias=bias), q_noise, qn_block_size))


@with_incremental_state
class SharedByBeams(nn.Module):
    """Incremental state kept once per sentence, whatever the number of hypotheses.

    `set_beam_size` only tells fairseq that the encoder's output need not be copied per beam (it then calls
    `BARTModel.set_beam_size`). How many hypotheses share a row is read off the tensors and kept in the
    incremental state, not on the module, which another generator or a training step may use next.
    """

    def set_beam_size(self, beam_size: int) -> None:
        """Answer fairseq's question whether this attention can share keys and values between beams."""

    def _load(self, incremental_state) -> dict:
        return self.get_incremental_state(incremental_state, "attn_state") or {}

    def split_query(self, projected: Tensor, beam: int) -> Tensor:
        """Heads of projected queries, hypotheses folded into positions: (T, B * x, H * D) -> (B, H, x * T, D)."""
        length, rows, _ = projected.shape
        heads = projected.view(length, rows // beam, beam, self.num_heads, self.head_dim)
        return heads.permute(1, 3, 2, 0, 4).flatten(2, 3)

    def open_source(self, encoder_states: Tensor, padding_mask: Tensor | None, length: int) -> "dict[str, Tensor]":
        """What `step` needs of the sources, computed once: tensors whose first dimension is the sentence.

        Args:
            encoder_states: (N, B, C_enc).
            padding_mask: (B, N) bool, True at padding, or None.
            length: of the longest hypothesis that `step` will be asked for.
        Raises:
            ConfigurationError: this attention cannot be computed with tensors of fixed shapes.
        """
        raise NotImplementedError

    def step(self, query: Tensor, source: "dict[str, Tensor]", position: Tensor) -> Tensor:
        """`forward` for one position that only the device knows: no host synchronisation, the same shapes every time.

        Args:
            query: (1, B * x, C), x hypotheses per sentence.
            source: what `open_source` returned.
            position: (1,) int64, of the query in the target.
        Returns:
            (1, B * x, C).
        """
        beam = query.size(1) // next(iter(source.values())).size(0)
        queries = self.split_query(self.q_proj(query) * self.scaling, beam)
        return self.out_proj(self.join_heads(self._attend_step(queries, source, position), beam))

    def _attend_step(self, queries: Tensor, source: "dict[str, Tensor]", position: Tensor) -> Tensor:
        """(B, H, x, D) -> (B, H, x, D): to the whole source, unless a subclass knows better."""
        return F.scaled_dot_product_attention(queries, source["keys"], source["values"], source.get("bias"), scale=1.0)

    @staticmethod
    def join_heads(output: Tensor, beam: int) -> Tensor:
        """The inverse of `split_query`: (B, H, x * T, D) -> (T, B * x, H * D)."""
        return output.unflatten(2, (beam, -1)).permute(3, 0, 2, 1, 4).flatten(3).flatten(1, 2)

    @staticmethod
    def join_weights(weights: Tensor, beam: int, per_head: bool) -> Tensor:
        """Attention weights (B, H, x * T, N) -> (B * x, T, N), averaged over heads, or (H, B * x, T, N)."""
        weights = weights.unflatten(2, (beam, -1)).permute(1, 0, 2, 3, 4).flatten(1, 2)
        return weights if per_head else weights.mean(dim=0)

    def reorder_incremental_state(self, incremental_state, new_order: Tensor):
        """Follow a beam search's reordering of hypotheses, `new_order` (B' * beam,) into (B * beam)."""
        saved = self._load(incremental_state)
        if not saved:
            return incremental_state
        beam, rows = saved["beam_size"], saved["prev_key"].size(0)
        # As many hypotheses as before: they were exchanged within their sentences, whose rows are shared.
        if new_order.numel() != rows * beam:
            sentences = new_order.view(-1, beam)[:, 0] // beam
            for name, value in saved.items():
                if hasattr(value, "index_select"):
                    saved[name] = value.index_select(0, sentences)
        return incremental_state


class FullCrossAttention(SharedByBeams, MultiheadAttention):
    """fairseq's own attention to the whole source (`--cross-attention full`).

    Stock apart from the beam bookkeeping: stock leaves the last generator's beam size on the module, and a
    training step after it attends to every beam-th sentence only.
    """

    def forward(self, query, key, value, key_padding_mask=None, incremental_state=None, **kwargs):
        """As in `MultiheadAttention.forward`; `key_padding_mask` may be a `SourceContext`."""
        mask = as_context(key_padding_mask).padding_mask
        before = self._load(incremental_state) if incremental_state is not None else {}
        output = super().forward(query, key, value, mask, incremental_state, **kwargs)
        if incremental_state is not None:
            saved = self._load(incremental_state)
            saved["beam_size"] = before.get("beam_size", query.size(1) // saved["prev_key"].size(0))
        return output

    def open_source(self, encoder_states, padding_mask, length):
        """As in `SharedByBeams.open_source`."""
        if self.bias_k is not None or self.add_zero_attn:
            raise ConfigurationError("cross-attention with --add-bias-kv or --add-zero-attn")
        source = {
            name: projection(encoder_states).unflatten(2, (self.num_heads, self.head_dim)).permute(1, 2, 0, 3)
            for name, projection in (("keys", self.k_proj), ("values", self.v_proj))
        }
        if padding_mask is not None:
            source["bias"] = source["keys"].new_zeros(padding_mask.shape).masked_fill(padding_mask, float("-inf"))
            source["bias"] = source["bias"][:, None, None, :]
        return source


class SegmentedCrossAttention(SharedByBeams):
    """Attention to one source segment per position plus a recurrent memory of the others.

    A drop-in for `MultiheadAttention(encoder_decoder_attention=True)` with its parameter names, so that BART
    checkpoints load; what is new is below `memory` (see `memory.MEMORIES`).

    Args:
        embed_dim, num_heads: width of the decoder, and heads that divide it.
        settings: segment size, schedule, memory, backend.
        kdim: width of the encoder (default: embed_dim).
        dropout: probability, on the local attention weights.
        bias: biases in the four projections (BART yes, T5 no).
        scale_query: multiply queries by D^-1/2 (BART yes, T5 no).
        head_dim: D, where it is not embed_dim / num_heads (T5).
        q_noise, qn_block_size: fairseq's quantisation noise.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        settings: SegmentSettings,
        kdim: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        scale_query: bool = True,
        head_dim: int | None = None,
        q_noise: float = 0.0,
        qn_block_size: int = 8,
    ):
        super().__init__()
        settings.check()
        if head_dim is None and embed_dim % num_heads != 0:
            raise ConfigurationError(
                f"--decoder-attention-heads {num_heads} does not divide --decoder-embed-dim {embed_dim}"
            )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = head_dim or embed_dim // num_heads
        self.scaling = self.head_dim**-0.5 if scale_query else 1.0
        self.segment_size = settings.segment_size
        self.schedule = build_schedule(settings.segment_schedule, settings.expected_target_length)
        self.dropout = dropout

        inner = num_heads * self.head_dim
        kdim = kdim or embed_dim

        add_projections(self, embed_dim, inner, kdim, bias, q_noise, qn_block_size)
        for projection in (self.k_proj, self.v_proj, self.q_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight)
            if bias:
                nn.init.zeros_(projection.bias)
        self.memory = choose(MEMORIES, settings.cross_attention, "--cross-attention")(
            num_heads, self.head_dim, settings
        )
        self.attend = resolve(settings.attention_backend)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: "Tensor | SourceContext | None" = None,
        incremental_state: dict | None = None,
        need_weights: bool = False,
        static_kv: bool = True,
        attn_mask: Tensor | None = None,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from target positions to the source.

        Args:
            query: (T, B * x, C), decoder states; x hypotheses per sentence, one after the other.
            key, value: (N, B, C_enc), encoder states (value is key); ignored once the incremental state holds
                their projections.
            key_padding_mask: (B, N), True at padding, on either side; or a `SourceContext`.
            incremental_state: fairseq's dictionary; None: teacher forcing.
            need_weights, need_head_weights: return the local weights, averaged over heads or per head.
            static_kv, attn_mask: accepted for `MultiheadAttention`'s signature; the source never grows, and
                there is nothing causal about it (attn_mask must be None).
        Returns:
            (T, B * x, C), and None or (B * x, T, N) or (H, B * x, T, N): the recurrent term, which has no weights,
            is not part of them.
        """
        if attn_mask is not None:
            raise ConfigurationError("segmented cross-attention takes no attn_mask: positions see a whole segment")
        context = as_context(key_padding_mask)
        with_weights = need_weights or need_head_weights
        if incremental_state is None:
            beam = 1
            output, weights, layout, plan = self._attend_whole(query, key, context, with_weights)
        else:
            output, weights, layout, plan, beam = self._attend_next(
                query, key, context, incremental_state, with_weights
            )
        if weights is not None:
            weights = self.join_weights(layout.scatter_weights(weights, plan.segments), beam, need_head_weights)
        return self.out_proj(self.join_heads(output, beam)), weights

    def _attend_whole(self, query: Tensor, key: Tensor, context: SourceContext, need_weights: bool):
        """All positions at once, by the chosen backend: output, weights, layout and plan."""
        length, rows, _ = query.shape
        if key.size(1) != rows:  # teacher forcing of several targets per source
            key = key.repeat_interleave(rows // key.size(1), dim=1)
        layout = context.layout(rows, key.size(0), self.segment_size, key.device)
        keys, values = self.k_proj(key), self.v_proj(key)
        queries = self.split_query(self.q_proj(query) * self.scaling, 1)
        plan = context.plan(
            self.schedule,
            layout,
            first_position=context.first_position or 0,
            length=length,
            target_lengths=context.target_lengths,
            query=queries,
            keys=layout.split_heads(keys, self.num_heads) if self.schedule.uses_content else None,
        )
        dropout = self.dropout if self.training else 0.0
        return *self.attend(queries, keys, values, layout, plan, self.memory, dropout, need_weights), layout, plan

    def _attend_next(
        self, query: Tensor, key: Tensor | None, context: SourceContext, incremental_state: dict, need_weights: bool
    ):
        """The positions after those of the calls before, which kept the source: output, weights, layout, plan, beam."""
        length, rows, _ = query.shape
        saved = self._load(incremental_state)
        if not saved:
            layout, keys, values = self._project_source(key, context)
            saved = {
                "prev_key": keys,
                "prev_value": values,
                "layout": layout,
                "beam_size": rows // key.size(1),
                "position": 0,
            }
        keys, values, layout, beam = (saved[k] for k in ("prev_key", "prev_value", "layout", "beam_size"))
        queries = self.split_query(self.q_proj(query) * self.scaling, beam)
        first = saved["position"] if context.first_position is None else context.first_position
        plan = context.plan(
            self.schedule,
            layout,
            first_position=first,
            length=length,
            copies=beam,
            decoding=True,
            query=queries,
            keys=keys,
        )
        if "memory" not in saved:
            saved["memory"] = self.memory.encode(keys, values, plan)
        saved["position"] = first + length
        self.set_incremental_state(incremental_state, "attn_state", saved)
        output, weights = torch_ops.attend(
            queries,
            keys,
            values,
            layout.is_real,
            plan,
            self.memory,
            saved["memory"],
            dropout=self.dropout if self.training else 0.0,
            need_weights=need_weights,
        )
        return output, weights, layout, plan, beam

    def _project_source(self, encoder_states: Tensor, context: SourceContext):
        """The layout of the segments, and keys and values (B, H, m, s, D)."""
        length, batch_size, _ = encoder_states.shape
        layout = context.layout(batch_size, length, self.segment_size, encoder_states.device)
        keys = layout.split_heads(self.k_proj(encoder_states), self.num_heads)
        return layout, keys, layout.split_heads(self.v_proj(encoder_states), self.num_heads)

    def open_source(self, encoder_states, padding_mask, length):
        """As in `SharedByBeams.open_source`; what every position will read is planned at once."""
        if self.schedule.uses_content:
            raise ConfigurationError("a --segment-schedule that looks at the content of queries")
        context = SourceContext(padding_mask)
        layout, keys, values = self._project_source(encoder_states, context)
        plan = context.plan(self.schedule, layout, first_position=0, length=length, decoding=True)
        if plan.segments.size(1) > 1 or plan.segments.size(3) > 1 or not plan.state_follows_segment:
            raise ConfigurationError("a --segment-schedule of several segments or of segments that differ by head")
        source = {
            "keys": keys,
            "values": values,
            "is_real": layout.is_real,
            "memory": self.memory.encode(keys, values, plan),
            "segments": plan.segments.squeeze(3),
            "states": plan.states.squeeze(3),
            "visited": plan.visited,
        }
        return {name: tensor for name, tensor in source.items() if tensor is not None}

    def _attend_step(self, queries, source, position):
        count = queries.size(2)
        segments, states = (
            source[name].index_select(2, position).expand(-1, -1, count).unsqueeze(3) for name in ("segments", "states")
        )
        memory = source.get("memory")
        plan = SegmentPlan(
            segments=segments,
            states=states,
            visited=source.get("visited"),
            num_states=0 if memory is None else memory.size(2),
            max_segments=source["keys"].size(2),
            state_follows_segment=True,
            same_segment=True,
        )
        is_real = source.get("is_real")
        return torch_ops.attend(queries, source["keys"], source["values"], is_real, plan, self.memory, memory)[0]
