"""A device that takes its time: copies end late and in another thread, and so does compute. All of it is checked."""

import threading
import time
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from policies.api import LayerEvent
from real.runtime.backend import Backend
from real.runtime.machine import Machine
from real.runtime.pool import Pool
from sim.core.core import Core
from tests.real.runtime.rig import torch

POISON = 0xFF
"""Of a slot without an owner: as float32 and as bfloat16 it is NaN."""


class _Ticket:
    def __init__(self, after: float = 0.0, work: Callable[[], None] | None = None) -> None:
        self.ends, self.work = after, work
        self.over = threading.Event()
        self.error: Exception | None = None

    def done(self) -> bool:
        return self.over.is_set() if self.work is not None else time.perf_counter() >= self.ends

    def wait(self) -> None:
        if self.work is None:
            time.sleep(max(0.0, self.ends - time.perf_counter()))
        elif not self.over.wait(20):
            raise RuntimeError("a copy never ended")
        elif self.error is not None:
            raise self.error


class Shaky(Backend):
    """Copies by a thread of its own, in two halves with pauses; compute that ends some time after its call.

    ``fail_at``: the copy, counted from 0, that fails.
    """

    def __init__(self, seed: int, depth: int = 1, *, slow_s: float = 3e-4, fail_at: int | None = None) -> None:
        self.random, self.slow_s, self.depth, self.fail_at = Random(seed), slow_s, depth, fail_at
        self.copies = 0
        self._under_way: list[_Ticket] = []
        self.computing: list[tuple[list[int], _Ticket]] = []
        self.next_experts: list[int] = []
        self.most_under_way = 0
        self._last = 0.0
        self._todo: deque[_Ticket] = deque()
        self._more = threading.Semaphore(0)
        self._closed = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def start_copy(self, target: Any, source: Any) -> _Ticket:
        number, pause = self.copies, [self.random.random() * self.slow_s for _ in range(2)]
        half = len(target) // 2

        def work() -> None:
            time.sleep(pause[0])
            if number == self.fail_at:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            target[:half].copy_(source[:half])
            time.sleep(pause[1])
            target[half:].copy_(source[half:])

        ticket = _Ticket(work=work)
        self.copies += 1
        self._under_way = [*(other for other in self._under_way if not other.done()), ticket]
        self.most_under_way = max(self.most_under_way, len(self._under_way))
        self._todo.append(ticket)
        self._more.release()
        return ticket

    def mark(self) -> _Ticket:
        self._last = max(self._last, time.perf_counter() + self.random.random() * self.slow_s)
        ticket = _Ticket(after=self._last)
        self.computing.append((self.next_experts, ticket))
        return ticket

    def busy(self, expert: int) -> bool:
        """Whether the device still computes the expert."""
        self.computing = [(experts, ticket) for experts, ticket in self.computing if not ticket.done()]
        return any(expert in experts for experts, _ in self.computing)

    def close(self) -> None:
        self._closed = True
        self._more.release()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            self._more.acquire()
            if self._closed:
                return
            ticket = self._todo.popleft()
            try:
                assert ticket.work is not None
                ticket.work()
            except Exception as error:
                ticket.error = error
            ticket.over.set()


class WatchedPool(Pool):
    """Poisons what it frees. A slot may be freed or filled only when nobody computes with it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.block.fill_(POISON)

    def evict(self, x: int) -> None:
        slot = self.slot_of[x]
        super().evict(x)
        assert not self.backend.busy(x), f"expert {x} is freed while it is computed"
        if slot >= 0:
            self.block[slot].fill_(POISON)

    def start_copy(self, chunk: int) -> Any:
        expert = chunk // self._chunks
        before = self.slot_of[expert]
        ticket = super().start_copy(chunk)
        slot = self.slot_of[expert]
        assert self.slot_of.count(slot) == 1, f"slot {slot} is given twice"
        assert before in (-1, slot)
        assert not self.backend.busy(expert), f"expert {expert} is overwritten while it is computed"
        return ticket


def _watched(name: str) -> Any:
    """That fact or question of the core, after which all of it is checked."""

    def call(core: Any, *args: Any) -> Any:
        answer = getattr(Core, name)(core, *args)
        core.watch()
        return answer

    return call


class WatchedCore(Core):
    """Checks at every fact and question what must always hold."""

    pool: WatchedPool

    def watch(self) -> None:
        state, pool, setup = self.state, self.pool, self.setup
        held = [x for x in range(len(state.slot)) if state.slot[x]]
        assert sum(state.size[x] for x in held) == state.used <= setup.budget - self.policy.gpu_bytes()
        assert len(held) <= pool.slots
        placed = [x for x, slot in enumerate(pool.slot_of) if slot >= 0]
        assert set(placed) <= set(held), "a slot without an owner"
        assert all(pool.slot_of[x] >= 0 for x in held if state.done[x]), "an expert that has arrived nowhere"
        assert all(state.done[x] <= state.given[x] <= state.chunks for x in held)
        assert all(not state.given[x] for x in range(len(state.slot)) if not state.slot[x])

    step_begin, prediction, chunk_done, next_chunk = map(
        _watched, ("step_begin", "prediction", "chunk_done", "next_chunk")
    )

    def gate(self, *args: Any) -> LayerEvent:
        event = super().gate(*args)
        hosted = frozenset() if self.places is None else self.places.experts
        assert all(self.state.pinned[x] for x in event.demand if x not in hosted)
        self.watch()
        return event

    def expert_done(self, x: int, now: int) -> None:
        assert self.state.done[x] == self.state.chunks, "computed before it had arrived"
        assert not self.pool.backend.busy(x), "told as computed while it is"
        super().expert_done(x, now)
        self.watch()


class WatchedMachine(Machine):
    """Tells the device which experts are launched."""

    def __init__(self, core: Core, pool: Pool, **given: Any) -> None:
        core.pool = pool  # type: ignore[attr-defined]
        super().__init__(core, pool, **given)

    def launched(self, experts: list[int]) -> None:
        pool = self.pool
        for x in experts:
            block = pool.block[pool.slot_of[x]]
            assert torch.equal(block, pool.store.expert(x)), f"expert {x} is computed with other bytes"
        self.backend.next_experts = experts
        super().launched(experts)
        self.backend.next_experts = []
