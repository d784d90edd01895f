"""Options, seeds and fixtures that the whole suite shares."""

import contextlib
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
import warm

if not torch.cuda.is_available():
    # Triton's kernels are interpreted where nothing can run them; it asks when it is imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parent.parent
USER_DIR = ROOT / "srformer_plugin"


def pytest_addoption(parser):
    parser.addoption(
        "--golden",
        default=None,
        metavar="DIR",
        help="folder with more pairs of golden vectors (.json and .npz), checked like those of tests/golden",
    )


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in its background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what tests start would ignore it too
    # The tensors of these tests are small: more threads cost more than they bring.
    torch.set_num_threads(1)
    # A first example pays for imports and caches, and a busy machine for its neighbours: neither is a fault.
    # Every run tries the same examples, so that a change is judged by what it changes.
    hypothesis.settings.register_profile("the same", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("the same")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def triton_asked_anew():
    """What is known of Triton here is found out again, in the test and behind it."""
    from srformer_plugin import triton_here

    caches = (triton_here.missing, triton_here.no_launchers, triton_here.can_run_on_gpu)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture(autouse=True)
def seed():
    """Every test starts from the same random state, alone or in the suite."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


@pytest.fixture
def full_disk():
    """Function (bytes) -> context in which no file of this process can be longer, as on a disk that is nearly full.

    Nor can pytest's own file be, to which fairseq's commands log where they were imported while pytest captured: what
    logging says of that on standard error is left out.
    """

    @contextlib.contextmanager
    def limit(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # the signal that comes with it is ignored by Python
        said, logging.raiseExceptions = logging.raiseExceptions, False
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            logging.raiseExceptions = said

    return limit


def run_fairseq(tool, *args, check=True, env=None, timeout=300, fresh=False):
    """Run a console script of fairseq ("train" is fairseq-train, ...) as a user would.

    It starts at once (tests/warm), or, with ``fresh``, in an interpreter of its own, which takes seconds.

    Returns the finished process; its ``stdout`` holds standard output and standard error together.
    Fails with that text when ``check`` is set and the exit status is not 0.
    """
    folder = Path(sys.executable).parent if fresh else warm.programs()
    command = [str(folder / f"fairseq-{tool}"), *map(str, args)]
    # The tensors are small here as well: one thread.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **(env or {})}
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment,
        timeout=timeout,
        cwd=ROOT,
    )
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(command)}\nexit status {done.returncode}\n{done.stdout}")
    return done


def run_side_by_side(*commands, timeout=240):
    """Run commands at once and return what each printed; the text of all of them is shown where one fails.

    The others are stopped then, which may wait for it, and so they are after `timeout` seconds.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    options = {"stderr": subprocess.STDOUT, "text": True, "env": environment, "cwd": ROOT, "start_new_session": True}
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        processes = [subprocess.Popen(command, stdout=log, **options) for command, log in zip(commands, logs)]
        deadline = time.monotonic() + timeout
        try:
            while None in (ends := [process.poll() for process in processes]) and time.monotonic() < deadline:
                if any(ends):
                    break
                time.sleep(0.05)
        finally:
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        texts = []
        for log in logs:
            log.seek(0)
            texts.append(log.read())
    assert ends == [0] * len(commands), f"exit statuses {ends}\n" + "\n".join(texts)
    return texts


@pytest.fixture
def train_in_process(monkeypatch, caplog):
    """fairseq-train in this process, which spares 5 seconds of imports: its arguments in, what it logged out."""
    from fairseq import checkpoint_utils
    from fairseq_cli import train

    def run(*arguments):
        vars(checkpoint_utils.save_checkpoint).pop("best", None)  # the best score of the process, from another training
        monkeypatch.setenv("SRFORMER_TRACEBACK", "1")  # errors as exceptions
        monkeypatch.setattr(sys, "argv", ["fairseq-train", *map(str, arguments)])
        caplog.clear()
        with caplog.at_level(logging.INFO):
            train.cli_main()
        return caplog.text

    return run


@pytest.fixture(scope="session", name="run_fairseq")
def run_fairseq_fixture():
    """:func:`run_fairseq`, for test files that need not import this one."""
    return run_fairseq


WHO = ["the city council", "a team of engineers", "the museum", "our neighbour", "the ferry company"]
WHO += ["a young violinist", "the school board", "the weather service"]
DID = ["opened a new bridge", "repaired the old clock", "cancelled the evening concert"]
DID += ["planted forty lime trees", "published a map of the coast", "raised the price of tickets"]
DID += ["found a lost painting"]
WHEN = ["on Monday morning", "after two years of work", "during the storm", "at the end of May"]
WHY = [
    "People had asked for it for a long time , and many came to watch .",
    "Nobody was hurt , but the traffic stood still for several hours .",
    "It cost less than the first estimate of 3,500 euros .",
    "A spokeswoman said that more details would follow next week .",
    "Some residents are still not happy with the decision .",
]


def sentence_pairs(count, seed):
    """Return ``count`` different (article, summary) pairs of tokenised English."""
    rng = random.Random(seed)
    pairs = {}
    while len(pairs) < count:
        who, did, when = rng.choice(WHO), rng.choice(DID), rng.choice(WHEN)
        details = " ".join(rng.sample(WHY, rng.randint(1, 4)))
        source = f"{who[0].upper()}{who[1:]} {did} {when} . {details}"
        pairs[source] = f"{who} {did} ."
    return list(pairs.items())


@dataclass(frozen=True)
class Corpus:
    """A parallel corpus on disk: ``raw/SPLIT.{source,target}`` and what fairseq-preprocess made of it."""

    raw: Path
    binarised: Path
    sizes: dict

    def lines(self, split, side):
        """Return the lines of one raw file, ``side`` being "source" or "target"."""
        return (self.raw / f"{split}.{side}").read_text(encoding="utf-8").splitlines()


def make_corpus(folder, sizes, pairs):
    """Write (source, target) pairs to the splits of ``sizes`` in order, and run fairseq-preprocess over them.

    Several test splits are called test, test1, ...; both sides share one dictionary.
    """
    corpus = Corpus(folder / "raw", folder / "binarised", sizes)
    corpus.raw.mkdir()
    for split, size in sizes.items():
        chosen, pairs = pairs[:size], pairs[size:]
        assert len(chosen) == size
        for side, column in (("source", 0), ("target", 1)):
            text = "".join(pair[column] + "\n" for pair in chosen)
            (corpus.raw / f"{split}.{side}").write_text(text, encoding="utf-8")
    tests = sorted(split for split in sizes if split.startswith("test"))
    run_fairseq(
        "preprocess", "--source-lang", "source", "--target-lang", "target", "--joined-dictionary",
        "--trainpref", corpus.raw / "train", "--validpref", corpus.raw / "valid",
        "--testpref", ",".join(str(corpus.raw / split) for split in tests),
        "--destdir", corpus.binarised, "--workers", 1,
    )  # fmt: skip
    return corpus


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """40 training, 9 validation and 11 test pairs.

    Neither 9 nor 11 is a multiple of 8, fairseq's default batch size multiple. A second test split,
    ``test1``, holds 5 pairs.
    """
    sizes = {"train": 40, "valid": 9, "test1": 5, "test": 11}
    pairs = sentence_pairs(sum(sizes.values()), seed=7)
    return make_corpus(tmp_path_factory.mktemp("corpus"), sizes, pairs)
