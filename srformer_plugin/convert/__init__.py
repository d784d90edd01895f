"""Checkpoints between Hugging Face folders and fairseq: ``srformer-convert``.

Not imported by the plugin itself, which needs none of it.
"""
