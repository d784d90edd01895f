"""Encoders for long sources, whose cost grows linearly with the length."""
