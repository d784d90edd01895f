"""The device that a command is to compute on."""

import torch

from .errors import ConfigurationError


def usable_device(name: "str | torch.device") -> torch.device:
    """The device that `--device` names, after a sum on it.

    Raises:
        ConfigurationError: there is none of this name, or it holds no numbers (meta) or cannot compute.
    """
    try:
        device = torch.device(name)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigurationError(f"--device {name}: PyTorch sees no GPU here; use --device cpu")
        (torch.zeros(1, device=device) + 1).tolist()
    except ConfigurationError:
        raise
    # a name that PyTorch knows for a package that is missing: of that package, or of a module of torch
    except (RuntimeError, AssertionError, ImportError, AttributeError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0].rstrip("!.")
        raise ConfigurationError(
            f"--device {name} cannot be used: {reason}. Use --device cpu, or cuda where there is a GPU"
        ) from error
    return device
