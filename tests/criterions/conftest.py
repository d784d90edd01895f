"""Tiny models and batches, as the models' own tests build them."""

from models.conftest import build_model_fixture, make_sample_fixture  # noqa: F401
