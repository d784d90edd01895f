"""Deliberate faults, and the tests that must notice them: `python -m tests.mutants` (`make mutants`).

Every module here has a list `MUTANTS`; an entry is a dictionary:

    file   the source, from the repository's root
    old    text that stands in it exactly once
    new    the fault, which takes its place
    tests  pytest's arguments that select the tests which must fail, in one string
"""
