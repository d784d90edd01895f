"""Beam search in tensors of fixed shapes: `FastSequenceGenerator`, chosen by `--fast-generate`."""

from .fast_generator import FastSequenceGenerator

__all__ = ["FastSequenceGenerator"]
