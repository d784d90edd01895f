"""Runs that share a device: their turns, and another try for those that got none of its memory."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from recipes.books import Command, Stage
from recipes.books.errors import BookError, Interrupted
from recipes.evidence import compare, runs
from recipes.evidence.device import SETTLE, Turns, device_memory, devices_of_runs, wants_memory
from recipes.evidence.options import parser, place_of
from recipes.evidence.plan import PlanError, read_plan
from recipes.evidence.report import collect
from recipes.evidence.runs import AGAIN, run_cell, run_shared, run_tries

TINY = Path(__file__).resolve().parents[3] / "recipes/plans/tiny.toml"
FULL = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


# ---- what a log says ----


@pytest.mark.parametrize(
    ("line", "wants"),
    [
        (FULL, True),
        ("RuntimeError: CUDA error: out of memory", True),
        ("torch.AcceleratorError: CUDA error: out of memory", True),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", True),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("RuntimeError: Expected mha_graph.execute(handle, variant_pack, p).is_good() to be true, but got false", True),
        ("RuntimeError: Triton Error [CUDA]: out of memory", True),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", False),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`", False),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory", False),
        ("FloatingPointError: gradients are Nan/Inf", False),
    ],
)
def test_a_log_tells_whether_the_devices_memory_was_wanting(tmp_path, line, wants):
    log = tmp_path / "generate.log"
    log.write_text("begun\n" * 20000 + f"Traceback (most recent call last):\n{line}\n")
    assert wants_memory(log) is wants


def test_what_a_log_said_long_before_its_end_counts_for_nothing(tmp_path):
    log = tmp_path / "train.log"
    log.write_text(f"{FULL}\n" + "update\n" * 20000 + "Killed\n")
    assert not wants_memory(log)


# ---- turns ----


class Device:
    """A device's memory, and a clock that waiting moves."""

    def __init__(self, path, free, total=80.0):
        self.path, self.free, self.total, self.now, self.slept = path, free, total, 1000.0, 0
        self.on_sleep = lambda: None

    def turns(self, free_gb=None):
        return Turns(free_gb, self.path, lambda: self.free and (self.free, self.total), lambda: self.now, self._sleep)

    def _sleep(self, seconds):
        self.now, self.slept = self.now + seconds, self.slept + 1
        assert self.slept < 100, "waits for ever"
        self.on_sleep()

    def others(self, *ages):
        """Enter stages of other processes, which began so many seconds ago; the parent's number is one that lives."""
        entries = {str(os.getppid()): {"began": self.now - age, "needed": 12.0, "beside": False} for age in ages}
        self.path.write_text(json.dumps(entries))

    def entries(self):
        return json.loads(self.path.read_text())


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path / "device.json", free=5.0)


def test_a_stage_waits_while_another_has_the_memory_and_says_so_once(device, capsys):
    device.others(SETTLE)

    def ends():
        if device.slept == 3:
            device.free = 12.5

    device.on_sleep = ends
    turns = device.turns()
    with turns.turn("generate"):
        assert device.slept == 3
    assert turns.beside
    said = capsys.readouterr().out
    assert said.count("generate: waits until 12.0 GB of the device's memory are free, now 5.0") == said.count("\n") == 1


def test_nothing_waits_alone(device):
    turns = device.turns(free_gb=1000)
    with turns.turn("train"):
        assert list(device.entries()) == [str(os.getpid())]
    assert device.slept == 0 and device.entries() == {}


@pytest.mark.parametrize(("free", "beside"), [(79.0, False), (40.0, True)])
def test_a_program_that_takes_no_turns_is_seen_by_the_memory_that_it_has(device, free, beside):
    device.free = free
    turns = device.turns()
    with turns.turn("train"):
        pass
    assert turns.beside is beside


def test_a_process_that_has_ended_keeps_nothing(device):
    device.others(SETTLE)
    gone = 2**22 + 1  # more than a process's number can be
    device.path.write_text(device.path.read_text().replace(str(os.getppid()), str(gone)))
    turns = device.turns()
    with turns.turn("train"):
        assert list(device.entries()) == [str(os.getpid())]
    assert device.slept == 0


