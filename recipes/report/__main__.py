"""`python -m recipes.report`."""

import sys

from recipes.report.command import main

sys.exit(main())
