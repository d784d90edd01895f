"""Where a training's first NaN arises: fairseq makes the passes of an update again, and looks at every module."""

import sys
from collections.abc import Iterator

import torch
from fairseq.nan_detector import NanDetector

from .patching import wrap


def see_what_every_module_hands_back():
    """Let the passes that look for the first NaN come to their end, and name its module.

    ``nan_detector.py:55`` asks for PyTorch's old backward hooks. Those look for the first tensor of what a module
    returns, and end with "StopIteration" at the dictionary of lists that every transformer's encoder returns, in the
    first of the passes: neither "gradients are Nan/Inf" nor a module behind the encoder is heard of. Here a forward
    hook asks for the gradients of a module's inputs, which is what its backward pass gives; where one tensor goes into
    several modules, for the innermost and first. Not needed when a stock encoder can be called in a ``NanDetector``.
    """

    def make_wrapper(original):
        def add_hooks(self, module):
            asks, self.backward = self.backward, False
            original(self, module)  # those of the forward pass
            self.backward = asks
            if asks:
                self.fhooks.append(module.register_forward_hook(watch(self), with_kwargs=True))

        return add_hooks

    def watch(detector):
        def ask(module, inputs, named, output):
            for tensor in _tensors((inputs, named)):
                if tensor.requires_grad:
                    detector.bhooks.append(
                        tensor.register_hook(lambda gradient: detector.bhook_fn(module, (), gradient))
                    )

        return ask

    wrap(NanDetector, "add_hooks", make_wrapper)


def look_for_nans_with_the_same_dropout():
    """Make the passes that look for the first NaN with the random numbers of those that found one.

    ``trainer.py:996`` makes them with the generators as they are by then: with another dropout, or other layers left
    out (``--encoder-layerdrop``), the NaN may not come again. Each update begins with a seed (``:1371``), which the
    generator of PyTorch knows. Not needed when both passes draw the same numbers.
    """

    def make_wrapper(original):
        def __enter__(self):
            seed = torch.initial_seed()
            torch.default_generator.manual_seed(seed)
            if torch.cuda.is_initialized():
                torch.cuda.manual_seed_all(seed)
            return original(self)

        return __enter__

    wrap(NanDetector, "__enter__", make_wrapper)


def say_with_the_error_where_it_began():
    """Let the error that ends a training say what was found first.

    ``nan_detector.py:88`` logs it, and ``:44`` behind it the gradients of all parameters, thousands of lines. Not
    needed when the traceback ends with the module's name.
    """

    def noted(original):
        def _detect(self, tensor, name, backward):
            found = original(self, tensor, name, backward)
            if found is not None:
                vars(self).setdefault("srformer_first", found)
            return found

        return _detect

    def told(original):
        def __exit__(self, *of_the_passes):
            error, first = sys.exc_info()[1], vars(self).get("srformer_first")  # the trainer is about to raise it again
            if first is not None and isinstance(error, FloatingPointError) and hasattr(error, "add_note"):
                error.add_note(first)
            return original(self, *of_the_passes)

        return __exit__

    wrap(NanDetector, "_detect", noted)
    wrap(NanDetector, "__exit__", told)


def _tensors(given) -> Iterator[torch.Tensor]:
    """All tensors in the containers in which fairseq looks for a NaN."""
    if torch.is_tensor(given):
        yield given
    elif isinstance(given, (dict, list, tuple)):
        for part in given.values() if isinstance(given, dict) else given:
            yield from _tensors(part)
