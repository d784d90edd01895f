"""A third schedule and a third memory: one class and one registry line each, nothing else.

They stand for what will come: segments chosen by content, several per query and head; another memory.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from srformer_plugin.attention.cross_attention import SegmentedCrossAttention
from srformer_plugin.attention.method.memory import MEMORIES, NoMemory
from srformer_plugin.attention.method.plan import SegmentPlan
from srformer_plugin.attention.method.schedule import SCHEDULES, ClockSchedule
from srformer_plugin.attention.settings import SegmentSettings


class TwoByContent(ClockSchedule):
    """Every query of every head reads the two segments whose mean key fits it best."""

    uses_content = True

    def plan(self, layout, first_position, length, query=None, keys=None, **others):
        scores = torch.einsum("bhqd,bhmd->bhqm", query, keys.mean(3))
        absent = torch.arange(layout.max_segments) >= layout.segment_counts[:, None]
        best = scores.masked_fill(absent[:, None, None], -torch.inf).topk(2, dim=-1).indices
        return SegmentPlan(best, best[..., :1], None, layout.max_segments, layout.max_segments)


class LinearMemory(nn.Module):
    """Every other segment's product, as it is."""

    def __init__(self, num_heads, head_dim, settings):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_heads))

    def encode(self, keys, values, layout, plan):
        products = keys.transpose(-1, -2) @ values
        return products.sum(dim=2, keepdim=True) - products

    def read(self, query, states):
        return query @ states * self.scale.view(1, -1, 1, 1, 1)


@pytest.fixture
def module(monkeypatch):
    monkeypatch.setitem(SCHEDULES, "content", TwoByContent)
    monkeypatch.setitem(MEMORIES, "linear", LinearMemory)
    settings = SegmentSettings(
        cross_attention="linear", segment_schedule="content", segment_size=3, expected_target_length=5
    )
    return SegmentedCrossAttention(8, 2, settings.check()).double()


def test_two_segments_per_query_and_head_with_another_memory(module):
    query, encoder = (torch.randn(n, 1, 8, dtype=torch.float64) for n in (5, 11))
    output, weights = module(query, encoder, encoder, None, need_head_weights=True)

    def heads(projected):
        return projected.view(-1, 2, 4).transpose(0, 1)

    q = heads(module.q_proj(query)) * module.scaling
    k, v = heads(module.k_proj(encoder)), heads(module.v_proj(encoder))
    segments = [slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 11)]
    expected = torch.zeros(5, 2, 4, dtype=torch.float64)
    for h in range(2):
        for t in range(5):
            # the last segment holds two tokens: its mean is over three slots, one of them zero
            scores = torch.stack([q[h, t] @ k[h, part].sum(0) / 3 for part in segments])
            best = scores.topk(2).indices.tolist()
            tokens = torch.cat([torch.arange(11)[segments[j]] for j in best])
            probabilities = torch.softmax(k[h, tokens] @ q[h, t], dim=0)
            others = [j for j in range(4) if j != best[0]]
            state = sum(k[h, segments[j]].T @ v[h, segments[j]] for j in others)
            expected[t, h] = probabilities @ v[h, tokens] + q[h, t] @ state
            torch.testing.assert_close(weights[h, 0, t, tokens], probabilities)
            assert weights[h, 0, t].sum().item() == pytest.approx(1)
    torch.testing.assert_close(output, module.out_proj(expected.flatten(1)).unsqueeze(1))


def test_a_chosen_segment_beyond_a_sentences_own_adds_nothing(module):
    """Beside a longer sentence one of two tokens, in one segment, has to choose two all the same."""
    module.memory = NoMemory(2, 4, None)
    query, encoder = (torch.randn(n, 2, 8, dtype=torch.float64) for n in (5, 11))
    mask = torch.zeros(2, 11, dtype=torch.bool)
    mask[1, 2:] = True
    together, _ = module(query, encoder, encoder, mask)
    q, k, v = (
        project(x).unflatten(2, (2, 4)).permute(1, 2, 0, 3)
        for project, x in (
            (module.q_proj, query[:, 1:]), (module.k_proj, encoder[:2, 1:]), (module.v_proj, encoder[:2, 1:])
        )
    )  # fmt: skip
    full = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(together[:, 1:], module.out_proj(full.permute(2, 0, 1, 3).flatten(2)))


def test_decoding_equals_training_with_them_too(module):
    query, encoder = (torch.randn(n, 2, 8, dtype=torch.float64) for n in (5, 11))
    mask = torch.zeros(2, 11, dtype=torch.bool)
    mask[1, :4] = True
    whole, _ = module.eval()(query, encoder, encoder, mask)
    state = {}
    steps = [module(query[t : t + 1], encoder, encoder, mask, state)[0] for t in range(5)]
    torch.testing.assert_close(torch.cat(steps), whole)
