"""How long a call takes: warm-up, batches, medians with quartiles, on a CPU or in the order of a CUDA stream."""

import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from traces.calibrate.tables import Sample

Call = Callable[[int], object]
"""One call of what is measured. It is given a running number, to work on other memory each time."""

MIN_SAMPLES, MAX_SAMPLES = 5, 200
MIN_BATCH_NS, MAX_BATCH = 300_000, 64
_CUDA: Any = torch.cuda  # whose streams and events have no types


class Budget:
    """Seconds to spend on a number of points: what one leaves over, the rest may use."""

    def __init__(self, seconds: float, points: int) -> None:
        self._end, self._points = time.monotonic() + seconds, points

    def share(self) -> float:
        """Seconds for the next point; 0 where the time is used up, and a point then takes its least samples."""
        left, points = self._end - time.monotonic(), max(1, self._points)
        self._points -= 1
        return max(0.0, left / points)


class Clock:
    """Times batches of calls on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cuda = device.type == "cuda"
        self._calls = 0

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def wall_ns(self, call: Call, n: int) -> float:
        """From the first call to the end of the last one's work: n calls, one after the other."""
        self.synchronize()
        begin = time.perf_counter_ns()
        self._run(call, n)
        self.synchronize()
        return time.perf_counter_ns() - begin

    def device_ns(self, call: Call, n: int) -> float:
        """The device's own time for n calls, which all wait in its queue before the first one runs."""
        if not self.cuda:
            return self.wall_ns(call, n)
        torch.cuda.synchronize(self.device)
        begin, end = (_CUDA.Event(enable_timing=True) for _ in range(2))
        hold(self._enqueue_ns(call) * n)
        begin.record()
        self._run(call, n)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e6

    def beside_ns(self, call: Call, n: int, load: Call) -> float:
        """As device_ns on CUDA, while `load` runs on a stream beside it."""
        own_ns, load_ns = (max(1.0, self.device_ns(x, 1)) for x in (call, load))
        other, repeats = _CUDA.Stream(), math.ceil(3 * n * own_ns / load_ns) + 2
        for _ in range(4):
            torch.cuda.synchronize(self.device)
            begin, end, load_end, gate = (_CUDA.Event(enable_timing=True) for _ in range(4))
            hold(self._enqueue_ns(call) * n + 10_000 * repeats)
            gate.record()
            with torch.cuda.stream(other):
                other.wait_event(gate)
                self._run(load, repeats)
                load_end.record(other)
            begin.record()
            self._run(call, n)
            end.record()
            torch.cuda.synchronize(self.device)
            if end.elapsed_time(load_end) > 0:
                break
            repeats *= 2  # the load ended too early
        return float(begin.elapsed_time(end)) * 1e6

    def _run(self, call: Call, n: int) -> None:
        for i in range(self._calls, self._calls + n):
            call(i)
        self._calls += n

    def _enqueue_ns(self, call: Call) -> float:
        begin = time.perf_counter_ns()
        self._run(call, 1)
        spent = time.perf_counter_ns() - begin
        torch.cuda.synchronize(self.device)
        return spent


def measure(timed: Callable[[int], float], seconds: float) -> Sample:
    """Repeat `timed(n)`, the time of n calls in ns, for about so many seconds; per call. Two runs warm up."""
    return summary(samples(timed, seconds, MIN_SAMPLES))


def samples(timed: Callable[[int], float], seconds: float, at_least: int) -> list[float]:
    """As measure, the times of the batches themselves."""
    begin = time.monotonic()
    timed(1)
    n = batch(timed(1))
    spent: list[float] = []
    while len(spent) < at_least or (len(spent) < MAX_SAMPLES and time.monotonic() - begin < seconds):
        spent.append(timed(n) / n)
    return spent


def batch(once_ns: float) -> int:
    """How many calls of so many ns make one sample."""
    return min(MAX_BATCH, max(1, math.ceil(MIN_BATCH_NS / max(1.0, once_ns))))


def summary(spent: Sequence[float]) -> Sample:
    low, middle, high = (max(1, round(x)) for x in statistics.quantiles(spent, n=4, method="inclusive"))
    return Sample(middle, low, high, len(spent))


@contextmanager
def beside(load: Call) -> Iterator[None]:
    """Run `load` over and over in a thread of its own, as long as the block lasts. What it dies of is raised here."""
    stop, started, died = threading.Event(), threading.Event(), list[Exception]()

    def loop() -> None:
        i = 0
        try:
            while not stop.is_set():
                load(i)
                started.set()
                i += 1
        except Exception as error:  # or the block would be timed alone
            died.append(error)
            started.set()

    thread = threading.Thread(target=loop, daemon=True)
    try:
        thread.start()
        started.wait(timeout=30)
        yield
    finally:  # an interrupt while it starts is no reason to go on for ever
        stop.set()
        if thread.ident is not None:
            thread.join()
    if died:
        raise died[0]


def hold(ns: float) -> None:
    """Keep the current CUDA stream busy for twice `ns` and a little, while calls are put in its queue."""
    # In cycles; no GPU runs above 3 GHz, so 3 a nanosecond are long enough.
    _CUDA._sleep(int(3 * (2 * min(ns, 2e8) + 50_000)))
