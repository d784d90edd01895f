"""Faults in what benchmarks compare, that tests must notice."""

MUTANTS = [
    {
        "file": "benchmarks/ratios.py",
        "old": 'return json.dumps({**row["case"], "system": system}, sort_keys=True)',
        "new": "return system",
        "tests": "tests/benchmarks/test_decoding.py -k of_its_case",
    },
    {
        "file": "benchmarks/decoding.py",
        "old": "                if not (same and close):\n",
        "new": "                if False:\n",
        "tests": "tests/benchmarks/test_decoding.py -k something_else",
    },
]
