"""The real machine: the same core, told what happens by the model's own forward pass and by a copy thread.

Calls into the core are serialised by one lock and logged (sim.core.log). An expert's compute is told as done when
the device has done it: at the next event at the latest, whose gate waits for the device anyway, or by the copy thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from policies.api import LayerEvent
from real.runtime.behind import Behind
from real.runtime.compute import Work
from real.runtime.pool import Pool
from sim.core.accounts import PREDICTOR, Accounts
from sim.core.core import END, Core
from sim.core.loads import NONE, Prediction
from sim.core.state import CoreError
from sim.machine.listener import PASS
from sim.machine.timings import Timings
from sim.workload.passes import Pass

_SPIN_NS = 200_000  # a sleep may last so much longer than asked for


class Machine(Behind):
    """Drives one core by the clock of the device: what the forward pass tells, by the one thread that runs it.

    Within ``with machine:`` the other threads run; what one of them has died of is raised by the next call, by
    :meth:`finish` at the latest.
    """

    def __init__(self, core: Core, pool: Pool, *, depth: int = 1, predictor_threads: int = 1) -> None:
        super().__init__(core, pool, depth, predictor_threads)
        self.timings = Timings()
        self.steps = 0
        self.resident = False
        """Whether all experts were complete when the last step ended and have kept their slots since, and what is
        computed is what the gate chose."""
        self._step: Pass | None = None
        self._began = self._turn_began = 0
        self._ended: int | None = None  # the last step
        self._passed = False

    def __enter__(self) -> Machine:
        try:
            self.start()
        except BaseException:  # an interrupt between two threads
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def begin(self, step: Pass) -> None:
        """A forward pass begins."""
        with self._lock:
            self._check()
            self._step, self.steps = step, self.steps + 1
            self._stalls = self.core.accounts.stall_ns[0 if step.prefill else 1][0]
            self._began = self.open()  # what lies between two steps is the later one's
            self._stalled, self._passed = 0, False
            self.core.step_begin(self.steps, step.prefill, step.requests, step.parts, self.now())
            self.resident = self.resident and self.core.state.holds_all  # the policy may have evicted one
            blocking = self._go_on(may_block=True)
        self.block(blocking)

    def open(self) -> int:
        """The measured window is open, from now on if it was not. When what it has so far ended."""
        with self._lock:
            if self._ended is None:
                self._ended = self.core.accounts.start_ns = self.now()
                self.timeline.start(self._ended)
            return self._ended

    def idle(self, until: int) -> int:
        """Between two passes nobody is there before ``until``: wait for that moment, while copies go on. When that was;
        what has passed since the pass before is the time in which nothing was to be computed."""
        began = self.open()
        while (left := until - self.now()) > 0:
            if left > _SPIN_NS:
                time.sleep((left - _SPIN_NS) / 1e9)
        with self._lock:
            self._check()
            now = self._ended = self.now()
            self.core.accounts.idle_ns += now - began
            self.timeline.idle(began, now)
            return now

    def drain(self) -> None:
        """Wait for the compute that was launched so far, the gate's with it: the one wait of a layer whose choice is
        known. Told earlier, a demand would be on the link before a router can have asked for it, and what arrives
        meanwhile would be no hit. Without the lock: copies go on."""
        with self._copying(NONE):
            self.backend.mark().wait()

    def read(self, *tensors: Tensor) -> list[NDArray[Any]]:
        """Their values, which is as long a wait as :meth:`drain`."""
        with self._copying(NONE):
            return self.backend.download(*tensors)

    def gate(self, layer: int, demand: Sequence[int], tokens: Sequence[int]) -> LayerEvent:
        """The gate of a layer has run, and the device has nothing left to compute."""
        with self._lock:
            self._check()
            self._retire(wait=True)
            step = self._step
            assert step is not None
            self._stalls = self.core.accounts.stall_ns[0 if step.prefill else 1][layer]
            now = self.now()
            if not self._passed:
                self.timeline.layer(self.timeline.free, now, layer)
            event = self.core.gate(layer, demand, tokens, now)
            self._check_routing(demand, tokens)
            blocking = self._go_on(may_block=True)
        self.block(blocking)
        return event

    def passed(self) -> None:
        """All layers have run on the device, and are told only now: nothing had to be waited for."""
        with self._lock:
            self.timeline.layer(self.timeline.free, self.now(), PASS)
            self._passed = True

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
                    with self._copying(NONE):
                        running.wait()  # without the lock: copies go on meanwhile
                self.wait_for_expert()

    def host(self, work: Work) -> None:
        """The event's host experts can be computed from now on, by ``work``; :meth:`turns` ends when they have been."""
        raise CoreError("a machine without a host that computes was given work for it")

    def facts(self) -> dict[str, Any]:
        """What a result says of it."""
        return self.pool.facts()

    def launched(self, experts: list[int]) -> None:
        """The experts that :meth:`turns` has given last were handed to the device."""
        with self._copying(NONE):
            ticket = self.backend.mark()
        with self._lock:
            self._computing.append((self._turn_began, experts, ticket))
            self._retire()
            self._go_on()
            if self._computing and self.core.queued:
                self._work.notify()  # its end may make room, and the copy thread is to know of it

    def end(self) -> None:
        """The forward pass has ended on the device."""
        with self._lock:
            self._check()
            self._retire(wait=True)
            self._go_on()
            step, core = self._step, self.core
            assert step is not None
            now = self.now()
            core.step_end(now)
            if not self._passed:
                self.timeline.layer(self.timeline.free, now, core.setup.n_layers)
            self.timeline.step(self._began, now, self.steps, step.prefill)
            core.accounts.compute_ns += now - self._began - self._stalled
            core.accounts.pass_ns[step.kind] += now - self._began
            self.timings.note(step, self._began, now)
            self._ended = now
            complete = all(n == core.state.chunks for n in core.state.done)
            self.resident = complete and core.state.holds_all and not core.routes and core.places is None

    def measure(self) -> None:
        """What has been so far was to warm up."""
        with self._lock:
            self._check()
            now = self._ended = self.now()
            self.core.measure_from(now)
            self.timings = Timings()
            self.timeline.start(now)

    def finish(self) -> Accounts:
        """Close the accounts, and end the threads. The window ends with the last step; what is still being copied is in
        flight, and nobody is told of it any more."""
        self.stop()
        self._check()
        for _, chunk, ticket in self._under_way:
            with self._copying(chunk):
                ticket.wait()  # one that fails now is told, though nobody wants it any more
        ended, accounts = self._ended or 0, self.core.accounts
        if self._under_way:
            began = max(self._under_way[0][0], self._free_since, accounts.start_ns)
            accounts.link_busy_ns += max(0, ended - began)
        return self.core.finish(ended)

    # -- inside -------------------------------------------------------------------------------------------------

    def _check_routing(self, demand: Sequence[int], tokens: Sequence[int]) -> None:
        """CoreError where the policy has others compute than the gate chose, and does not say which tokens."""
        routing, policy = self.core.routing, self.core.policy
        if routing is not None and routing.chosen is None and not policy.lossless:
            number = self.core.setup.expert_of  # in whatever version
            wanted = {number(x): n for x, n in zip(routing.demand, routing.tokens, strict=True) if n}
            if wanted != dict(zip(demand, tokens, strict=True)):
                raise CoreError(f"policy {policy.name} does not say who computes which token (Routing.chosen)")

    def block(self, predictions: list[Prediction]) -> None:
        """Compute waits for predictions, one after the other, without the lock: copies go on meanwhile."""
        for tag, latency, _ in predictions:
            begin = self.now()
            while (left := begin + latency - self.now()) > 0:
                if left > _SPIN_NS:
                    time.sleep((left - _SPIN_NS) / 1e9)
            with self._lock:
                self._check()
                now = self.now()
                self._stall(begin, now, PREDICTOR)
                self.timeline.predict(begin, now, blocking=True)
                self.core.prediction(tag, now)
                self._go_on()

    def wait_for_expert(self) -> None:
        """Compute waits until an expert is complete; the device has nothing left to compute."""
        with self._lock:
            self._retire()
            self._go_on()
            self._waiting_since = self.now()
            while not self.core.ready:
                self._check()
                if not self._under_way:  # the copy thread may have told of a chunk, and not yet asked for the next
                    self._go_on()
                    if self.core.ready:
                        break
                    if not self._under_way and not self._predictions:
                        raise CoreError("deadlock: compute waits and nothing can be copied")
                self._ready.wait()
            self._charge(self._awaited, self.now())
            self._waiting_since = None
