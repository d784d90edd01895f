"""Turns on a device that several runs share: when a stage may begin, and whether one failed for want of memory."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from recipes.books.book import say
from recipes.evidence.plan import PlanError

FREE_GB, SHARE = 12, 0.25  # free before a stage begins beside others: so much, or this share of a smaller device
TAKEN = 0.1  # share of a device's memory that is taken where other programs than ours are at work
SETTLE = 60  # seconds until a stage that has begun holds the memory that it needs
POLL = 5  # seconds between two looks at the memory
TAIL = 1 << 16  # bytes at the end of a log, where the reason of a failure stands

# What a process prints that got no memory of the device, and who says so:
WANT = re.compile(
    "|".join(
        (
            r"CUDA out of memory",  # PyTorch's allocator (c10/cuda/CUDACachingAllocator.cpp)
            r"CUDA (driver )?error: out of memory",  # CUDA itself, asked by PyTorch: a context, a graph, a kernel
            r"CUBLAS_STATUS_ALLOC_FAILED",  # cublasCreate, and workspaces of cuBLAS
            r"CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",  # the same on a device that is full
            r"CUDNN_STATUS_\w*ALLOC\w*_FAILED",  # cuDNN
            r"Expected mha_graph\.execute",  # PyTorch's call of cuDNN's attention (ATen/native/cudnn/MHA.cpp)
            r"Triton Error \[CUDA\]: out of memory",  # Triton's launcher: a kernel that is loaded, its scratch
        )
    )
)
# fairseq/trainer.py: a training on one device leaves out the batch that found no memory, and goes on.
SKIPPED = "attempting to recover from OOM in forward/backward pass"


def wants_memory(log):
    """Whether the end of a stage's log says that the device had no memory left for it."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        text = file.read().decode(errors="replace")
    return bool(WANT.search(text))


def skipped_batches(log):
    """How many batches a training left out for want of memory, as its log says."""
    with open(log, encoding="utf-8", errors="replace") as lines:
        return sum(SKIPPED in line for line in lines)


def visible_devices():
    """The names in CUDA_VISIBLE_DEVICES; none where it does not choose."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in visible.split(",")] if visible else []


def visible_device():
    """The device that a process sees first, as nvidia-smi takes it. CUDA may count unlike cards in another order."""
    return next(iter(visible_devices()), "") or "0"


def devices_of_runs(gpus):
    """The variables by which a program sees one of so many GPUs, a dictionary for each; one: all that is visible.

    Raises:
        PlanError: there are fewer.
    """
    if gpus == 1:
        return [{}]
    import torch  # takes seconds

    if (seen := torch.cuda.device_count()) < gpus:
        raise PlanError(f"--gpus {gpus}, but PyTorch sees {seen}: give as many as there are")
    names = visible_devices() or map(str, range(gpus))
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names][:gpus]


def device_memory():
    """`(free, total)` of the device in GB; None where nvidia-smi does not tell. PyTorch would take memory to ask."""
    if shutil.which("nvidia-smi") is None:
        return None
    words = ["nvidia-smi", "-i", visible_device(), "--query-gpu=memory.free,memory.total"]
    try:
        done = subprocess.run(
            [*words, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=30, check=True
        )
        free, total = (float(word) * 2**20 / 1e9 for word in done.stdout.split(","))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return free, total


class Turns:
    """The turns of a process on the device, which all plans of a user on this machine keep in one file.

    Args:
        free_gb: free memory to wait for while others are at work; None: `FREE_GB`, or `SHARE` of a smaller device.
        path: of the file; None: one per device in the folder for temporary files.
        memory, clock, sleep: as `device_memory`, `time.time` and `time.sleep`.

    Attributes:
        beside: whether another stage was at work during some of the last turn, or another program at its beginning.
    """

    def __init__(self, free_gb=None, path=None, memory=device_memory, clock=time.time, sleep=time.sleep):
        name = f"srformer-compare-{os.getuid()}-{re.sub(r'[^A-Za-z0-9-]', '_', visible_device())}.json"
        self.path = path or Path(tempfile.gettempdir()) / name
        self.free_gb, self.memory, self.clock, self.sleep = free_gb, memory, clock, sleep
        self.beside = False

    @contextlib.contextmanager
    def turn(self, name):
        """Within it stage `name` is at work on the device. Waits for memory, but only while another one is at work."""
        waits = False
        while (lacking := self._begin()) is not None:
            if not waits:
                say(f"{name}: waits until {lacking[1]:.1f} GB of the device's memory are free, now {lacking[0]:.1f}")
            waits = True
            self.sleep(POLL)
        try:
            yield
        finally:
            with self._entries() as entries:
                self.beside = entries.pop(str(os.getpid()), {}).get("beside", False)

    def _begin(self):
        """Enter this process and return None; or return `(free, needed)` GB where it has to wait."""
        now = self.clock()
        with self._entries() as others:
            found = self.memory()
            needed = self._needed(found)
            # those that have just begun have not taken yet what is theirs
            promised = sum(other["needed"] for other in others.values() if now - other["began"] < SETTLE)
            if others and found is not None and found[0] - promised < needed:
                return max(0.0, found[0] - promised), needed
            for other in others.values():
                other["beside"] = True
            beside = bool(others) or (found is not None and found[0] < (1 - TAKEN) * found[1])
            others[str(os.getpid())] = {"began": now, "needed": needed, "beside": beside}
        return None

    def _needed(self, found):
        if self.free_gb is not None:
            return self.free_gb
        return FREE_GB if found is None else min(FREE_GB, SHARE * found[1])

    @contextlib.contextmanager
    def _entries(self):
        """`{process: entry}` of those at work, written back at the end; nobody else has the file meanwhile."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                entries = json.loads(file.read())
            except ValueError:  # new, or cut short
                entries = {}
            entries = {process: entry for process, entry in entries.items() if _alive(int(process))}
            yield entries
            file.seek(0)
            file.truncate()
            json.dump(entries, file)


def _alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
