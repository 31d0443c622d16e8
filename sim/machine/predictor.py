"""What works on predictions, beside the GPU."""

from collections.abc import Iterable
from heapq import heappush, heapreplace

from sim.core.loads import Prediction
from sim.core.state import CoreError
from sim.machine.listener import SpanListener

_BURST = 1 << 16  # predictions at one instant that no policy can mean


class Predictor:
    """Works on predictions, ``threads`` at a time, first come first served. Those that block run on the GPU."""

    def __init__(self, threads: int, listener: SpanListener) -> None:
        self.listener = listener
        self.under_way: list[tuple[int, int, int]] = []  # a heap of (end, order of asking, tag)
        self._free = [0] * threads  # a heap of when each thread is free
        self._asked = self._burst = self._asked_at = 0

    def start(self, asked: Iterable[Prediction], now: int) -> int:
        """Start what was asked for; returns when the last blocking one ends, ``now`` if there is none."""
        blocked = now
        self._burst = self._burst + 1 if now == self._asked_at else 0
        self._asked_at = now
        if self._burst > _BURST:
            raise CoreError(f"a policy asks for one prediction after the other at {now} ns, and time does not pass")
        for tag, latency, blocking in asked:
            if blocking:
                end = blocked = blocked + latency
            else:
                end = max(now, self._free[0]) + latency
                heapreplace(self._free, end)
            self.listener.predict(end - latency, end, blocking)
            self._asked += 1
            heappush(self.under_way, (end, self._asked, tag))
        return blocked
