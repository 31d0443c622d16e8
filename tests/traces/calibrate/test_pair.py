"""Copies and the CPU's experts, alone and both at once: what is under way while the other is timed."""

import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from traces.calibrate import pair as module
from traces.calibrate.pair import PAIRED, Pair
from traces.calibrate.plot import draw
from traces.calibrate.timing import Budget, Clock

CPU = torch.device("cpu")
OTHER = {"copy": None, "cpu": None, "copy_with_cpu": "cpu", "cpu_with_copy": "copy"}


class Watched:
    """A pair whose calls only say where and how they were made; the machine's threads are as before afterwards."""

    def __init__(self, threads: list[int]) -> None:
        self.calls: list[tuple[str, bool, int, bool]] = []
        """Which, by whom (the one that is timed), on how many threads, in inference mode."""
        self.pair = Pair(Clock(CPU), 1 << 16, threads, lambda: self.call("cpu"))
        self.pair.__dict__["_copies"] = self.call("copy")

    def call(self, name: str) -> Any:
        def call(i: int) -> None:
            ours = threading.current_thread() is threading.main_thread()
            self.calls.append((name, ours, torch.get_num_threads(), torch.is_inference_mode_enabled()))

        return call


@pytest.fixture(autouse=True)
def _threads_kept() -> Any:
    before = torch.get_num_threads()
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", OTHER)
def test_what_is_timed_is_alone_or_beside_the_other(name: str) -> None:
    watched = Watched([2])
    (part,) = [part for part in watched.pair.parts if part.name == name]
    timed = part.timed(2)
    watched.calls.clear()
    assert timed(3) > 0
    own = name.partition("_")[0]
    assert [call[0] for call in watched.calls if call[1]] == [own] * 3
    assert {call[0] for call in watched.calls if not call[1]} == {OTHER[name]} - {None}
    # Both on the threads that the profile states, in whichever thread they run, and without a graph of gradients.
    assert {call[2:] for call in watched.calls if call[0] == "cpu"} <= {(2, True)}


def test_all_four_at_each_number_of_threads_in_a_row() -> None:
    watched, lines = Watched([1, 2, 4]), list[str]()
    asked = list[str]()
    for part in watched.pair.parts:
        timed = part.timed
        object.__setattr__(part, "timed", lambda n, t=timed, name=part.name: (asked.append(f"{name} {n}"), t(n))[1])
    found = watched.pair.measure(Budget(0, 3 * PAIRED), lines.append)
    assert asked == [f"{name} {n}" for n in (1, 2, 4) for name in OTHER]
    assert found.pop("expert_bytes") == 1 << 16
    assert list(found) == list(OTHER)
    for table in found.values():
        assert table["threads"] == [1, 2, 4]
        assert table["ns"] == table["median_ns"]
        assert min(table["count"]) >= 5
    assert len(lines) == 1
    assert lines[0].endswith("(4 threads)")


def test_the_bytes_of_an_expert_are_copied_and_others_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WALKED", 100)
    made: list[tuple[torch.Tensor, torch.Tensor, int]] = []
    monkeypatch.setattr(module, "walk", lambda source, target, nbytes, **_: made.append((source, target, nbytes)))
    for nbytes, walked in ((30, 90), (1000, 1000)):
        _ = Pair(Clock(CPU), nbytes, [1], lambda: lambda i: None)._copies
        source, target, copied = made.pop()
        assert (copied, len(target)) == (nbytes, len(source))
        assert walked <= len(source) < walked + 8
        assert source.data_ptr() != target.data_ptr()


def test_a_stream_is_kept_busy_and_no_fuller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies that nobody waits for would fill a queue for as long as the CPU computes."""
    queued, most = [0], [0]

    class Event:
        def __init__(self, blocking: bool) -> None:
            assert blocking
            self.upto = 0

        def record(self, stream: object) -> None:
            self.upto = len(copied)

        def synchronize(self) -> None:
            queued[0] = min(queued[0], len(copied) - self.upto)

    class Cuda:
        pass

    Cuda.Event, Cuda.Stream = Event, lambda device: device  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "_CUDA", Cuda)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    copied: list[int] = []

    def copy(i: int) -> None:
        assert torch.is_inference_mode_enabled(), "as where the memory was made: else torch does not write there"
        copied.append(i)
        queued[0] += 1
        most[0] = max(most[0], queued[0])

    pair = Pair(Clock(CPU), 8, [1], lambda: lambda i: None)
    pair.__dict__["_copies"] = copy
    call = pair._endless()
    with torch.inference_mode(False):
        for i in range(6):
            call(i)
            assert queued[0] >= module.IN_QUEUE, "it would run dry"
    assert copied == list(range(6 * module.IN_QUEUE))
    assert most[0] == 2 * module.IN_QUEUE


def test_the_plot_has_it_where_it_was_measured(profile: dict[str, Any], tmp_path: Path) -> None:
    draw(profile, tmp_path / "with.png")
    profile["measured"]["models"]["olmoe_1b_7b"]["pair"] = None
    draw(profile, tmp_path / "without.png")
    with_it, without = (int.from_bytes((tmp_path / f"{name}.png").read_bytes()[20:24]) for name in ("with", "without"))
    assert with_it == pytest.approx(1.5 * without, rel=0.1), "a third panel under two"
