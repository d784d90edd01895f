"""What a training has logged and saved."""

import re

import torch


def logged(log, name):
    """A number after every update, as logged."""
    return [float(x) for x in re.findall(rf"train_inner:progress_bar.*? {name}=([0-9.naif]+),", log)]


def load(folder):
    """The last checkpoint in `folder`."""
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)
