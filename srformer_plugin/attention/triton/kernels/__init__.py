"""Triton kernels of the segmented recurrent attention; `..triton_ops` launches them (benchmarks/notes_attention.md).

Importing a module of this package needs Triton.
"""
