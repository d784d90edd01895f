"""The dispatcher: which backend computes a call, what the log says, and what is made once for all layers."""

import gc
import weakref

import pytest
import torch

from srformer_plugin.attention import backends
from srformer_plugin.attention.backends import CHOICES, Dispatcher
from srformer_plugin.attention.cross_attention import SegmentedCrossAttention
from srformer_plugin.attention.method.plan import SegmentPlan, once_per_plan
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.source_context import SourceContext
from srformer_plugin.attention.torch import grouping
from srformer_plugin.attention.torch.backend import TorchBackend


class Recording(TorchBackend):
    """PyTorch operations under another name, which refuse some methods and note the others' calls."""

    def __init__(self, name, refused=()):
        self.name, self.refused, self.calls = name, refused, []

    def obstacle(self, request):
        return f"{request.method} is refused" if request.method in self.refused else None

    def attend_source(self, *arguments):
        self.calls.append("attend_source")
        return super().attend_source(*arguments)

    def open_source(self, *arguments):
        self.calls.append("open_source")
        return super().open_source(*arguments)

    def attend_step(self, *arguments):
        self.calls.append("attend_step")
        return super().attend_step(*arguments)

    def attend_next(self, *arguments):
        self.calls.append("attend_next")
        return super().attend_next(*arguments)


def attention(*chosen):
    """A small attention that uses these backends."""
    torch.manual_seed(2)
    module = SegmentedCrossAttention(8, 2, SegmentSettings(segment_size=4, expected_target_length=5)).eval()
    module.backend = Dispatcher(*chosen)
    return module


def use_in_every_way(module):
    """Score a batch, decode step by step as fairseq does, and as `--fast-generate` does; the three outputs."""
    query, encoder = torch.randn(3, 1, 8), torch.randn(11, 1, 8)
    whole, _ = module(query, encoder, encoder, None)
    state = {}
    stepwise = torch.cat([module(query[t : t + 1], encoder, encoder, None, state)[0] for t in range(3)])
    with torch.no_grad():
        source = module.open_source(encoder, SourceContext(None), 3)
        opened = torch.cat([module.step(query[t : t + 1], source, torch.tensor([t])) for t in range(3)])
    return whole, stepwise, opened


EVERY_CALL = ["attend_source", *["attend_next"] * 3, "open_source", *["attend_step"] * 3]


def test_every_way_of_using_the_attention_goes_through_the_first_backend():
    first, last = Recording("first"), Recording("last")
    whole, stepwise, opened = use_in_every_way(attention(first, last))
    assert first.calls == EVERY_CALL and last.calls == []
    torch.testing.assert_close(stepwise, whole)
    torch.testing.assert_close(opened, whole)


@pytest.mark.parametrize("refused", ["attend_source", "attend_next", "open_source"])
def test_a_call_that_a_backend_refuses_is_the_next_ones_and_the_log_says_once_why(refused, caplog):
    backends._told.clear()
    first, last = Recording("first", {refused}), Recording("last")
    with caplog.at_level("INFO"):
        use_in_every_way(attention(first, last))
    # whoever opened a source reads it
    theirs = {refused} | ({"attend_step"} if refused == "open_source" else set())
    assert first.calls == [call for call in EVERY_CALL if call not in theirs]
    assert last.calls == [call for call in EVERY_CALL if call in theirs]
    assert [r.message for r in caplog.records] == [
        f"attention is computed by last and not by first: {refused} is refused"
    ]


def test_the_last_backend_of_every_choice_computes_everything():
    for choice in CHOICES.values():
        assert isinstance(choice.backends[-1], TorchBackend)


def empty_plan():
    return SegmentPlan(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), None, 1, 1)


def test_what_is_made_of_a_plan_is_made_once_and_goes_with_it():
    made = []

    @once_per_plan
    def table(plan, *others):
        made.append(weakref.ref(plan))
        return [*others]

    plan = empty_plan()
    assert table(plan, 1) is table(plan, 1)
    assert table(plan, 2) == [2]
    assert table(empty_plan(), 1) is not table(plan, 1)
    assert len(made) == 3
    del plan
    gc.collect()
    assert [ref() for ref in made] == [None] * 3


def test_layers_share_the_grouping_of_one_forward_pass(monkeypatch):
    grouped = []
    group = grouping.group_reads
    monkeypatch.setattr(grouping, "group_reads", lambda *arguments: grouped.append(arguments) or group(*arguments))
    layers = [attention(TorchBackend()) for _ in range(3)]
    query, encoder, context = torch.randn(3, 1, 8), torch.randn(11, 1, 8), SourceContext(None)
    for layer in layers:
        layer(query, encoder, encoder, context)
    assert len(grouped) == 1
