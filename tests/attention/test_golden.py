"""Agreement with the authors' classes, whose inputs, parameters, outputs and gradients tests/golden holds.

The authors attend to the zeros that fill a partial last segment and let padding into the memory
(docs/attention.md, section 5). The package does neither, and needs no switch for it: these tests do the projections
themselves and hand over keys and values that are zero-padded to whole segments, all of them "real".

`pytest tests --golden DIR` runs the same checks on every pair of files in another folder of this format.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from srformer_plugin.attention.method import reference
from srformer_plugin.attention.method.memory import RAFMemory
from srformer_plugin.attention.method.schedule import build_schedule
from srformer_plugin.attention.method.segments import SourceLayout
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.torch import attend as torch_ops

TOLERANCE = 1e-9


@dataclass
class Golden:
    """One pair of files: `info` from the JSON, `arrays` from the npz as float64 tensors."""

    name: str
    info: dict
    arrays: dict

    def __getattr__(self, key):
        return self.info[key]

    @property
    def is_bart(self):
        return self.info["variant"] == "bart"

    @property
    def clamp(self):
        return 2.0 if self.is_bart else None

    @property
    def is_masked(self):
        """The T5 variant adds its mask to the scores; the BART variant never reads it."""
        return not self.is_bart and "mask" in self.arrays


def load(path: Path) -> Golden:
    info = json.loads(path.with_suffix(".json").read_text())
    with np.load(path) as arrays:
        return Golden(path.stem, info, {k: torch.from_numpy(np.array(arrays[k])).double() for k in arrays.files})


def pytest_generate_tests(metafunc):
    folder = Path(metafunc.config.getoption("--golden") or Path(__file__).parents[1] / "golden")
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise pytest.UsageError(f"--golden {folder}: no .npz files there")
    wanted = {
        "golden": lambda golden: True,
        "unmasked_golden": lambda golden: not golden.is_masked,
        "masked_golden": lambda golden: golden.is_masked and golden.s < golden.N and golden.N % golden.s,
        "t5_golden": lambda golden: not golden.is_bart,
    }
    for name in wanted.keys() & set(metafunc.fixturenames):
        chosen = [golden for golden in map(load, files) if wanted[name](golden)]
        metafunc.parametrize(name, chosen, ids=lambda golden: golden.name)
    if "attention" in metafunc.fixturenames:
        metafunc.parametrize("attention", [ByReference, ByTorch])


class Projections:
    """The authors' parameters as leaves, and their projections; K and V end in zeros, up to whole segments."""

    def __init__(self, golden: Golden):
        self.golden = golden
        self.parameters = {
            name.removeprefix("param."): array.clone().requires_grad_()
            for name, array in golden.arrays.items()
            if name.startswith("param.")
        }
        self.hidden = golden.arrays["hidden"].clone().requires_grad_()
        self.encoder = golden.arrays["encoder"].clone().requires_grad_()
        self.query = self._heads("q", self.hidden) * (golden.d**-0.5 if golden.is_bart else 1)
        fill = golden.m * golden.s - golden.N
        self.keys = F.pad(self._heads("k", self.encoder), (0, 0, 0, fill))
        self.values = F.pad(self._heads("v", self.encoder), (0, 0, 0, fill))
        self.weight = self.parameters["SNN_kv.weight"]
        self.leak, self.threshold = self.parameters["leak"], self.parameters["threshold"]

    def _linear(self, name, inputs):
        name = {"o": "out_proj"}.get(name, f"{name}_proj") if self.golden.is_bart else name
        return F.linear(inputs, self.parameters[f"{name}.weight"], self.parameters.get(f"{name}.bias"))

    def _heads(self, name, inputs):
        return self._linear(name, inputs).unflatten(2, (self.golden.H, -1)).transpose(1, 2)

    def output(self, heads):
        return self._linear("o", heads.transpose(1, 2).flatten(2))


class ByReference:
    """The plain reference, one call per range of positions."""

    def __init__(self, projections: Projections, schedule_length: int):
        self.p, self.length = projections, schedule_length

    def __call__(self, first, stop):
        golden, p = self.p.golden, self.p
        if golden.is_masked:
            return self._masked(first, stop)
        return reference.segmented_recurrent_attention(
            p.query[:, :, first:stop],
            p.keys,
            p.values,
            [golden.m * golden.s] * golden.B,
            golden.s,
            self.length,
            p.weight,
            p.leak,
            p.threshold,
            golden.clamp,
            first_position=first,
        )

    def _masked(self, first, stop):
        """The T5 variant's mask rule at inference: the mask counts in the softmax and nowhere else."""
        golden, p = self.p.golden, self.p
        path = [reference.segment_of_position(t, golden.m, self.length) for t in range(stop)]
        visited = sorted(set(path))
        allowed = attended(golden)
        heads = torch.zeros(golden.B, golden.H, stop - first, golden.d, dtype=torch.float64)
        for b in range(golden.B):
            for h in range(golden.H):
                states = reference.memory_states(
                    p.keys[b, h], p.values[b, h], visited, golden.s, p.weight, p.leak, p.threshold, golden.clamp
                )
                for t in range(first, stop):
                    slots = allowed[b, path[t]].nonzero().flatten() + path[t] * golden.s
                    q = p.query[b, h, t]
                    local = reference.softmax_term(q, p.keys[b, h, slots], p.values[b, h, slots], [slice(None)])
                    heads[b, h, t - first] = local + q @ states[visited.index(path[t])]
        return heads


