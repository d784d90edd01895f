"""GPT-2 BPE of whole articles: data_prep.encode beside fairseq's multiprocessing_bpe_encoder, pairs a second.

    python -m benchmarks.bpe_encoding CORPUS GPT2_FILES --json benchmarks/results/bpe_encoding.json

CORPUS is a folder with train.source and train.target, GPT2_FILES the one with encoder.json and vocab.bpe. Both programs
run as a user runs them, from the start of Python to the last written file, in turn and several times; the fastest run
counts. Where a single byte of their outputs differs nothing is reported.
"""

import argparse
import filecmp
import importlib.metadata
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from benchmarks.rows import provenance, this_cpu, write_rows
from data_prep.text import SIDES

PEER = "fairseq multiprocessing_bpe_encoder"


def timed(command):
    """Run a command and return its seconds."""
    begin = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-4000:]}")
    return seconds


def ours(corpus, out, files, workers):
    """Seconds of data_prep.encode for the two files of `corpus`, with nothing cut."""
    return timed([
        sys.executable, "-m", "data_prep.encode", corpus, out, "--bpe", "gpt2", "--gpt2-files", files,
        "--max-source", "0", "--max-target", "0", "--workers", str(workers),
    ])  # fmt: skip


def theirs(corpus, out, files, workers):
    """Seconds of fairseq's encoder for the same two files, which it takes in one run."""
    out.mkdir()
    names = [f"train.{side}" for side in SIDES]
    return timed([
        sys.executable, "-m", "fairseq.examples.roberta.multiprocessing_bpe_encoder", "--keep-empty",
        "--encoder-json", files / "encoder.json", "--vocab-bpe", files / "vocab.bpe", "--workers", str(workers),
        "--inputs", *(corpus / name for name in names), "--outputs", *(out / name for name in names),
    ])  # fmt: skip


def measure(folder, files, lines, workers, repeats):
    """`(our seconds, their seconds, megabytes)`, the best of `repeats`; raises SystemExit where the outputs differ."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        for side in SIDES:
            with open(folder / f"train.{side}", "rb") as texts:
                chosen = list(islice(texts, lines))
            if len(chosen) < lines:
                raise SystemExit(f"{folder}/train.{side} has {len(chosen)} lines, fewer than --lines {lines}")
            (corpus / f"train.{side}").write_bytes(b"".join(chosen))
        best = {}
        for number in range(repeats):
            for name, run in (("ours", ours), ("theirs", theirs)):
                out = Path(scratch) / f"{name}{number}"
                best[name] = min(best.get(name, float("inf")), run(corpus, out, files, workers))
            for side in SIDES:
                encoded = (Path(scratch) / f"{name}{number}" / f"train.{side}" for name in ("ours", "theirs"))
                if not filecmp.cmp(*encoded, shallow=False):
                    raise SystemExit("the two encoders give different numbers: no time is reported")
        return best["ours"], best["theirs"], sum(path.stat().st_size for path in corpus.iterdir()) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder with train.source and train.target")
    parser.add_argument("files", type=Path, help="folder with encoder.json and vocab.bpe")
    parser.add_argument("--lines", type=int, nargs="+", default=[5000, 20000], help="how many pairs of it")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    options = parser.parse_args()
    measured_on = provenance(this_cpu())
    rows = []
    for lines in options.lines:
        our_seconds, their_seconds, megabytes = measure(
            options.corpus, options.files, lines, options.workers, options.repeats
        )
        rows.append(
            {
                "benchmark": "bpe_encoding",
                "case": {"pairs": lines, "megabytes": round(megabytes, 1), "workers": options.workers},
                "peer": PEER,
                "ours": lines / our_seconds,
                "theirs": lines / their_seconds,
                "unit": "pairs/s",
                "ratio": their_seconds / our_seconds,
                "same_ids": True,
                "tiktoken": importlib.metadata.version("tiktoken"),
                **measured_on,
            }
        )
        print(f"{lines:7} pairs  ours {rows[-1]['ours']:8.1f}  theirs {rows[-1]['theirs']:8.1f} pairs/s", flush=True)
    write_rows(rows, options.json)


if __name__ == "__main__":
    main()
