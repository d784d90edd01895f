"""Triton kernels of the segmented recurrent attention; `call.py` launches them (docs/kernels.md).

Importing a module of this package needs Triton.
"""
