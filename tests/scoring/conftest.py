"""Real system outputs, where they are at hand."""

import os
from pathlib import Path

import pytest

BESIDE_THE_CLONE = Path(__file__).resolve().parents[3] / "shared" / "formats"


@pytest.fixture
def sample_file():
    """Gives the path of a file in the folder of sample files; skips the test without it."""

    def find(*parts):
        path = Path(os.environ.get("SRFORMER_FORMATS") or BESIDE_THE_CLONE).joinpath(*parts)
        if not path.exists():
            pytest.skip(f"no {'/'.join(parts)}: set SRFORMER_FORMATS to the folder of sample files")
        return path

    return find