def test_a_stage_that_has_just_begun_will_take_its_memory(device):
    device.free = 20.0
    device.others(SETTLE - 7)
    with device.turns().turn("train"):
        assert device.slept == 2  # twice POLL: then what is free is what the other has left
    device.free = 24.0
    device.others(0)
    with device.turns().turn("train"):
        assert device.slept == 2


@pytest.mark.parametrize(("free_gb", "total", "free"), [(None, 20.0, 5.0), (0, 80.0, 0.1), (5, 80.0, 5.0)])
def test_what_must_be_free_is_an_option_and_a_share_of_a_small_device(device, free_gb, total, free):
    device.free, device.total = free, total
    device.others(SETTLE)
    with device.turns(free_gb).turn("generate"):
        assert device.slept == 0


def test_a_device_that_does_not_tell_its_memory_makes_nobody_wait(device):
    device.free = None
    device.others(SETTLE)
    with device.turns().turn("generate"):
        assert device.slept == 0


def test_a_stage_learns_that_another_came_beside_it(device):
    turns = device.turns()
    with turns.turn("train"):
        entries = device.entries()
        entries[str(os.getppid())] = entries.pop(str(os.getpid()))  # seen from the other's process
        device.path.write_text(json.dumps(entries))
        device.free = 50.0
        device.turns()._begin()
        assert device.entries()[str(os.getppid())]["beside"]


