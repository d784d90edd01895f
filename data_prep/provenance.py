"""What a result was made with: `sha256_of` a file, `versions` of packages."""

import hashlib
import platform
from importlib import metadata


def sha256_of(path) -> str:
    """The checksum of a file's content, in hexadecimal."""
    checksum = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            checksum.update(block)
    return checksum.hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, of this package and of `packages`; one that is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in ("srformer-plugin", *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
