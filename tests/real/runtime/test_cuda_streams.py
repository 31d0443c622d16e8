"""The GPU's backend, its own lines over tensors of the CPU, with torch.cuda replaced: which copy is on which stream."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, ClassVar

import pytest

from policies.lru import LRU
from real.runtime.backend import CudaBackend
from real.runtime.offloaded import Offloaded
from real.runtime.tiny import Shared
from tests.real.runtime.rig import CPU, Rig, hosted, serve, torch
from tests.traces.models.tiny import tiny

CUDA = torch.device("cuda", 0)
COPIES = "stream 0"


class _Event:
    """An event that has ended once somebody has waited for it, or for a later one of its stream."""

    made: int = 0
    open: ClassVar[dict[Any, list["_Event"]]] = {}  # by stream, each waited for by one thread

    def __init__(self, blocking: bool = True) -> None:
        assert not blocking
        self.recorded: Any = None
        self.over = False
        _Event.made += 1

    def record(self, stream: Any) -> None:
        self.recorded = stream
        _Event.open.setdefault(stream, []).append(self)

    def query(self) -> bool:
        return self.over

    def synchronize(self) -> None:
        assert self.recorded is not None
        for event in _Event.open[self.recorded]:
            event.over = True
            if event is self:
                break


@dataclass
class Used:
    """What was asked of the device: how often each stream was the current one, bytes that were page-locked."""

    streams: Counter[str] = field(default_factory=Counter)
    first: str = ""
    pinned: list[int] = field(default_factory=list)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Used:
    tiny("olmoe")  # before anything is replaced: the library reads torch.cuda.Stream as it is imported
    found, numbers, empty = Used(), count(), torch.empty

    @contextmanager
    def stream(given: Any) -> Iterator[None]:
        found.streams[given] += 1
        found.first = found.first or given
        yield

    def synchronize(device: Any) -> None:
        found.first = found.first or "all"

    def made(*size: Any, pin_memory: bool = False, **given: Any) -> Any:
        if pin_memory:
            found.pinned.append(empty(*size, **given).nbytes)
        return empty(*size, **given)

    for name, replacement in (
        ("set_device", lambda device: None),
        ("Stream", lambda device: f"stream {next(numbers)}"),
        ("stream", stream),
        ("current_stream", lambda device: "compute"),
        ("Event", _Event),
        ("synchronize", synchronize),
        ("memory_stats", lambda device: {"requested_bytes.all.current": 0}),
    ):
        monkeypatch.setattr(torch.cuda, name, replacement)
    monkeypatch.setattr(torch, "empty", made)
    return found


def mocked(model: Offloaded) -> Offloaded:
    model.backend = CudaBackend(CUDA)
    model.backend.device = CPU  # where the tensors are
    return model


def test_copies_are_on_the_copies_stream_and_marks_on_the_current_one(used: Used) -> None:
    rig = Rig(Offloaded(tiny("olmoe"), CPU), chunks=2, depth=2)
    plain, before = serve(rig, LRU, 6, 4).check(), _Event.made
    mocked(rig.model)
    ran = serve(rig, LRU, 6, 4).check()
    assert ran.same_logits(plain)
    assert used.streams.keys() == {COPIES}
    assert used.streams[COPIES] >= 2 * rig.experts
    assert used.first == "all", "memory is waited for where it is taken"
    assert _Event.made - before > used.streams[COPIES], "and marks"


# Activations that wait behind the experts' copies; pages that are locked anew for each expert.
@pytest.mark.parametrize("workers", [1, 2])
def test_activations_go_there_and_back_by_buffers_and_a_stream_of_each_worker(workers: int, used: Used) -> None:
    rig = Rig(Offloaded(tiny("olmoe"), CPU), chunks=2)
    plain = serve(rig, LRU, 6, 4).check()
    mocked(rig.model)
    rig = hosted(rig, workers)
    used.pinned.clear()
    ran = serve(rig, Shared, 6, 4).check()
    assert ran.same_logits(plain)
    own = {f"stream {1 + i}" for i in range(workers)}
    assert used.streams.keys() <= own | {COPIES}
    assert sum(used.streams[name] for name in own) == 2 * ran.accounts.host_lookups > 20
    hidden = rig.model.model.config.hidden_size * 4
    powers = [n for n in used.pinned if n >= hidden and n & (n - 1) == 0]
    assert 2 <= len(powers) <= 2 * workers * 8, "each way's grows by powers of two, and is used again"