def test_the_memory_is_what_nvidia_smi_says(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\n[ "$2" = 3 ] && echo "1000, 2000"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    assert device_memory() == pytest.approx((1.048576, 2.097152))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")  # the program fails
    assert device_memory() is None


# ---- a run ----


@pytest.fixture
def place(tmp_path, monkeypatch, device):
    """The tiny plan's first system with stages of `sh` on a device: `fail` makes its decoding print that and fail."""
    plan = read_plan(TINY)
    options = parser().parse_args(
        ["--raw", str(tmp_path), "--plan", str(TINY), "--out", str(tmp_path / "out")]
        + ["--cell", "full.1", "--after", "data"]
    )
    found = SimpleNamespace(plan=plan, options=options, place=place_of(options), fail="", train="")
    folder = found.place.cell(plan.cells[1])

    def stages(plan, place, cell):
        decode = f"echo '{found.fail}'; exit 1" if found.fail else "echo decoded"
        scripts = {"train": found.train + f" echo trained >> {folder}/times", "generate": decode, "score": "true"}
        return [
            Stage(name, [Command(["sh", "-c", script])], after=["start"] if name == "train" else None)
            for name, script in scripts.items()
        ]

    found.run = lambda: run_cell(options, plan, found.place)
    found.times = lambda: (folder / "times").read_text().count("trained")
    found.folder, found.device, device.free = folder, device, device.total
    monkeypatch.setattr(runs, "cell_stages", stages)
    monkeypatch.setattr(runs, "turns_of", lambda options: device.turns(free_gb=0))
    return found


def _once_failed(place, **changes):
    """Let the decoding fail once, then mend it; commands change, so `--changed redo` lets them."""
    vars(place).update(changes)
    status = place.run()
    place.fail, place.train = "", ""
    place.options.changed = "redo"
    return status


def test_a_run_that_others_left_no_memory_asks_for_another_try_and_keeps_its_training(place):
    place.device.others(SETTLE)
    assert _once_failed(place, fail=FULL) == AGAIN
    assert collect(place.plan, place.place)[1].missing == [(1, ["generate", "score"])]
    place.device.path.unlink()
    assert place.run() == 0
    assert place.times() == 1
    assert {path.stem for path in (place.folder / ".stages").glob("*.json")} == {"train", "generate", "score"}


def test_a_run_that_fails_otherwise_does_not(place):
    place.device.others(SETTLE)
    assert _once_failed(place, fail="FloatingPointError: gradients are Nan/Inf") == 0


def test_a_run_without_memory_alone_says_what_to_lower(place, capsys):
    assert _once_failed(place, fail=FULL) == 0
    said = capsys.readouterr().out
    assert "not enough memory for generate even alone: lower --batch-size in [decode]" in said and "tiny.toml" in said


@pytest.mark.parametrize("beside", [True, False])
def test_a_training_that_left_out_batches_beside_others_has_not_finished(place, beside, capsys):
    if beside:
        place.device.others(SETTLE)
    skip = "echo 'WARNING | fairseq.trainer | attempting to recover from OOM in forward/backward pass';"
    # and then trained on for longer than the end of a log that is read after a failure
    assert _once_failed(place, train=f"{skip} seq 20000;") == (AGAIN if beside else 0)
    assert "the training left out 1 batches for want of the device's memory" in capsys.readouterr().out
    record = json.loads((place.folder / ".stages/train.json").read_text())
    assert record["state"] == ("started" if beside else "finished")


# ---- the start ----


@pytest.fixture
def begin(place, tmp_path):
    """Train a start that prints `line` and fails in its first tries; returns how often it was tried, and its error."""

    def run(fails, line=FULL, before=""):
        tries = tmp_path / "out/start/tries"
        script = f"{before} echo try >> {tries}; [ $(wc -l < {tries}) -gt {fails} ] || {{ echo '{line}'; exit 1; }}"
        turns = runs.turns_of(place.options)
        book = runs.book_of(tmp_path / "out", place.options, turns)
        error = None
        try:
            run_shared(book, [Stage("start", [Command(["sh", "-c", script])], resumable=True)], turns)
        except BookError as caught:
            error = caught
        return tries.read_text().count("try"), error

    return run


def test_a_start_that_others_left_no_memory_goes_on_as_runs_do(begin, place, capsys):
    place.device.others(SETTLE)
    assert begin(fails=2) == (3, None)
    assert capsys.readouterr().out.count("start: the device's memory was not enough beside others; again") == 2


def test_a_start_is_not_tried_for_ever(begin, place, capsys):
    place.device.others(SETTLE)
    count, error = begin(fails=99)
    assert count == 3 and "start failed" in str(error)
    assert "beside others; the same command tries again" in capsys.readouterr().out


@pytest.mark.parametrize(("beside", "line"), [(False, FULL), (True, "FloatingPointError: gradients are Nan/Inf")])
def test_a_start_that_would_fail_again_is_tried_once(begin, place, beside, line):
    if beside:
        place.device.others(SETTLE)
    count, error = begin(1, line)
    assert count == 1 and error.status == 1


def test_a_start_says_what_batches_it_left_out(begin, place, capsys):
    place.device.others(SETTLE)
    skip = "echo 'WARNING | fairseq.trainer | attempting to recover from OOM in forward/backward pass';"
    assert begin(0, before=skip) == (1, None)
    assert "warning: the training left out 1 batches for want of the device's memory" in capsys.readouterr().out


# ---- tries ----


class Tries:
    """Runs of `sh` that write down when they run; `lacking[name]` of their tries find no memory."""

    def __init__(self, folder, **lacking):
        self.folder, self.lacking, self.asked = folder, lacking, []
        for name in lacking:
            (folder / name).write_text("")

    def command(self, name, first):
        self.asked.append((name, first))
        own, order, fails = self.folder / name, self.folder / "order", self.lacking[name]
        script = f"echo try >> {own}; echo {name} >> {order}; [ $(wc -l < {own}) -gt {fails} ] || exit {AGAIN}"
        return Command(["sh", "-c", script], label=name)

    def run(self, at_once):
        with open(self.folder / "log", "ab") as log:
            return run_tries(list(self.lacking), self.command, at_once, log, lambda label, line: None)

    def order(self):
        return (self.folder / "order").read_text().split()


def test_what_lacked_memory_is_tried_again_after_the_others(tmp_path, capsys):
    tries = Tries(tmp_path, a=1, b=0, c=2, d=0)
    assert tries.run(2) == 0
    order = tries.order()
    assert sorted(order[:4]) == ["a", "b", "c", "d"] and sorted(order[4:6]) == ["a", "c"] and order[6:] == ["c"]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "a, c: the device's memory was not enough beside others; again, 1 at once" in said[0]
    # what begins late is a new run in the first try alone
    assert tries.asked[:4] == [(name, True) for name in "abcd"] and not any(first for _, first in tries.asked[4:])


def test_it_is_not_tried_for_ever(tmp_path, capsys):
    tries = Tries(tmp_path, a=99, b=0)
    assert tries.run(4) == 0
    assert tries.order().count("a") == 3
    assert (
        "a: the device's memory was not enough beside others; the same command tries again" in capsys.readouterr().out
    )


def test_later_tries_have_fewer_at_once(tmp_path, monkeypatch):
    widths, run = [], runs.run_commands
    monkeypatch.setattr(runs, "run_commands", lambda *a, **more: (widths.append(a[3]), run(*a, **more))[1])
    Tries(tmp_path, a=99, b=99).run(6)
    assert widths == [6, 3, 1]


def test_runs_are_shared_out_among_devices(tmp_path):
    """Two at once on each of two: a run begins on the device of the one that has ended."""
    at_work = f"{tmp_path}/at-work-$CUDA_VISIBLE_DEVICES"
    # together as many as may be; and never three on one device
    script = f"""echo $CUDA_VISIBLE_DEVICES >> {tmp_path}/used; mkdir {at_work}-1 2> /dev/null && mine={at_work}-1 || \\
        mine={at_work}-2; [ $mine = {at_work}-1 ] || mkdir $mine || exit 1; sleep 0.3; rmdir $mine"""
    commands = [Command(["sh", "-c", script], label=name) for name in "abcdefgh"]
    devices = [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    with open(tmp_path / "log", "ab") as log:
        status = run_tries(list("abcdefgh"), lambda name, _: commands["abcdefgh".index(name)], 2, log, print, devices)
    assert status == 0
    used = (tmp_path / "used").read_text().split()
    assert sorted(used[:4]) == ["3", "3", "5", "5"] and sorted(used) == ["3"] * 4 + ["5"] * 4


@pytest.mark.parametrize(
    ("visible", "gpus", "names"),
    [(None, 2, ["0", "1"]), ("3, GPU-8a,5", 2, ["3", "GPU-8a"]), ("", 3, ["0", "1", "2"]), ("7,6", 1, [None])],
)
def test_devices_are_those_that_are_visible(monkeypatch, visible, gpus, names):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [found.get("CUDA_VISIBLE_DEVICES") for found in devices_of_runs(gpus)] == names


def test_more_gpus_than_there_are_is_one_clear_error(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(PlanError, match="--gpus 2, but PyTorch sees 1"):
        devices_of_runs(2)


def test_gpus_without_a_gpu_is_one_clear_error(tmp_path, capsys):
    words = ["--raw", str(tmp_path), "--plan", str(TINY), "--out", str(tmp_path / "out"), "--cpu", "--gpus", "2"]
    assert compare.main(words) == 2
    assert "--gpus 2 does not go with --cpu" in capsys.readouterr().err


def test_any_other_end_of_a_run_ends_the_rest(tmp_path):
    tries = Tries(tmp_path, a=1, b=0)
    stop = Command(["sh", "-c", "exit 130"], label="b")
    command = tries.command
    tries.command = lambda name, first: stop if name == "b" else command(name, first)
    assert tries.run(1) == 130
    assert tries.order() == ["a"]


def test_a_later_try_that_is_interrupted_goes_on_with_the_same_command(tmp_path):
    tries = Tries(tmp_path, a=1, b=0)
    command = tries.command

    def interrupted(name, first):
        if not first:
            raise Interrupted("interrupted")
        return command(name, first)

    tries.command = interrupted
    with pytest.raises(Interrupted):
        tries.run(2)
    tries.command, tries.lacking = command, {"a": 1}  # what has not finished
    assert tries.run(2) == 0
    assert tries.order().count("a") == 2
