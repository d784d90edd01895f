"""Inputs for the fused kernels, what they give, and what is exact: for tests on a GPU and in Triton's interpreter."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from srformer_plugin.attention.method.memory import NoMemory, RAFMemory
from srformer_plugin.attention.method.reference import segmented_recurrent_attention
from srformer_plugin.attention.method.schedule import build_schedule
from srformer_plugin.attention.method.segments import SourceLayout
from srformer_plugin.attention.request import Request
from srformer_plugin.attention.settings import SegmentSettings
from srformer_plugin.attention.torch import attend as torch_ops
from srformer_plugin.attention.triton import support as triton_support
from srformer_plugin.attention.triton.exactness import by_entry, relative_error, scan_of_firing

triton = pytest.importorskip("triton")
if not torch.cuda.is_available() and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7):
    pytest.skip("Triton 3.6's interpreter fails beside NumPy 2.4", allow_module_level=True)

from srformer_plugin.attention.triton import attend as triton_ops  # noqa: E402 (needs Triton)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_GPU = pytest.mark.gpu
# Half inputs: states are kept in bfloat16 for the backward pass, fp16's as well, whose range they exceed.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
# Rounding error of products beside the clip, which are kept to 16 bits or more.
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 1e-4, torch.float16: 1e-4}
NAMES = ("query", "keys", "values", "W", "leak", "threshold", "gate")


class Case:
    """One set of inputs: sentences of `lengths` tokens in a source of `width`, padded on the sides `shifts` say."""

    def __init__(
        self,
        lengths,
        targets,
        segment_size,
        head_dim=16,
        heads=2,
        shifts=None,
        width=None,
        expected=None,
        dtype=torch.float32,
        clamp=2.0,
        gate=False,
        kind="srformer",
        masked=True,
        seed=1,
    ):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator)

        shifts = shifts or [0] * len(lengths)
        width = width or max(n + shift for n, shift in zip(lengths, shifts))
        self.lengths, self.segment_size, self.heads, self.dtype = lengths, segment_size, heads, dtype
        self.expected = expected or targets
        mask = torch.ones(len(lengths), width, dtype=torch.bool)
        for row, (n, shift) in enumerate(zip(lengths, shifts)):
            mask[row, shift : shift + n] = False
        self.mask = mask if masked else None
        settings = SegmentSettings(kv_clamp=clamp, memory_gate=gate)
        self.memory = (RAFMemory if kind == "srformer" else NoMemory)(heads, head_dim, settings)
        for parameter in self.memory.parameters():
            parameter.requires_grad_()
        if kind == "srformer":
            with torch.no_grad():
                self.memory.proj.weight.copy_(draw(head_dim, head_dim) * head_dim**-0.5)
                if gate:
                    self.memory.gate.copy_(draw(heads))
        self.memory = self.memory.to(dtype)
        self.query = (draw(len(lengths), heads, targets, head_dim) * head_dim**-0.5).to(dtype)
        self.keys, self.values = (draw(width, len(lengths), heads * head_dim).to(dtype) for _ in range(2))
        self.upstream = draw(len(lengths), heads, targets, head_dim).to(dtype)

    def _leaves(self, device, dtype, poison=0.0):
        tensors = [self.query, self.keys, self.values]
        if poison and self.mask is not None:
            tensors[1:] = [x.masked_fill(self.mask.T[:, :, None], poison) for x in tensors[1:]]
        inputs = [x.to(device, dtype).detach().clone().requires_grad_() for x in tensors]
        memory = type(self.memory)(self.heads, self.query.size(3), SegmentSettings(memory_gate=self._gated()))
        memory = memory.to(device, dtype)
        memory.load_state_dict(self.memory.state_dict())
        if hasattr(memory, "clamp"):
            memory.clamp = self.memory.clamp
        return inputs, memory

    def _gated(self):
        return getattr(self.memory, "gate", None) is not None

    def _results(self, output, inputs, memory, local=None):
        parameters = list(memory.parameters())
        names = list(NAMES[:3]) + [
            {"proj.weight": "W", "leak": "leak", "threshold": "threshold", "gate": "gate"}[name]
            for name, _ in memory.named_parameters()
        ]
        upstream = self.upstream.to(output.device, output.dtype)
        gradients = torch.autograd.grad(output, [*inputs, *parameters], upstream)
        results = {"output": output.detach(), **dict(zip(names, gradients))}
        if local is not None and self._gated():  # d tanh(gate) * recalled = (1 - tanh^2) / tanh * (output - local)
            tanh = memory.gate.detach().tanh().view(-1, 1, 1, 1)
            results["gate"] = (upstream * (output - local).detach()).transpose(0, 1) * (1 - tanh**2) / tanh
        return results

    def fused(self, dropout=0.0, poison=float("nan")):
        """Output and gradients by the kernels; padding holds NaN."""
        inputs, memory = self._leaves(DEVICE, self.dtype, poison)
        layout, plan = self.layout_and_plan(DEVICE)
        assert obstacle(inputs, layout, plan, memory) is None
        output, _ = triton_ops.attend_source(*inputs, layout, plan, memory, dropout)
        return self._results(output, inputs, memory)

    def layout_and_plan(self, device):
        mask = None if self.mask is None else self.mask.to(device)
        layout = SourceLayout(mask, len(self.lengths), self.keys.size(0), self.segment_size, device)
        return layout, build_schedule("fixed", self.expected).plan(layout, 0, self.query.size(2))

    @torch.no_grad()
    def firing(self, dtype=None):
        """Which neurons that are read fire, (B, H, R, D, D): by the kernels, or by PyTorch in float64."""
        (query, keys, values), memory = self._leaves(DEVICE, dtype or self.dtype)
        layout, plan = self.layout_and_plan(DEVICE)
        if dtype is None:
            return triton_ops.memory_states(query, keys, values, layout, plan, memory) > 0
        states = memory.encode(*(layout.split_heads(x, self.heads) for x in (keys, values)), layout, plan)
        read = torch.arange(states.size(2), device=DEVICE) <= plan.states.amax((1, 2, 3)).unsqueeze(1)
        return (states > 0) & read[:, None, :, None, None]

    def exact(self, by_torch=False, clamp=1.0, fired=None):
        """The same in float64 by the plain reference, or by its vectorised equal where the loops are too slow.

        The gradients of leak, threshold and gate come as terms of the sums that they are. `clamp`: a factor of the
        memory's; `fired`: which neurons fire, whatever their potentials are (with `by_torch`).
        """
        inputs, memory = self._leaves(DEVICE if by_torch else "cpu", torch.float64)
        by_entry(memory)
        if hasattr(memory, "proj"):
            memory.clamp = memory.clamp and memory.clamp * clamp
            memory.scan = memory.scan if fired is None else scan_of_firing(fired)
        if by_torch:
            layout, plan = self.layout_and_plan(DEVICE)
            output = torch_ops.attend_source(*inputs, layout, plan, memory)[0]
            local = torch_ops.attend_source(*inputs, layout, plan, NoMemory(self.heads, 0, None))[0]
            return self._results(output, inputs, memory, local)
        query, *sources = inputs
        real = torch.ones(len(self.lengths), self.keys.size(0), dtype=bool) if self.mask is None else ~self.mask
        packed = []
        for x in sources:
            rows = [x[real[b], b] for b in range(len(self.lengths))]
            x = torch.stack([F.pad(r, (0, 0, 0, max(self.lengths) - len(r))) for r in rows])
            packed.append(x.unflatten(2, (self.heads, -1)).transpose(1, 2))
        parameters = ()
        if hasattr(memory, "proj"):
            parameters = (memory.proj.weight, memory.leak, memory.threshold, memory.clamp)
        arguments = (query, *packed, self.lengths, self.segment_size, self.expected)
        output, local = (segmented_recurrent_attention(*arguments, *x) for x in (parameters, ()))
        if self._gated():
            output = local + (output - local) * memory.gate.tanh().view(1, -1, 1, 1)
        return self._results(output, inputs, memory, local)


def obstacle(inputs, layout, plan, memory, device=None, method="attend_source"):
    """What keeps the kernels from a call with these queries, keys and values."""
    heads = (inputs[0].size(1), inputs[0].size(3))
    request = Request.of(method, tuple(inputs), heads, layout, plan, memory)
    return triton_support.obstacle(replace(request, device=torch.device(device or request.device)))


def check(ours, exact, tolerance, upstream=None):
    for name, expected in exact.items():
        error = relative_error(ours[name], expected, expected if upstream is None else upstream)
        assert error < tolerance, f"{name}: {error:.2e}"


def check_case(case, tolerance, by_torch=False):
    """Every error is below `tolerance`, or as small as rounding allows.

    A neuron within rounding of its threshold fires or not, a product within rounding of the clip passes its gradient
    or not: whole entries of gradients hang on it. So the exact result is that of the neurons that fired (nearly all of
    which must), and an error is accepted as far as moving the clip by as much as rounding moves the result.
    """
    ours, exact = case.fused(), case.exact(by_torch)
    found = {name: relative_error(ours[name], exact[name], case.upstream) for name in exact}
    if not max(found.values()) < tolerance and hasattr(case.memory, "proj"):
        fired = case.firing()
        assert (fired != case.firing(torch.float64)).float().mean() < 1e-3
        exact = case.exact(by_torch=True, fired=fired)
        allowed = dict.fromkeys(found, 0.0)
        for factor in (1 - ROUNDING[case.dtype], 1 + ROUNDING[case.dtype]):
            for name, moved in case.exact(by_torch=True, clamp=factor, fired=fired).items():
                allowed[name] = max(allowed[name], relative_error(moved, exact[name], case.upstream))
        found = {name: relative_error(ours[name], exact[name], case.upstream) - allowed[name] for name in exact}
    for name, error in found.items():
        assert error < tolerance, f"{name}: {error:.2e}"
