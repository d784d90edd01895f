"""fairseq-train that writes down where the time of its updates goes; benchmarks/training_profile.py runs it.

    python -m benchmarks.profiled_training REPORT.json WARM_UP UPDATES ARGUMENT...

ARGUMENTs are fairseq-train's, less --max-update. It may be one of the processes that torchrun starts; the first writes
the report. An update is cut into consecutive segments, from the wait for its batch to the wait for the next one's, each
timed by the clock and, on a GPU, by events of the device's stream: what the stream needs for a segment, its waiting for
launches included. The host's time of a segment in which it waits for the device holds what was launched before.

After the timed updates their last batches go through the bare step: forward pass, loss, backward pass, clipping and
optimizer, the batches on the device already, nothing logged, no other process asked. Then a few updates are looked at
by PyTorch's profiler, after which launches take longer (how long the device is busy, how many numbers the host reads
from tensors), and a few with `torch.cuda.set_sync_debug_mode` (where the host waits for the device).
"""

import json
import os
import statistics
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from contextlib import contextmanager
from pathlib import Path

import torch
from fairseq.data import iterators
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer
from fairseq_cli import train as fairseq_train

from data_prep.whole import write_json
from srformer_plugin.compat.transfers import HostCopy
from srformer_plugin.tools.distributed_train import distributed_arguments

PROFILED, WATCHED = 4, 3  # updates under the profiler and in the debug mode
KEPT = 30  # batches for the bare step
OTHER = "other"
# fairseq's own ranges -> segments
RANGES = {
    "forward": "forward",
    "backward": "backward",
    "reduce-grads": "gradients' copies",
    "multiply-grads": "clipping",
    "clip-grads": "clipping",
    "optimizer": "optimizer",
}
CHECKS = "checks of the norm"  # and wherever the host reads from the device what it sent for: it waits there
METHODS = {  # of fairseq's trainer -> segments
    "_prepare_sample": "to the device",
    "zero_grad": "zero_grad",
    "_aggregate_logging_outputs": "statistics of all processes",
    "_check_grad_norms": CHECKS,
    "_reduce_and_log_stats": "logging",
}
SEGMENTS = ["data", *dict.fromkeys([*METHODS.values(), *RANGES.values()]), "all-reduce", OTHER]


class Timeline:
    """The segments of every update, as (name, time it begins, event or None), and what comes after the timed ones."""

    def __init__(self, warm_up: int, updates: int):
        self.begin, self.end = warm_up, warm_up + updates
        self.last = self.end + PROFILED + WATCHED
        self.cuda = torch.cuda.is_available()
        self.number = -1  # of the update
        self.current = OTHER
        self.marks = []
        self.kept, self.trainer, self.bare = [], None, None  # batches, and the bare step's time
        self.profiler, self.busy, self.waits = None, {}, Counter()

    def enter(self, name: str) -> None:
        """End the current segment and begin another."""
        self.current = name
        if self.begin <= self.number <= self.end:
            event = torch.cuda.Event(enable_timing=True) if self.cuda else None
            if event is not None:
                event.record()
            self.marks.append((self.number, name, time.perf_counter(), event))

    @contextmanager
    def segment(self, name: str, then: str | None = None):
        """A segment; afterwards `then`, or what was before."""
        before = self.current
        self.enter(name)
        yield
        self.enter(then or before)

    def next_update(self) -> None:
        """Called before the wait for a batch."""
        self.number += 1
        self.enter("data")
        if self.number == self.end:
            self._synchronize()
            self.bare = bare_step(self.trainer, self.kept)
            activities = [torch.profiler.ProfilerActivity.CPU]
            activities += [torch.profiler.ProfilerActivity.CUDA] if self.cuda else []
            self.profiler = torch.profiler.profile(activities=activities)
            self.profiler.__enter__()
        elif self.number == self.end + PROFILED:
            self._synchronize()
            self.profiler.__exit__(None, None, None)
            self.busy = _busy(self.profiler)
            if self.cuda:
                torch.cuda.set_sync_debug_mode("warn")
                warnings.simplefilter("always")
                warnings.showwarning = self._count_wait
        elif self.number == self.last and self.cuda:
            torch.cuda.set_sync_debug_mode("default")

    def _synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def _count_wait(self, message, *_):
        if "synchronizing CUDA operation" in str(message):
            frames = [f for f in traceback.extract_stack()[:-1] if Path(f.filename).stem != "warnings"]
            own = [f for f in frames if "/torch/" not in f.filename] or frames
            self.waits[f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}"] += 1

    def report(self) -> dict:
        """Median milliseconds of an update and of each segment in one, by the host's clock and the device's events."""
        self._synchronize()
        hosts, devices = defaultdict(lambda: defaultdict(float)), defaultdict(lambda: defaultdict(float))
        for (number, name, start, event), (_, _, end, next_event) in zip(self.marks, self.marks[1:]):
            if number < self.end:
                hosts[number][name] += 1000 * (end - start)
                if self.cuda:
                    devices[number][name] += event.elapsed_time(next_event)
        report = {"host": _medians(hosts), "device": _medians(devices) if self.cuda else None}
        waits = {where: round(count / WATCHED, 2) for where, count in self.waits.most_common()}
        report |= {"synchronisations": round(sum(waits.values()), 2) if self.cuda else None, "where": waits}
        return {**report, **self.busy, "updates": len(hosts)}


