"""Triton kernels of the segmented recurrent attention; `call.py` launches them (docs/kernels.md).

`..plain` has a plain twin of each. Importing a module of this package needs Triton.
"""
