"""The recurrent accumulate-and-fire (RAF) neuron (docs/attention.md, section 2).

One neuron per head and matrix entry integrates its input over the visited segments, leaks, and fires a
graded spike when its potential passes a threshold:

    U'_r = leak * U_{r-1} + X_r        leak first, then add
    z_r  = [U'_r / threshold - 1 > 0]  comparison, no gradient
    U_r  = U'_r - threshold * z_r      soft reset
    P_r  = relu(U'_r / threshold - 1)  graded, from the potential before the reset

`raf_step` is one step; `raf_scan` runs all steps with a backward pass of its own, which keeps one tensor
(the potentials U') instead of the four per step that autograd would keep.
"""

import torch
from torch import Tensor

# A threshold below this amplifies the potential more than a hundredfold and its own gradient, which goes with
# the inverse square, beyond what fp16 holds; at 0 it divides by zero. The paper starts at 0.1.
MIN_THRESHOLD = 1e-2


def straight_through_clamp(value: Tensor, low: float, high: float) -> Tensor:
    """Clamp `value` to [low, high] in the forward pass; the gradient passes unchanged.

    Values inside the interval are returned exactly. The gradient is not cut outside it, so that a
    parameter which an update pushed out can come back.
    """
    return value + (value.detach().clamp(low, high) - value.detach())


def constrain_threshold(threshold: Tensor) -> Tensor:
    """A threshold of at least `MIN_THRESHOLD`: 0 would divide by zero, less would invert the comparison."""
    return straight_through_clamp(threshold, MIN_THRESHOLD, float("inf"))


def constrain_leak(leak: Tensor) -> Tensor:
    """A leak factor in [0, 1]: above 1 the potential grows exponentially with the number of segments."""
    return straight_through_clamp(leak, 0.0, 1.0)


def raf_step(potential: Tensor, drive: Tensor, leak: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the neuron.

    Args:
        potential: U_{r-1}, any shape; zeros before the first step.
        drive: X_r, the same shape.
        leak, threshold: one element each.
    Returns:
        `(U_r, P_r)`: the potential after the soft reset, and the graded output.
    """
    charged = leak * potential + drive
    excess = charged / threshold - 1
    return charged - threshold * (excess > 0).to(charged.dtype), excess.relu()


class _RAFScan(torch.autograd.Function):
    """`raf_scan` with the hand-written backward pass of docs/attention.md, section 2."""

    @staticmethod
    def forward(ctx, drive: Tensor, leak: Tensor, threshold: Tensor) -> Tensor:
        potentials = drive.clone()  # becomes U'_1 ... U'_R
        carry = None  # U_{r-1}
        for step in potentials.unbind(2):
            if carry is not None:
                step.add_(carry * leak)
            carry = step - threshold * (step / threshold - 1 > 0).to(step.dtype)
        ctx.save_for_backward(potentials, leak, threshold)
        return (potentials / threshold).sub_(1).relu_()

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        potentials, leak, threshold = ctx.saved_tensors
        fired = (potentials / threshold - 1 > 0).to(potentials.dtype)
        # dP/dU' = z / threshold and dP/dthreshold = -z U' / threshold^2; no gradient through z
        grad_drive = grad_output * fired / threshold
        grad_threshold = -(grad_drive * potentials).sum() / threshold
        grad_leak = torch.zeros_like(leak)
        carry = None  # gradient with respect to U_r, the state after the reset
        for r in range(potentials.size(2) - 1, -1, -1):
            grad = grad_drive[:, :, r]
            if carry is not None:
                grad_threshold = grad_threshold - (carry * fired[:, :, r]).sum()
                grad.add_(carry)
            if r > 0:
                reset = potentials[:, :, r - 1] - threshold * fired[:, :, r - 1]
                grad_leak = grad_leak + (grad * reset).sum()
                carry = grad * leak
        return grad_drive, grad_leak, grad_threshold.reshape(threshold.shape)


def raf_scan_by_steps(drive: Tensor, leak: Tensor, threshold: Tensor) -> Tensor:
    """`raf_scan` as a loop over `raf_step` with autograd's own gradients: what it is compared with.

    `leak` and `threshold` may also have one value per entry of the state, (D, D).
    """
    potential = torch.zeros_like(drive[:, :, 0])
    spikes = []
    for step in drive.unbind(2):
        potential, emitted = raf_step(potential, step, leak, threshold)
        spikes.append(emitted)
    return torch.stack(spikes, 2)


def raf_scan(drive: Tensor, leak: Tensor, threshold: Tensor) -> Tensor:
    """Run the neuron over all segments, starting from potential 0.

    Args:
        drive: X of shape (B, H, R, D, D), R steps in the order the segments are visited; float32 or float64
            (the potential can reach five digits, which half precision does not hold).
        leak, threshold: tensors of one element, already constrained, of `drive`'s dtype.
    Returns:
        P of the shape and dtype of `drive`.
    """
    return _RAFScan.apply(drive, leak, threshold)
