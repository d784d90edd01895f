"""`python -m srformer_plugin.scoring`: the same as `srformer-score`."""

import sys

from .cli import main

if __name__ == "__main__":  # worker processes import this file again
    sys.exit(main())