class ByTorch:
    """The vectorised path, as the module calls it: memory states once per source, then ranges of positions."""

    def __init__(self, projections: Projections, schedule_length: int):
        golden, p = projections.golden, projections
        self.p = projections
        self.memory = RAFMemory(golden.H, golden.d, SegmentSettings(kv_clamp=golden.clamp or 0)).double()
        # plain tensors instead of the module's parameters, so that gradients reach the leaves
        del self.memory.leak, self.memory.threshold, self.memory.proj.weight
        self.memory.leak, self.memory.threshold = p.leak, p.threshold
        self.memory.proj.weight = p.weight
        self.schedule = build_schedule("fixed", schedule_length)
        self.layout = SourceLayout(None, golden.B, golden.m * golden.s, golden.s, "cpu")
        shape = (golden.B, golden.H, golden.m, golden.s, golden.d)
        self.keys, self.values = p.keys.reshape(shape), p.values.reshape(shape)
        self.states = None

    def __call__(self, first, stop):
        golden = self.p.golden
        plan = self.schedule.plan(self.layout, first, stop - first, decoding=stop - first < golden.T)
        if self.states is None:
            self.states = self.memory.encode(self.keys, self.values, self.layout, plan)
        is_real = attended(golden) if golden.is_masked else None
        query = self.p.query[:, :, first:stop]
        return torch_ops.attend(query, self.keys, self.values, is_real, plan, self.memory, self.states)[0]


def attended(golden):
    """(B, m, s): the T5 mask of each segment's own slice; zero-padded keys count as real."""
    real = golden.arrays["mask"][:, 0, 0] > -1
    return F.pad(real, (0, golden.m * golden.s - golden.N), value=True).view(golden.B, golden.m, golden.s)


def whole(golden, attention, schedule_length):
    """All positions at once: (projections, output)."""
    projections = Projections(golden)
    return projections, projections.output(attention(projections, schedule_length)(0, golden.T))


def stepped(golden, attention, schedule_length):
    """One position per call."""
    with torch.no_grad():
        projections = Projections(golden)
        step = attention(projections, schedule_length)
        return projections.output(torch.cat([step(t, t + 1) for t in range(golden.T)], dim=2))


def steps_with_one_visit(golden, schedule_length):
    """The T5 class steps its neuron at every position (docs/attention.md, section 5). Until a segment is held for a
    second step, that is one step per visited segment; with one segment the memory is zero in any case."""
    if golden.m == 1:
        return golden.T
    path = [reference.segment_of_position(t, golden.m, schedule_length) for t in range(golden.T)]
    return next((t for t in range(1, golden.T) if path[t] == path[t - 1]), golden.T)


def error(ours, theirs):
    return (ours - theirs).abs().max().item() if ours.numel() else 0.0


def test_training_output_and_every_gradient(unmasked_golden, attention):
    golden = unmasked_golden
    projections, output = whole(golden, attention, golden.T)
    assert error(output, golden.arrays["out_train"]) < TOLERANCE
    (output * golden.arrays["grad_out"]).sum().backward()
    gradients = {f"grad.{name}": value.grad for name, value in projections.parameters.items()}
    gradients |= {"grad_hidden": projections.hidden.grad, "grad_encoder": projections.encoder.grad}
    expected = {k: v for k, v in golden.arrays.items() if k.startswith("grad") and k != "grad_out"}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert error(gradient, expected[name]) < TOLERANCE, name


def test_partial_last_segment_reads_its_own_mask(masked_golden, attention):
    """In training the T5 class cuts the mask at N // s slices (docs/attention.md, section 5): a partial last segment
    reads the slice of the segment before it, so that a masked token of its own has a say. Ours reads its own, as
    the same class does at inference. Everything but that segment of the rows with padding agrees."""
    golden = masked_golden
    with torch.no_grad():
        _, output = whole(golden, attention, golden.T)
    theirs = golden.arrays["out_train"]
    in_last = torch.tensor(golden.segment_of_position) == golden.m - 1
    padded = torch.tensor(golden.lens) < golden.N
    affected = padded[:, None] & in_last[None]
    assert error(output[~affected], theirs[~affected]) < TOLERANCE
    assert error(output[affected], theirs[affected]) > 1e-3
    assert error(output, golden.arrays["out_step_skip_fixed"]) < TOLERANCE


def test_stepped_output(golden, attention):
    """BART as the authors step it; T5 with the line that its stepping lacks (`old_idx`)."""
    name = "out_step" if golden.is_bart else "out_step_skip_fixed"
    assert error(stepped(golden, attention, golden.T), golden.arrays[name]) < TOLERANCE


def test_stepped_output_of_another_schedule_length(golden, attention):
    length = golden.gen_len_other
    ours, theirs = stepped(golden, attention, length), golden.arrays["out_step_gen_len_other"]
    same = golden.T if golden.is_bart else steps_with_one_visit(golden, length)
    assert error(ours[:, :same], theirs[:, :same]) < TOLERANCE


def test_t5_stepping_is_left_where_it_fires_twice_on_one_segment(t5_golden, attention):
    """`out_step` of T5 cannot be right where a segment is held for several steps: the neuron steps T times
    instead of once per segment, so that decoding differs from training. Ours agrees up to there."""
    golden = t5_golden
    same = steps_with_one_visit(golden, golden.T)
    ours, theirs = stepped(golden, attention, golden.T), golden.arrays["out_step"]
    assert error(ours[:, :same], theirs[:, :same]) < TOLERANCE
    if same < golden.T:
        assert error(ours[:, same:], theirs[:, same:]) > 1e-3


def test_stepping_equals_training(golden, attention):
    with torch.no_grad():
        _, at_once = whole(golden, attention, golden.T)
    assert error(stepped(golden, attention, golden.T), at_once) < TOLERANCE
