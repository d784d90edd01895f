#!/usr/bin/env bash
# A plan of experiments: data and a start once, then every system with every seed, then one report. recipes/plans has
# plans; recipes/evidence/work.py has the commands, which --dry-run prints.
#
#   bash recipes/compare.sh --raw DATA --plan recipes/plans/tiny.toml --cpu
#
# Environment: PYTHON  an interpreter with the package installed (default: python)
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} PYTHONWARNINGS=${PYTHONWARNINGS-ignore}
exec "${PYTHON:-python}" -m recipes.evidence.compare "$@"
