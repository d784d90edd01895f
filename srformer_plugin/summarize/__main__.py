"""`python -m srformer_plugin.summarize`: the same as `srformer-summarize`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
