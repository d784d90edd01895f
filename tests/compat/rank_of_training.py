"""fairseq-train as one of several processes over gloo, with or without the mends of an update.

Run by a path: MENDED ("mended" or "stock") and fairseq-train's arguments.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fairseq_cli import train
from update_mends import leave_updates_to_fairseq

import srformer_plugin  # noqa: F401 (applies the mends)

if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    if kind == "stock":
        leave_updates_to_fairseq()
    sys.argv[1:] = arguments
    train.cli_main()
