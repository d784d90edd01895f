"""Copies between host and device, for which the host waits as late as it can."""

import pytest
import torch

from srformer_plugin.compat import transfers
from srformer_plugin.compat.transfers import HostCopy, to_device


class Stream:
    """A device's work that waits to be done, in place of CUDA's, of which there may be none."""

    def __init__(self, monkeypatch):
        self.waiting, self.pinned = [], 0
        empty, copy_ = torch.empty, torch.Tensor.copy_
        stream = self

        class Event:
            def record(self, recorded):
                assert recorded is stream
                self.place = len(stream.waiting)

            def synchronize(self):
                for work in stream.waiting[: self.place]:
                    work()

        def pinned_empty(*args, pin_memory=False, **kwargs):
            stream.pinned += pin_memory
            return empty(*args, **kwargs).fill_(-1)

        def pin_memory(tensor):
            stream.pinned += 1
            return tensor.clone()

        def copy_later(target, source, non_blocking=False):
            assert non_blocking
            stream.waiting.append(lambda: copy_(target, source))
            return target

        monkeypatch.setattr(transfers, "goes_its_own_way", lambda device: True)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
        monkeypatch.setattr(torch, "empty", pinned_empty)
        monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
        monkeypatch.setattr(torch.Tensor, "copy_", copy_later)


def test_a_copy_waits_for_what_was_launched_before_it_and_for_nothing_later(monkeypatch):
    stream, done, numbers = Stream(monkeypatch), [], torch.tensor([[1.0, 2.0]], dtype=torch.double)
    stream.waiting.append(lambda: done.append("before"))
    copy = HostCopy(numbers)
    stream.waiting.append(lambda: done.append("behind"))
    assert stream.pinned == 1
    assert done == []  # making one waits for nothing
    assert copy.read().tolist() == [[1, 2]]
    assert copy.read().dtype == torch.double
    assert set(done) == {"before"}


def test_numbers_are_sent_from_pinned_memory(monkeypatch):
    stream, numbers = Stream(monkeypatch), torch.tensor([1, 2])
    assert torch.equal(to_device(numbers, numbers.device), numbers)
    assert stream.pinned == 1


def test_on_a_cpu_a_copy_holds_what_was_there():
    numbers = torch.tensor([1.0, 2.0], requires_grad=True)
    copy = HostCopy(numbers)
    with torch.no_grad():
        numbers.add_(1)
    assert copy.read().tolist() == [1, 2]
    assert not copy.read().requires_grad
    assert to_device(numbers, numbers.device) is numbers


@pytest.mark.gpu
def test_on_a_gpu_numbers_are_read_and_sent_while_it_computes():
    numbers, sent = torch.tensor([1.0, 2.0], device="cuda"), torch.tensor([3.0])
    HostCopy(numbers).read()  # its memory is pinned now, and kept
    to_device(sent, numbers.device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        copy = HostCopy(numbers)
        numbers.add_(1)
        torch.cuda._sleep(4_000_000_000)  # cycles: seconds
        busy = torch.cuda.Event()
        busy.record()
        found = copy.read().tolist()
        arrived = to_device(sent, numbers.device)
        assert not busy.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found == [1, 2]
    assert (numbers.tolist(), arrived.tolist()) == ([2, 3], [3])