def _medians(updates: dict) -> dict:
    """Of the sums of all updates ("update") and of every segment, 0 where an update has none of it."""
    whole = statistics.median(sum(parts.values()) for parts in updates.values())
    parts = {name: statistics.median(parts.get(name, 0.0) for parts in updates.values()) for name in SEGMENTS}
    return {"update": whole, **parts}


def _busy(profiler) -> dict:
    """Of an update: milliseconds of the device's kernels, of those that talk to other processes, numbers read."""
    busy = talking = reads = 0.0
    for event in profiler.events():
        if event.name == "aten::_local_scalar_dense":
            reads += 1
        if event.device_type == torch.autograd.DeviceType.CPU:
            for kernel in event.kernels:
                if "nccl" in kernel.name.lower():
                    talking += kernel.duration
                else:
                    busy += kernel.duration
    cuda = torch.cuda.is_available()
    return {
        "busy": round(busy / 1000 / PROFILED, 3) if cuda else None,
        "nccl": round(talking / 1000 / PROFILED, 3) if cuda else None,
        "numbers_read": reads / PROFILED,
    }


def watch(timeline: Timeline) -> None:
    """Put the borders of segments into fairseq's trainer, its iterator and its ranges."""
    take, step = iterators.GroupedIterator.__next__, Trainer.train_step
    record, reduce = torch.autograd.profiler.record_function, distributed_utils.all_reduce

    def __next__(self):
        timeline.next_update()
        samples = take(self)
        timeline.enter(OTHER)
        return samples

    def train_step(self, samples, *args, **kwargs):
        timeline.trainer = self
        if timeline.end - KEPT <= timeline.number < timeline.end:
            timeline.kept += [sample for sample in samples if sample]
        return step(self, samples, *args, **kwargs)

    def record_function(name, *args):
        if name not in RANGES:
            return record(name, *args)
        return timeline.segment(RANGES[name], CHECKS if name == "clip-grads" else OTHER)

    def all_reduce(*args, **kwargs):
        with timeline.segment("all-reduce"):
            return reduce(*args, **kwargs)

    def watched(segment, method):
        def call(self, *args, **kwargs):
            with timeline.segment(segment):
                return method(self, *args, **kwargs)

        return call

    iterators.GroupedIterator.__next__ = __next__
    Trainer.train_step = train_step
    torch.autograd.profiler.record_function = record_function
    distributed_utils.all_reduce = all_reduce
    HostCopy.read = watched(CHECKS, HostCopy.read)  # behind the optimizer's launch, where it can be
    for name, segment in METHODS.items():
        setattr(Trainer, name, watched(segment, getattr(Trainer, name)))


def bare_step(trainer, batches: list) -> float:
    """Median milliseconds of a step that does nothing but train, one after the other, on batches of the device."""
    model, criterion, optimizer = trainer.get_model(), trainer.get_criterion(), trainer.optimizer
    batches = [trainer._prepare_sample(batch)[0] for batch in batches]
    model.train()
    ends = []
    for batch in [batches[0], *batches]:
        optimizer.zero_grad()
        loss, size, _ = criterion(model, batch)
        optimizer.backward(loss)
        optimizer.multiply_grads(1 / size)
        optimizer.clip_grad_norm(trainer.cfg.optimization.clip_norm)
        optimizer.step()
        if trainer.cuda:
            ends.append(torch.cuda.Event(enable_timing=True))
            ends[-1].record()
        else:
            ends.append(time.perf_counter())
    if trainer.cuda:
        torch.cuda.synchronize()
        steps = [first.elapsed_time(second) for first, second in zip(ends, ends[1:])]
    else:
        steps = [1000 * (second - first) for first, second in zip(ends, ends[1:])]
    return statistics.median(steps)


def main() -> None:
    report_path, warm_up, updates, *arguments = sys.argv[1:]
    timeline = Timeline(int(warm_up), int(updates))
    arguments += ["--max-update", str(timeline.last + 1)]
    if "RANK" in os.environ:
        arguments = distributed_arguments(arguments, os.environ)
    sys.argv[1:] = arguments
    watch(timeline)
    fairseq_train.cli_main()
    report = timeline.report()
    if report["updates"] != int(updates):
        sys.exit(f"error: {report['updates']} updates instead of {updates} were timed")
    batches = timeline.kept
    report["bare"] = timeline.bare
    report["articles"] = statistics.mean(batch["nsentences"] for batch in batches)
    report["source"] = round(statistics.mean(batch["net_input"]["src_tokens"].size(1) for batch in batches))
    report["peak_mib"] = round(torch.cuda.max_memory_reserved() / 2**20) if timeline.cuda else None
    if int(os.environ.get("RANK", 0)) == 0:
        write_json(Path(report_path), json.loads(json.dumps(report)))


if __name__ == "__main__":
    main()
