"""Attention to segments chosen by content, by fused Triton kernels: for training, scoring and decoding on a GPU.

Beside every function of `attend` and `step` stands its twin in plain operations in `plain`, which tests compare with.
docs/kernels.md counts the bytes.
"""
