"""Options, seeds and fixtures that the whole suite shares."""

import random

import numpy as np
import pytest
import torch


def pytest_addoption(parser):
    parser.addoption(
        "--golden",
        default=None,
        metavar="DIR",
        help="folder with more pairs of golden vectors (.json and .npz), checked like those of tests/golden",
    )


def pytest_configure(config):
    # The tensors of these tests are small: more threads cost more than they bring.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def seed():
    """Every test starts from the same random state, alone or in the suite."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
