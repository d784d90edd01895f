"""Faults in what benchmarks compare, that tests must notice."""

MUTANTS = [
    {
        "file": "benchmarks/training_step.py",
        "old": "        if unknown and attempt(",
        "new": "        if False and attempt(",
        "tests": "tests/benchmarks/test_training_long.py -k compared",
    },
    {
        "file": "benchmarks/encoders.py",
        "old": 'add_ratio(rows, "ratio_led", lambda _: LED)',
        "new": 'add_ratio(rows, "ratio_led", lambda system: system)',
        "tests": "tests/benchmarks/test_encoders.py -k peers_of_transformers",
    },
    {
        "file": "benchmarks/fits.py",
        "old": 'timed = [row for row in group if row["ours"]]',
        "new": "timed = group",
        "tests": "tests/benchmarks/test_long_document.py -k fails",
    },
    {
        "file": "benchmarks/long_document.py",
        "old": "count != options.tokens or len(encoder_seconds)",
        "new": "len(encoder_seconds)",
        "tests": "tests/benchmarks/test_long_document.py -k another_length",
    },
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
    {
        "file": "benchmarks/distributed.py",
        "old": 'COMPARED = {"loss": 0.01, "gnorm": 0.05}',
        "new": 'COMPARED = {"loss": 0.01}',
        "tests": "tests/benchmarks/test_distributed_benchmark.py -k other_models",
    },
    {
        "file": "srformer_plugin/tools/distributed_train.py",
        "old": 'str(world_size), "--distributed-rank", str(rank)',
        "new": 'str(world_size), "--distributed-rank", str(local_rank)',
        "tests": "tests/tools/test_distributed_train.py -k torchruns",
    },
]
