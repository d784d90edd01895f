"""Measurements: each script checks what it measures, prints a table and writes JSON below `results/`."""
