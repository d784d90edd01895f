"""Triton kernels of the segmented recurrent attention; `call.py` launches them (docs/kernels.md), and `..plain` says what each computes.

Importing a module of this package needs Triton.
"""
