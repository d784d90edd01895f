"""The module that stands in for fairseq's `MultiheadAttention` as a decoder layer's `encoder_attn`."""

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from ..optim.memory_parameters import mark_memory
from ..registry import choose
from .backends import resolve
from .dropout import current_rate
from .method.memory import MEMORIES
from .method.schedule import build_schedule
from .settings import SegmentSettings
from .shared_by_beams import SharedByBeams, add_heads
from .source_context import SourceContext, as_context


class SegmentedCrossAttention(SharedByBeams):
    """Attention to one source segment per position plus a recurrent memory of the others.

    A drop-in for `MultiheadAttention(encoder_decoder_attention=True)` with its parameter names, so that BART
    checkpoints load; what is new is below `memory` (see `memory.MEMORIES`).

    Args:
        embed_dim, num_heads: width of the decoder, and heads that divide it.
        settings: segment size, schedule, memory, backend; checked already (`SegmentSettings.check`).
        heads: further arguments of `add_heads`; its dropout is of the local attention's weights.
    """

    def __init__(self, embed_dim: int, num_heads: int, settings: SegmentSettings, **heads):
        super().__init__()
        if heads.get("head_dim") is None and embed_dim % num_heads != 0:
            raise ConfigurationError(
                f"--decoder-attention-heads {num_heads} does not divide --decoder-embed-dim {embed_dim}"
            )
        self.embed_dim = embed_dim
        self.segment_size = settings.segment_size
        add_heads(self, embed_dim, num_heads, **heads)
        for projection in (self.k_proj, self.v_proj, self.q_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)
        self.memory = choose(MEMORIES, settings.cross_attention, "--cross-attention")(
            num_heads, self.head_dim, settings
        )
        mark_memory(self.memory)
        self.schedule = build_schedule(
            settings.segment_schedule,
            settings.expected_target_length if settings.needs_target_length else None,
            settings.segments_per_query,
            settings.segment_score,
        )
        self.backend = resolve(settings.attention_backend)

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
            hypotheses = 1
            output, weights = self._attend_whole(query, key, context, with_weights)
        else:
            output, weights, hypotheses = self._attend_next(query, key, context, incremental_state, with_weights)
        if weights is not None:
            weights = self.join_weights(weights, hypotheses, need_head_weights)
        return self.out_proj(self.join_heads(output, hypotheses)), weights

    def _attend_whole(self, query: Tensor, key: Tensor, context: SourceContext, need_weights: bool):
        """All positions at once, by the chosen backend: output and weights."""
        rows = query.size(1)
        keys, values = self.project_source(key, context)
        if key.size(1) != rows:  # teacher forcing of several targets per source
            keys, values = (x.repeat_interleave(rows // key.size(1), dim=1) for x in (keys, values))
        layout, plan = self._plan_whole(query, key, context)
        queries = self.project_query(query, 1)
        dropout = current_rate(self.dropout_module)
        return self.backend.attend_source(queries, keys, values, layout, plan, self.memory, dropout, need_weights)

    def _plan_whole(self, query: Tensor, key: Tensor, context: SourceContext):
        """Where the segments of sources (N, B, C_enc) are, and what all positions of targets (T, B * x, C) read."""
        length, rows, _ = query.shape
        layout = context.layout(rows, key.size(0), self.segment_size, key.device)
        plan = context.plan(
            self.schedule,
            layout,
            first_position=context.first_position or 0,
            length=length,
            target_lengths=context.target_lengths,
        )
        return layout, plan

    @torch.no_grad()
    def segments_read(self, query: Tensor, key: Tensor, key_padding_mask: "Tensor | SourceContext | None" = None):
        """The segments whose tokens each position of a whole target attends to.

        Args:
            query, key, key_padding_mask: as in `forward`, of as many sources as targets.
        Returns:
            (B, H or 1, T, k) int64, as `SegmentPlan.segments`.
        """
        context = as_context(key_padding_mask)
        layout, plan = self._plan_whole(query, key, context)
        if plan.choice is not None:
            keys = layout.split_heads(self.project_source(key, context)[0], self.num_heads)
            summaries = plan.choice.summarise(keys, layout)
            plan = plan.decide(self.project_query(query, 1), summaries, layout.segment_counts)
        return self.memory.attended(plan)

    def _attend_next(
        self, query: Tensor, key: Tensor | None, context: SourceContext, incremental_state: dict, need_weights: bool
    ):
        """The positions after those of the calls before, which kept the source.

        Returns output, weights, and the number of hypotheses per sentence.
        """
        length, rows, _ = query.shape
        saved = self._load(incremental_state)
        if not saved:
            layout = context.layout(key.size(1), key.size(0), self.segment_size, key.device)
            keys, values = (layout.split_heads(x, self.num_heads) for x in self.project_source(key, context))
            saved = {
                "prev_key": keys,
                "prev_value": values,
                "layout": layout,
                "beam_size": rows // key.size(1),
                "position": 0,
            }
        keys, values, layout, hypotheses = (saved[k] for k in ("prev_key", "prev_value", "layout", "beam_size"))
        queries = self.project_query(query, hypotheses)
        first = saved["position"] if context.first_position is None else context.first_position
        plan = context.plan(
            self.schedule,
            layout,
            first_position=first,
            length=length,
            hypotheses=hypotheses,
            decoding=True,
        )
        if "memory" not in saved:
            saved["memory"] = self.memory.encode(keys, values, layout, plan)
            saved["summaries"] = None if plan.choice is None else plan.choice.summarise(keys, layout)
        plan = plan.decide(queries, saved["summaries"], layout.segment_counts)
        saved["position"] = first + length
        self.set_incremental_state(incremental_state, "attn_state", saved)
        dropout = current_rate(self.dropout_module)
        output, weights = self.backend.attend_next(
            queries, keys, values, layout, plan, self.memory, saved["memory"], dropout, need_weights
        )
        return output, weights, hypotheses

    def open_source(self, encoder_states, context, length):
        """As in `SharedByBeams.open_source`; what every position will read is planned at once."""
        source_length, batch_size, _ = encoder_states.shape
        layout = context.layout(batch_size, source_length, self.segment_size, encoder_states.device)
        plan = context.plan(self.schedule, layout, first_position=0, length=length)
        if plan.choice is None and not plan.state_follows_segment:
            raise ConfigurationError("a --segment-schedule of several segments or of segments that differ by head")
        keys, values = self.project_source(encoder_states, context)
        source = self.backend.open_source(keys, values, self.num_heads, layout, plan, self.memory)
        for name in ("segments", "states"):  # there where a backend counts those it keeps anew
            table = getattr(plan, name)
            if table is not None:
                source.setdefault(name, table.squeeze(3))
        return source

    def _attend_step(self, queries, source, position):
        return self.backend.attend_step(queries, source, position, self.memory, self.segment_size)
