"""The attention as fused Triton kernels for a GPU."""
