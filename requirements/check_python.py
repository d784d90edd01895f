"""Say in one sentence why this Python cannot host the package, before pip says it in fifty."""

# Runs on whatever Python it is asked about, so it is written for 2.7 as well.
# ruff: noqa: UP031

import platform
import sys

SUPPORTED = ((3, 11), (3, 12))


def problem(version, has_venv, system="Linux", machine="x86_64"):
    """Return what is wrong with an interpreter of this (major, minor) version, or None."""
    if (system, machine) != ("Linux", "x86_64"):
        return "fairseq for Python 3.11 and 3.12 exists for Linux on x86_64 only, not for %s on %s" % (
            system,
            machine,
        )
    if version not in SUPPORTED:
        return (
            "Python %d.%d is not supported: fairseq needs 3.11 or 3.12. "
            "Name one, for example: make venv PYTHON=python3.11" % version
        )
    if not has_venv:
        return "this Python lacks the venv module (on Debian: apt-get install python3-venv)"
    return None


def has_venv():
    """Whether `python -m venv` will get as far as installing pip."""
    try:
        import ensurepip  # noqa: F401  Debian ships venv without it, and venv then fails half-way
        import venv  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    message = problem(sys.version_info[:2], has_venv(), platform.system(), platform.machine())
    if message:
        sys.exit("%s: %s" % (sys.executable, message))
