"""Another schedule, another score and another memory: one class and one registry line each, nothing else."""

import pytest
import torch
from against_reference import pad_batch

from srformer_plugin.attention.cross_attention import SegmentedCrossAttention
from srformer_plugin.attention.method.content import SCORES, MeanScore
from srformer_plugin.attention.method.memory import MEMORIES, Memory
from srformer_plugin.attention.method.plan import SegmentPlan
from srformer_plugin.attention.method.schedule import SCHEDULES, ClockSchedule
from srformer_plugin.attention.settings import SegmentSettings


class ByHead(ClockSchedule):
    """Head h at position t reads segments t + h and t + h + 1, counted round and round."""

    def plan(self, layout, first_position, length, hypotheses=1, **others):
        position = torch.arange(first_position, first_position + length).repeat(hypotheses)
        first = position + torch.arange(2).unsqueeze(1)
        segments = torch.stack((first, first + 1), dim=-1) % layout.segment_counts.view(-1, 1, 1, 1)
        segments[..., 1][segments[..., 0] == segments[..., 1]] = -1
        states = position.expand(layout.lengths.size(0), 1, -1).unsqueeze(3) % layout.segment_counts.view(-1, 1, 1, 1)
        return SegmentPlan(segments, states, None, layout.max_segments, layout.max_segments)


class FarthestScore(MeanScore):
    """The longest keys: whatever the query is."""

    @staticmethod
    def summarise(keys, layout):
        return layout.means(keys.square().sum(-1, keepdim=True))

    @staticmethod
    def rate(query, summaries):
        return summaries.transpose(2, 3).expand(-1, -1, query.size(2), -1)


class LinearMemory(Memory):
    """Every other segment's product, as it is."""

    goes_by_visits = True

    def __init__(self, num_heads, head_dim, settings):
        super().__init__(num_heads, head_dim, settings)
        self.scale = torch.nn.Parameter(torch.ones(num_heads))

    def encode(self, keys, values, layout, plan):
        products = keys.transpose(-1, -2) @ values
        return products.sum(dim=2, keepdim=True) - products

    def read(self, query, states):
        return query @ states * self.scale.view(1, -1, 1, 1, 1)


@pytest.fixture
def build(monkeypatch):
    monkeypatch.setitem(SCHEDULES, "by-head", ByHead)
    monkeypatch.setitem(SCORES, "farthest", FarthestScore)
    monkeypatch.setitem(MEMORIES, "linear", LinearMemory)

    def build(**options):
        settings = SegmentSettings(cross_attention="linear", segment_size=3, expected_target_length=4, **options)
        return SegmentedCrossAttention(8, 2, settings.check()).double()

    return build


BY_HEAD = {"segment_schedule": "by-head"}
BY_SCORE = {"segment_schedule": "content", "segment_score": "farthest", "segments_per_query": 2}


@pytest.mark.parametrize("options", [BY_HEAD, BY_SCORE], ids=["schedule", "score"])
def test_two_segments_per_query_and_head_with_another_memory(build, options):
    module = build(**options)
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
            if options is BY_HEAD:
                read, visited = [(t + h) % 4, (t + h + 1) % 4], t % 4
            else:
                lengths = torch.stack([k[h, part].square().sum(1).mean() for part in segments])
                read = lengths.topk(2).indices.tolist()
                visited = min(t, 3)  # the clock's, with as many positions as segments
            tokens = torch.cat([torch.arange(11)[segments[j]] for j in read])
            probabilities = torch.softmax(k[h, tokens] @ q[h, t], dim=0)
            state = sum(k[h, segments[j]].T @ v[h, segments[j]] for j in range(4) if j != visited)
            expected[t, h] = probabilities @ v[h, tokens] + q[h, t] @ state
            torch.testing.assert_close(weights[h, 0, t, tokens], probabilities)
            assert weights[h, 0, t].sum().item() == pytest.approx(1)
    torch.testing.assert_close(output, module.out_proj(expected.flatten(1)).unsqueeze(1))


@pytest.mark.parametrize("options", [BY_HEAD, BY_SCORE], ids=["schedule", "score"])
def test_decoding_equals_training_with_them_too(build, options):
    module = build(**options).eval()
    encoder, mask = pad_batch([11, 7], 11, [0, 4], 8)
    query = torch.randn(5, 2, 8, dtype=torch.float64)
    whole, _ = module(query, encoder, encoder, mask)
    state = {}
    steps = [module(query[t : t + 1], encoder, encoder, mask, state)[0] for t in range(5)]
    torch.testing.assert_close(torch.cat(steps), whole)
