"""What an optimizer does to all gradients at once, where fairseq goes from parameter to parameter.

fairseq's ``--clip-norm`` takes a norm of each (``utils.py:383``), and ``--bf16`` and ``--fp16`` set every gradient of
the float32 copy to zero in another loop (``optim/fp16_optimizer.py:212``). Line numbers: ve-fairseq 0.12.3.
"""

from torch.nn.utils import clip_grads_with_norm_, get_total_norm


class AllGradients:
    """Clips by one norm, and frees the gradients behind the step; to be named before an optimizer of fairseq's.

    Freed gradients leave forward and backward pass their memory: with `--bf16` and `--fp16` 4 bytes a parameter. Not
    those of flat parameters (a vector for each device): FP16Optimizer writes into them and sets them to zero without
    asking whether they are there. Nothing but vectors means those: a model has matrices.
    """

    def clip_grad_norm(self, max_norm, aggregate_norm_fn=None):
        """Clip the gradients to a norm of `max_norm` in all (0: do not) and return the norm they had, a scalar."""
        with_gradient = [p for p in self.params if p.grad is not None]
        is_special = aggregate_norm_fn is not None or any(hasattr(p, "expert") for p in with_gradient)
        if is_special or not with_gradient:
            return super().clip_grad_norm(max_norm, aggregate_norm_fn)
        norm = get_total_norm([p.grad for p in with_gradient])
        if max_norm > 0:
            clip_grads_with_norm_(with_gradient, max_norm, norm)
        return norm

    def step(self, closure=None, scale=1.0, groups=None):
        """Update the parameters and free their gradients."""
        super().step(closure, scale, groups)
        params = list(self.params)
        if any(p.dim() != 1 for p in params):
            for p in params:
                p.grad = None
