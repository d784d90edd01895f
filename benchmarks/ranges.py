"""Where the time of a training step goes: named ranges around parts of a model, forward and backward.

A range is opened and closed by identities that stand before and behind a part and do the same, the other way round, in
the backward pass, where autograd runs the part's operations between them. The profiler then says which operation
launched which kernel, and the innermost range around it takes its time.
"""

from collections import defaultdict
from functools import wraps

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._pytree import tree_flatten, tree_unflatten

PREFIX = "range: "


class _Border(torch.autograd.Function):
    """An identity of several tensors that calls a function in the backward pass."""

    @staticmethod
    def forward(ctx, on_backward, *tensors):
        ctx.on_backward = on_backward
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx, *gradients):
        ctx.on_backward()
        return (None, *gradients)


class _Range:
    """A `record_function` that opens and closes in calls of its own."""

    def __init__(self, name):
        self.name, self.open = PREFIX + name, None

    def begin(self):
        self.open = record_function(self.name)
        self.open.__enter__()

    def end(self):
        if self.open is not None:  # a part of which autograd entered only one border
            self.open.__exit__(None, None, None)
            self.open = None


def _with_border(on_backward, values):
    """`values`, nested as they may be, their tensors with gradients behind a border; each tensor once."""
    flat, structure = tree_flatten(values)
    tensors = {id(x): x for x in flat if isinstance(x, torch.Tensor) and x.requires_grad}
    if tensors and torch.is_grad_enabled():
        behind = dict(zip(tensors, _Border.apply(on_backward, *tensors.values())))
        flat = [behind.get(id(x), x) for x in flat]
    return tree_unflatten(flat, structure)


def ranged(name, function):
    """`function`, its operations and those of their gradients in the range `name`."""

    @wraps(function)
    def inside(*args, **kwargs):
        backward = _Range(name)
        args, kwargs = _with_border(backward.end, (args, kwargs))
        with record_function(PREFIX + name):
            output = function(*args, **kwargs)
        return _with_border(backward.begin, output)

    return inside


def mark(model, criterion):
    """Put ranges around the parts of a fairseq BART (or SRformer) and around the loss that `criterion` computes."""
    for layer in model.encoder.layers:
        layer.self_attn.forward = ranged("encoder self-attention", layer.self_attn.forward)
    for layer in model.decoder.layers:
        layer.self_attn.forward = ranged("decoder self-attention", layer.self_attn.forward)
        layer.encoder_attn.forward = ranged("cross-attention", layer.encoder_attn.forward)
    if hasattr(model.decoder, "project_source"):
        model.decoder.project_source = ranged("cross-attention", model.decoder.project_source)
    model.decoder.output_layer = ranged("vocabulary and loss", model.decoder.output_layer)
    criterion.compute_loss = ranged("vocabulary and loss", criterion.compute_loss)


def shares(step, device, calls=3):
    """Milliseconds of every range in one call of `step`, and of "rest": of kernels on a GPU, else of operations.

    Kernels do not overlap on one stream, so the sum is the time the device is busy, which may be less than the step's.
    """
    step()
    cuda = device == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    with profile(activities=activities) as profiler:
        for _ in range(calls):
            step()
        if cuda:
            torch.cuda.synchronize()
    microseconds = defaultdict(float)
    for event in profiler.events():
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue
        if cuda:  # the profiler also gives a range a "kernel" of its name, from its first kernel to its last
            own = sum(kernel.duration for kernel in event.kernels if not kernel.name.startswith(PREFIX))
        else:
            own = event.self_cpu_time_total
        if own:
            microseconds[_range_of(event)] += own
    return {name: round(total / 1000 / calls, 3) for name, total in sorted(microseconds.items(), key=lambda x: -x[1])}


def _range_of(event):
    """The innermost range around an event."""
    while event is not None:
        if event.name.startswith(PREFIX):
            return event.name.removeprefix(PREFIX)
        event = event.cpu_parent
    return "rest"
