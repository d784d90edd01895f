"""Decoding steps by the fused kernels: on a GPU, and in Triton's interpreter on small shapes."""

import pytest
import torch

from srformer_plugin.attention.cross_attention import SegmentedCrossAttention
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.source_context import SourceContext
from srformer_plugin.attention.torch import attend as torch_ops

triton = pytest.importorskip("triton")
if not torch.cuda.is_available() and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7):
    pytest.skip("Triton 3.6's interpreter fails beside NumPy 2.4", allow_module_level=True)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def build(backend, heads=2, head_dim=16, segment_size=8, expected=6, gate=False, kind="srformer", dtype=torch.float32):
    """An attention with the same weights for every backend."""
    torch.manual_seed(5)
    settings = SegmentSettings(
        segment_size=segment_size,
        expected_target_length=expected,
        attention_backend=backend,
        memory_gate=gate,
        cross_attention=kind,
    )
    module = SegmentedCrossAttention(heads * head_dim, heads, settings)
    for name, parameter in module.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.normal_(parameter)
    return module.to(DEVICE, dtype).eval()


def steps(module, lengths, shifts, beam, positions, seed=1):
    """Outputs of all positions, one after the other, and the source that they read."""
    generator = torch.Generator().manual_seed(seed)
    dtype = module.q_proj.weight.dtype
    width = max(n + shift for n, shift in zip(lengths, shifts))
    encoder = torch.randn(width, len(lengths), module.embed_dim, generator=generator).to(DEVICE, dtype)
    queries = torch.randn(positions, len(lengths) * beam, module.embed_dim, generator=generator).to(DEVICE, dtype)
    mask = torch.ones(len(lengths), width, dtype=torch.bool)
    for row, (n, shift) in enumerate(zip(lengths, shifts)):
        mask[row, shift : shift + n] = False
    if not mask.any():
        mask = None
    with torch.no_grad():
        source = module.open_source(encoder, SourceContext(None if mask is None else mask.to(DEVICE)), positions)
        found = [module.step(queries[t : t + 1], source, torch.tensor([t], device=DEVICE)) for t in range(positions)]
    return torch.cat(found), source


CASES = {
    "padding on both sides": ({}, [13, 29, 1], [9, 0, 30], 2, 7),
    "no padding": ({}, [24, 24], [0, 0], 4, 5),
    "more segments than positions": ({}, [90, 21], [0, 20], 1, 3),
    "more segments than the schedule's length": ({"expected": 3}, [60, 21], [0, 39], 4, 9),
    "a long schedule of which few positions are read": ({"expected": 40}, [90, 50], [3, 43], 2, 3),
    "a partial last segment among few visited ones": ({"expected": 5}, [90, 21, 8, 33], [3, 20, 0, 59], 2, 6),
    "positions beyond the schedule": ({}, [20, 9], [0, 0], 2, 40),
    "more hypotheses than a program takes": ({}, [20, 9], [0, 11], 17, 4),
    "a source without a token": ({}, [0, 20], [0, 0], 2, 4),
    "a segment size that is no power of two": ({"segment_size": 20}, [50, 30], [0, 20], 4, 6),
    "gate": ({"gate": True}, [40, 25], [0, 15], 4, 6),
    "no memory": ({"kind": "segmented"}, [40, 25], [0, 15], 4, 6),
    "D 32": ({"head_dim": 32}, [40, 25], [0, 15], 4, 6),
}


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_pytorch_operations(name):
    options, *inputs = CASES[name]
    (ours, source), (plain, expected) = (steps(build(backend, **options), *inputs) for backend in ("triton", "torch"))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    if "memory" in source:
        for row, reached in enumerate(source["states"].flatten(1).amax(1) + 1):
            states, others = (x["memory"][row, :, :reached] for x in (source, expected))
            torch.testing.assert_close(states, others, rtol=1e-4, atol=1e-4)


def test_of_a_long_source_only_the_segments_that_will_be_visited_are_kept():
    """90 tokens are 12 segments of 8, of which 3 positions visit 3."""
    _, source = steps(build("triton"), [90, 21], [0, 20], 1, 3)
    assert source["keys"].shape[:2] == source["values"].shape[:2] == (2, 3 * 8)
    assert source["memory"].size(2) == 3
    _, source = steps(build("triton"), [40, 21], [0, 20], 1, 3)  # of 6 segments 3: more would leave them in place
    assert source["keys"].shape[:2] == (2, 3 * 8)
    _, source = steps(build("triton"), [40, 21], [0, 20], 1, 4)
    assert source["keys"].shape[:2] == (2, 41)


def test_half_precision_keeps_the_accuracy_of_pytorch_operations():
    inputs = CASES["padding on both sides"][1:]
    exact = steps(build("torch", dtype=torch.float64), *inputs)[0]
    for dtype, tolerance in ((torch.float16, 4e-3), (torch.bfloat16, 3e-2)):
        ours = steps(build("triton", dtype=dtype), *inputs)[0].double()
        assert (ours - exact).norm() / exact.norm() < tolerance


def test_the_kernels_are_what_runs(monkeypatch):
    """Without this, a fall-back to PyTorch operations would pass every test above."""
    inputs = CASES["gate"][1:]

    def refuse(*_):
        raise AssertionError("PyTorch operations were used")

    for name in ("open_source", "attend_step"):
        monkeypatch.setattr(torch_ops, name, refuse)
    steps(build("triton", gate=True), *inputs)
    with pytest.raises(AssertionError, match="PyTorch operations"):
        steps(build("triton", head_dim=24), *inputs)


def test_training_through_an_opened_source_is_left_to_pytorch():
    module = build("triton")
    encoder = torch.randn(20, 2, module.embed_dim, device=DEVICE, requires_grad=True)
    source = module.open_source(encoder, SourceContext(None), 4)
    assert source["memory"].requires_grad
