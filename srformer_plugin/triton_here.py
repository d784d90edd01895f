"""Whether Triton can build and run kernels here.

Triton is imported only where something can run a kernel.
"""

import importlib.util
import logging
import os
import shutil
import subprocess
import sysconfig
from functools import lru_cache
from importlib import metadata

logger = logging.getLogger(__name__)

OLDEST_TRITON = (3, 6)  # what the kernels were run with, by the GPU and by the interpreter
PATIENCE = 60  # seconds for a compiler to read a header


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
def missing() -> str | None:
    """Why the kernels cannot even be imported, and what to do; None: they can."""
    version, series = triton_version(), triton_series()
    if series is not None and series >= OLDEST_TRITON:
        return None
    found = "it is not installed" if version is None else f"{version} is older"
    return f"Triton {'.'.join(map(str, OLDEST_TRITON))} or later is needed, and {found}: pip install -U triton"


def is_interpreted() -> bool:
    """Kernels run in Triton's interpreter, on the CPU (TRITON_INTERPRET=1 when Triton was imported)."""
    if not os.environ.get("TRITON_INTERPRET") or missing() is not None:
        return False
    import triton

    return triton.knobs.runtime.interpret


@lru_cache
def no_launchers() -> str | None:
    """What Triton lacks to build its launchers for a GPU, and how to get it; None: nothing.

    Triton compiles C code that includes Python.h with the compiler that CC names, else gcc, else clang (its
    `runtime/build.py`). Here the compiler only reads that header, some 30 ms, whichever way it finds it. Triton's cache
    is not asked: it may hold launchers, and lack the one that a call in the middle of a training needs.
    """
    compiler = os.environ.get("CC", next(filter(shutil.which, ("gcc", "clang")), None))
    if compiler is None:
        return "Triton needs a C compiler: apt-get install gcc python3-dev, or name one in the variable CC"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # Debian's own, as Triton does it
    include = sysconfig.get_path("include", scheme)
    words = [compiler, "-E", "-x", "c", f"-I{include}", "-o", os.devnull, "-"]
    try:
        done = subprocess.run(words, input="#include <Python.h>\n", capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return (
            f"Triton needs a C compiler, and CC={compiler!r} cannot be run ({error}): apt-get install gcc python3-dev "
            "and leave CC out, or name another"
        )
    if done.returncode == 0:
        return None
    said = next((line for line in done.stderr.splitlines() if "error" in line), f"exit status {done.returncode}")
    return (
        f"Triton needs Python's C headers, which {compiler} cannot read ({said.strip()}): apt-get install python3-dev, "
        "or name another compiler in the variable CC"
    )


def unusable() -> str | None:
    """Why no kernel can be run on this machine's GPU, or by the interpreter, and what to do; None: they can."""
    return missing() or (None if is_interpreted() else no_launchers())


@lru_cache
def can_run_on_gpu() -> bool:
    """Whether kernels run on this machine's GPU; a warning says once why they do not."""
    reason = unusable()
    if reason is not None:
        logger.warning(f"on the GPU PyTorch operations compute what Triton's kernels would compute faster: {reason}")
    return reason is None
