"""The real machine: the same core, told what happens by the model's own forward pass and by a copy thread.

Calls into the core are serialised by one lock and logged (sim.replay). An expert's compute is told as done when the
device has done it: at the next event at the latest, whose gate waits for the device anyway, or by the copy thread.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

from policies.api import LayerEvent, Policy, Routing, Setup
from real.backend import Backend, Ticket
from real.pool import Pool
from sim.core.accounts import PREDICTOR, Accounts
from sim.core.state import DEMAND, CoreError
from sim.core.words import END, NONE, StepSignals
from sim.replay import RecordingCore
from sim.timeline import Timeline
from sim.timings import Timings
from sim.workload import Pass

SWITCH_S = 5e-5
"""How long one thread may keep the interpreter from the other: the default, 5 ms, is a hundred expert computations."""


class DeviceCore(RecordingCore):
    """The core, with the slots of a device."""

    def __init__(self, policy: Policy, setup: Setup, signals: StepSignals, pool: Pool) -> None:
        self.pool = pool
        super().__init__(policy, setup, signals)

        self.routing: Routing | None = None
        """What the policy has put in the place of the last gate's choice."""
        if self._route is not None:
            self._ask_route, self._route = self._route, self._routed

    def _routed(self, event: LayerEvent) -> Routing | None:
        routing = self.routing = self._ask_route(event)
        if routing is not None and routing.chosen is None and not self.policy.lossless:
            wanted = {x: n for x, n in zip(routing.demand, routing.tokens, strict=True) if n}
            if wanted != dict(zip(event.demand, event.tokens, strict=True)):
                raise CoreError(f"policy {self.policy.name} does not say who computes which token (Routing.chosen)")
        return routing

    @property
    def queued(self) -> bool:
        """Whether a load waits, be it that it can get no slot now."""
        return bool(self._demand or self._queue)

    @property
    def whole(self) -> bool:
        """Whether every expert is complete, and what is computed is what the gate chose."""
        state = self.state
        return not self.routes and state.used == sum(state.size) and all(n == state.chunks for n in state.done)

    def evict(self, x: int) -> None:
        super().evict(x)
        self.pool.release(x)


