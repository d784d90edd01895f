"""Optimizers for fairseq's trainer."""
