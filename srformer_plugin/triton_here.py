"""Whether Triton can build and run kernels here.

Triton is imported only where something can run a kernel.
"""

import importlib.util
import os
from functools import lru_cache
from importlib import metadata

OLDEST_TRITON = (3, 6)  # what the kernels were run with, by the GPU and by the interpreter


def triton_version() -> str | None:
    """Of the installed Triton, which comes with PyTorch's CUDA wheels; None: there is none."""
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:  # built from source, or under another name
        import triton

        return triton.__version__


def triton_series() -> tuple[int, ...] | None:
    """The first two numbers of `triton_version`; None: there is none."""
    version = triton_version()
    return None if version is None else tuple(map(int, version.split(".")[:2]))


@lru_cache
def unusable() -> str | None:
    """Why no kernel can be built here; None: they can."""
    version, series = triton_version(), triton_series()
    if series is None:
        return "Triton is not installed"
    if series < OLDEST_TRITON:
        return f"Triton {version} is older than {'.'.join(map(str, OLDEST_TRITON))}"
    return None


def is_interpreted() -> bool:
    """Kernels run in Triton's interpreter, on the CPU (TRITON_INTERPRET=1 when Triton was imported)."""
    if not os.environ.get("TRITON_INTERPRET") or unusable() is not None:
        return False
    import triton

    return triton.knobs.runtime.interpret
