"""Who is in a host memory that does not hold all experts, and what the disk below it is to read for predictions."""

from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from typing import Protocol

from policies.api import Setup, View
from sim.core.loads import NONE, SpeculativeQueue
from sim.core.state import DEMAND, PENDING, CoreError, State

HOST_POLICIES = ("lru", "fifo", "lfu", "lfu_incache", "lfru", "random")
"""Who may decide what stays in host memory: caching policies that need no signals."""
HOST_TIERS = ("inclusive", "exclusive")

URGENT = -1
"""Asks for room as demand does, where the event would wait for ever; the other askers are DEMAND and SPECULATIVE."""


@dataclass(frozen=True, slots=True)
class HostTier:
    """What the host holds: ``capacity`` bytes, kept by ``policy``. ``exclusive``: nothing that the GPU has whole."""

    capacity: int
    policy: str = "lru"
    exclusive: bool = False


def filled(setup: Setup, capacity: int) -> list[int]:
    """Who is in host memory at the start: of each layer the experts with the lowest indices, as many of each layer."""
    found, used, n = list[int](), 0, setup.n_experts
    for x in (layer * n + index for index in range(n) for layer in range(setup.n_layers)):
        size = setup.expert_bytes[x // n]
        if used + size <= capacity:
            found.append(x)
            used += size
    return found


class HostMemory(State):
    """Who has a place in host memory and how much of it was read; ``gpu``: what of it is being copied, or waits to be.

    ``given`` chunks were handed to the disk, ``done`` have been read. It is full at the start (:func:`filled`), as a
    loader leaves it that has read the model once.
    """

    def __init__(self, setup: Setup, capacity: int, gpu: State) -> None:
        super().__init__(setup.n_experts, setup.expert_bytes, setup.chunks, capacity, None)
        self.gpu = gpu
        self.asking = DEMAND

    def view(self) -> View:
        return replace(super().view(), evictable=self.evictable)

    def evictable(self, x: int) -> bool:
        """Whether it may go for who asks now.

        Nobody loses what is being read or copied. Demand takes from whom the event does not want; a prediction not from
        other predictions either, which wait to be copied; and where nothing of the event could go on, one whose copy
        has not begun gives way to another member.
        """
        gpu = self.gpu
        if not self.slot[x] or self.given[x] != self.done[x] or gpu.given[x] != gpu.done[x]:
            return False
        wanted = gpu.pinned[x] == 1 and gpu.done[x] != gpu.chunks
        if self.asking == URGENT:
            return not (wanted and gpu.slot[x])
        return not wanted and (self.asking == DEMAND or gpu.spec[x] != PENDING)

    def take(self, x: int) -> None:
        """``x`` has a place. CoreError where there was no room for it."""
        self.used += self.size[x]
        if self.used > self.capacity:
            raise CoreError(f"host memory exceeded: {self.used} > {self.capacity} bytes")
        self.peak = max(self.peak, self.used)
        self.slot[x] = 1

    def leave(self, x: int) -> int:
        """``x`` has none any more. Returns how many bytes of it were there."""
        held = self.bytes_given(x)
        self.used -= self.size[x]
        self.slot[x] = self.given[x] = self.done[x] = 0
        return held

    def bytes_given(self, x: int) -> int:
        """Bytes of it that were read or are being read."""
        return self.arrived_bytes[x // self.n_experts * (self.chunks + 1) + self.given[x]]


class Tiered(Protocol):
    """What the queue wants of the core above a disk."""

    pending: bool
    reading: bool

    def copyable(self, x: int) -> bool: ...

    def unread(self, x: int) -> bool: ...


class TieredQueue(SpeculativeQueue):
    """Pending loads twice: those of which a chunk can be copied (``heap``), and those of which one is to be read."""

    def __init__(self, core: Tiered, n_all: int) -> None:
        super().__init__(n_all)
        self.core = core
        self.reads: list[tuple[float, int, int]] = []
        self._priority = [0.0] * len(self._live)

    def push(self, expert: int, priority: float) -> None:
        self._issued += 1
        self._live[expert] = self._issued
        self._priority[expert] = priority
        if self.core.copyable(expert):
            self.arrived(expert)
        if self.core.unread(expert):
            self.lost(expert)

    def lost(self, expert: int) -> None:
        """It is to be read, for the first time or again."""
        if self._live[expert]:
            self._put(self.reads, expert)
            self.core.reading = True

    def arrived(self, expert: int) -> None:
        """A chunk of it has been read."""
        if self._live[expert]:
            self._put(self.heap, expert)
            self.core.pending = True

    def head(self) -> int:
        while (x := super().head()) != NONE and not self.core.copyable(x):
            heappop(self.heap)  # back when it has been read
        return x

    def read_head(self) -> int:
        """The expert of which the disk is to read a chunk, or NONE."""
        reads = self.reads
        while reads:
            _, number, expert = reads[0]
            if self._live[expert] == number and self.core.unread(expert):
                return expert
            heappop(reads)
        return NONE

    def _put(self, heap: list[tuple[float, int, int]], expert: int) -> None:
        heappush(heap, (-self._priority[expert], self._live[expert], expert))
        if len(heap) > 4 * len(self._live):  # mostly dead entries, and some twice
            heap[:] = {entry for entry in heap if self._live[entry[2]] == entry[1]}
            heapify(heap)
