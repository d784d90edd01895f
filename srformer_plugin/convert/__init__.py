"""Checkpoints between Hugging Face folders and fairseq, and with another cross-attention: ``srformer-convert``.

Not imported by the plugin itself, but for `from_pretrained` where it is to change the attention.
"""