class Machine:
    """Drives one core by the clock of the device. Used by one thread, beside those that it starts itself.

    ``depth``: chunks handed to the link at once; they always finish. Within ``with machine:`` the threads run.
    """

    def __init__(self, core: DeviceCore, backend: Backend, *, depth: int = 1, predictor_threads: int = 1) -> None:
        self.core, self.backend, self.depth = core, backend, depth
        self.timings = Timings()
        self.timeline = Timeline()
        self.steps = 0
        self.resident = False
        """Whether all experts were complete when the last step ended."""
        self._lock = threading.RLock()
        self._ready, self._work, self._due = (threading.Condition(self._lock) for _ in range(3))
        self._link_free = 0  # when the last copy ended
        self._link: deque[tuple[int, int, Ticket]] = deque()  # (handed over, chunk, ticket)
        self._computing: deque[tuple[int, list[int], Ticket]] = deque()  # (launched, experts, ticket)
        self._predictions: list[tuple[int, int, int]] = []  # (due, order of asking, tag)
        self._predictor_free = [0] * predictor_threads
        self._asked = 0
        self._waiting_since: int | None = None
        self._awaited = DEMAND  # what compute waits for, as an index of the stalls
        self._stalls: list[int] = []
        self._stalled = 0
        self._compute_ns = 0
        self._began = 0
        self._ended: int | None = None  # the last step
        self._stop = False
        self._failure: BaseException | None = None
        self._zero = time.perf_counter_ns()
        self._step: Pass | None = None

    # -- threads ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Machine:
        self._switch = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        self._threads = [
            threading.Thread(target=self._guard, args=(loop,), daemon=True) for loop in (self._copy, self._predict)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._stop = True
            self._wake()
        for thread in self._threads:
            thread.join()
        sys.setswitchinterval(self._switch)

    def _guard(self, loop: object) -> None:
        try:
            loop()  # type: ignore[operator]
        except BaseException as error:  # told to the one who waits
            with self._lock:
                self._failure = error
                self._wake()

    def _wake(self) -> None:
        for condition in (self._ready, self._work, self._due):
            condition.notify_all()

    def _copy(self) -> None:
        """The copy thread: wait for the copies in their order, and tell the core."""
        while True:
            with self._lock:
                while not self._link and not (self._computing and self.core.queued):
                    if self._stop:
                        return
                    self._work.wait()
                copying = bool(self._link)
                ticket = self._link[0][2] if copying else self._computing[0][2]  # its end may make room
            ticket.wait()
            with self._lock:
                self._retire()
                if copying:
                    self._arrived()
                self._after()
                if self.core.ready:
                    self._ready.notify()

    def _predict(self) -> None:
        """The predictor's thread: tells the core of each prediction when its latency has passed."""
        with self._lock:
            while not self._stop:
                while self._predictions and self._predictions[0][0] <= self.now():
                    self.core.prediction(heappop(self._predictions)[2], self.now())
                    self._after()
                    self._ready.notify()  # which looks for a deadlock
                left = (self._predictions[0][0] - self.now()) / 1e9 if self._predictions else None
                self._due.wait(left if left is None else max(0.0, left))

    # -- what the model's forward pass tells ----------------------------------------------------------------------

    def now(self) -> int:
        """Nanoseconds since the machine was made."""
        return time.perf_counter_ns() - self._zero

    def begin(self, step: Pass) -> None:
        """A forward pass begins."""
        with self._lock:
            self._check()
            self._step, self.steps = step, self.steps + 1
            self._stalls = self.core.accounts.stall_ns[0 if step.prefill else 1][0]
            now = self.now()
            if self._ended is None:
                self._ended = self.core.accounts.start_ns = now
            self._began = self._ended  # what lies between two steps is the later one's
            self._stalled = 0
            self.core.step_begin(self.steps, step.prefill, step.requests, step.parts, now)
            self._go_on()

    def gate(self, layer: int, demand: Sequence[int], tokens: Sequence[int]) -> LayerEvent:
        """The gate of a layer has run, and the device has nothing left to compute."""
        with self._lock:
            self._check()
            self._retire(wait=True)
            step = self._step
            assert step is not None
            self._stalls = self.core.accounts.stall_ns[0 if step.prefill else 1][layer]
            event = self.core.gate(layer, demand, tokens, self.now())
            self._go_on()
            return event

    def turns(self) -> Iterator[list[int]]:
        """The event's experts as they may be computed: all that are complete at that moment, in the core's order.

        Whoever takes them launches them and says so with :meth:`launched` before asking for more.
        """
        while True:
            batch: list[int] = []
            with self._lock:
                self._check()
                while (x := self.core.next_expert()) >= 0:
                    batch.append(x)
                running = self._computing[-1][2] if self._computing else None
                self._turn_began = self.now()
            if batch:
                yield batch
            if x == END:
                return
            if not batch:
                if running is not None:
                    running.wait()  # without the lock: copies go on meanwhile
                self._wait()

    def launched(self, experts: list[int]) -> None:
        """The experts that :meth:`turns` has given last were handed to the device."""
        ticket = self.backend.mark()
        with self._lock:
            self._computing.append((self._turn_began, experts, ticket))
            self._retire()
            self._after()

    def end(self) -> None:
        """The forward pass has ended on the device."""
        with self._lock:
            self._check()
            self._retire(wait=True)
            self._after()
            step, core = self._step, self.core
            assert step is not None
            now = self.now()
            core.step_end(now)
            self.timeline.step(self._began, now, self.steps, step.prefill)
            core.accounts.compute_ns += now - self._began - self._stalled
            self.timings.note(step, self._began, now)
            self._ended = now
            self.resident = core.whole

    def measure(self) -> None:
        """What has been so far was to warm up."""
        with self._lock:
            self._check()
            now = self._ended = self.now()
            self.core.measure_from(now)
            self.timings = Timings()

    def finish(self) -> Accounts:
        """Close the accounts. The window ends with the last step; what is still being copied is in flight."""
        with self._lock:
            self._check()
            return self.core.finish(self._ended or 0)

    # -- inside, under the lock -----------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _retire(self, wait: bool = False) -> None:
        """Tell the core of compute that has ended; with ``wait``, of all that was launched."""
        while self._computing and (wait or self._computing[0][2].done()):
            began, experts, ticket = self._computing.popleft()
            ticket.wait()
            now = self.now()
            self.timeline.compute(began, now, experts)
            for x in experts:
                self.core.expert_done(x, now)

    def _arrived(self) -> None:
        handed_over, chunk, _ = self._link.popleft()
        now = self.now()
        began = max(handed_over, self._link_free)
        self._link_free = now
        expert = chunk // self.core.setup.chunks
        self.timeline.copy(began, now, chunk, self.core.kind[expert])
        self.timeline.occupancy(now, self.core.state.used)
        self.core.accounts.link_busy_ns += now - began
        self._charge(self.core.kind[expert], now)
        self.core.chunk_done(chunk, now)

    def _charge(self, cause: int, now: int) -> None:
        """Compute has waited until now, and ``cause`` is what for."""
        if self._waiting_since is not None:
            waited = now - self._waiting_since
            self.timeline.stall(self._waiting_since, now, cause)
            self._stalls[cause] += waited
            self._stalled += waited
            self._waiting_since, self._awaited = now, cause

    def _after(self) -> None:
        """What the policy wants next, and what the link can take next."""
        self._fill()
        for tag, latency, blocking in self.core.predictions:
            self._asked += 1
            if blocking:
                raise RuntimeError("a prediction may block the GPU only from on_step, route, on_gate and schedule")
            self._schedule(tag, latency)
        self.core.predictions.clear()

    def _go_on(self) -> None:
        """As _after, where a prediction may block the compute."""
        while blocking := [p for p in self.core.predictions if p[2]]:
            self.core.predictions[:] = [p for p in self.core.predictions if not p[2]]
            self._after()
            for tag, latency, _ in blocking:
                begin = self.now()
                while self.now() < begin + latency:
                    pass
                self._waiting_since = begin
                self._charge(PREDICTOR, self.now())
                self._waiting_since = None
                self.core.prediction(tag, self.now())
        self._after()

    def _schedule(self, tag: int, latency: int) -> None:
        free = self._predictor_free
        thread = min(range(len(free)), key=free.__getitem__)
        free[thread] = max(self.now(), free[thread]) + latency
        heappush(self._predictions, (free[thread], self._asked, tag))
        self._due.notify()

    def _fill(self) -> None:
        """Hand chunks over, as long as the core has some and the link takes them."""
        while self.core.pending and len(self._link) < self.depth:
            chunk = self.core.next_chunk()
            if chunk == NONE:
                return
            now = self.now()
            self._link.append((now, chunk, self.core.pool.start_copy(chunk)))
            self._work.notify()

    def _wait(self) -> None:
        """Compute waits until an expert is complete; the device has nothing left to compute."""
        with self._lock:
            self._retire()
            self._after()
            self._waiting_since = self.now()
            while not self.core.ready:
                self._check()
                if not self._link and not self._predictions:
                    raise CoreError("deadlock: compute waits and nothing can be copied")
                self._ready.wait()
            self._charge(self._awaited, self.now())
            self._waiting_since = None
