"""Plans of experiments: several systems adapted from one start, and one report of them all.

    bash recipes/compare.sh --raw DATA --plan recipes/plans/tiny.toml

`plan` reads a plan, `work` says which commands it takes, `compare` runs them, `cell` is one system with one seed,
`measures` reads what a cell has left, `cost` counts operations, `statistics` compares systems, `report` writes it down.
"""
