"""What goes on behind the model's back: copies, predictions, and compute that ends. One lock, two threads.

The copy thread waits for copies, and for compute that makes room for one; the predictor's thread for the time at which
a prediction is due. Both tell the core, under the lock, and so does whoever runs the model (real.runtime.machine).
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush

import torch

from real.runtime.backend import DeviceError, Ticket
from real.runtime.pool import Pool
from sim.core.core import Core
from sim.core.loads import NONE, Prediction
from sim.core.log import record
from sim.core.state import DEMAND
from sim.results.timeline import Timeline
from traces.kit.telling import in_short

SWITCH_S = 5e-5
"""How long one thread may keep the interpreter from the other: the default, 5 ms, is a hundred expert computations."""


class Behind:
    """The half of the machine that the model's forward pass does not drive. Underscored methods want the lock.

    ``depth``: chunks handed to the link at once; they always finish.
    """

    def __init__(self, core: Core, pool: Pool, depth: int, predictor_threads: int) -> None:
        self.core, self.pool, self.backend, self.depth = record(core), pool, pool.backend, depth
        core.listen("evict", pool.evict)
        self.timeline = Timeline()
        self._lock = threading.RLock()
        self._ready, self._work, self._due = (threading.Condition(self._lock) for _ in range(3))
        self._under_way: deque[tuple[int, int, Ticket]] = deque()  # the link: (handed over, chunk, ticket)
        self._free_since = 0  # when the last copy ended
        self._computing: deque[tuple[int, list[int], Ticket]] = deque()  # (launched, experts, ticket)
        self._predictions: list[tuple[int, int, int]] = []  # (due, order of asking, tag)
        self._predictor_free = [0] * predictor_threads
        self._asked = 0
        self._waiting_since: int | None = None  # compute waits
        self._awaited = DEMAND  # what for, as an index of the stalls
        self._stalls: list[int] = []  # of the layer
        self._stalled = 0  # in the step
        self._stop = False
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._switch: float | None = None
        self._zero = time.perf_counter_ns()

    def now(self) -> int:
        """Nanoseconds since the machine was made."""
        return time.perf_counter_ns() - self._zero

    # -- threads ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads, which share the interpreter in shorter turns until they stop."""
        self._switch = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        for loop in self._loops():
            thread = threading.Thread(target=self._guard, args=(loop,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _loops(self) -> list[Callable[[], None]]:
        """What the threads do, one each."""
        return [self._copy_loop, self._predict_loop]

    def stop(self) -> None:
        """Tell the core nothing more, hand nothing over any more, and return when the threads have ended."""
        with self._lock:
            self._stop = True
            self._wake()
        while self._threads:
            if self._threads[-1].ident is not None:  # it has been started
                self._threads[-1].join()
            self._threads.pop()
        if self._switch is not None:
            sys.setswitchinterval(self._switch)
            self._switch = None

    def _guard(self, loop: Callable[[], None]) -> None:
        try:
            self.backend.enter()
            with torch.inference_mode():  # as the model's thread: a policy may read what the model has shown
                loop()
        except BaseException as error:  # told to the one who waits
            with self._lock:
                self._failure = self._failure or error
                self._wake()

    def _check(self) -> None:
        """Raise what a thread has died of."""
        if self._failure is not None:
            raise self._failure

    def _wake(self) -> None:
        for condition in (self._ready, self._work, self._due):
            condition.notify_all()

    def _copy_loop(self) -> None:
        """The copy thread: wait for the copies in their order, and tell the core."""
        while True:
            with self._lock:
                while not self._stop and not self._under_way and not (self._computing and self.core.queued):
                    self._work.wait()
                if self._stop:
                    return
                chunk = self._under_way[0][1] if self._under_way else NONE
                ticket = self._under_way[0][2] if self._under_way else self._computing[0][2]  # its end may make room
            with self._copying(chunk):
                ticket.wait()
            with self._lock:
                if self._stop:
                    return
                self._retire()
                if chunk != NONE:
                    self._arrived()
                if wanted := bool(self.core.ready):
                    self._ready.notify()
            # Compute that waits wakes up from here on, while the link is refilled, and is first where it is quick.
            with self._lock:
                if self._stop:
                    return
                self._go_on()
                if self.core.ready and not wanted:  # an order of the policy's has given way, as nothing can be copied
                    self._ready.notify()

    def _predict_loop(self) -> None:
        """The predictor's thread: tell the core of each prediction when its latency has passed."""
        with self._lock:
            while not self._stop:
                while self._predictions and self._predictions[0][0] <= self.now():
                    self.core.prediction(heappop(self._predictions)[2], self.now())
                    self._go_on()
                    self._ready.notify()  # which looks for a deadlock
                left = (self._predictions[0][0] - self.now()) / 1e9 if self._predictions else None
                self._due.wait(left if left is None else max(0.0, left))

    # -- inside, under the lock -----------------------------------------------------------------------------------

    def _retire(self, wait: bool = False) -> None:
        """Tell the core of compute that has ended; with ``wait``, of all that was launched."""
        while self._computing:
            began, experts, ticket = self._computing[0]
            if not ticket.done():
                if not wait:
                    return
                ticket.wait()
            self._computing.popleft()
            now = self.now()
            self.timeline.compute(began, now, experts)
            for x in experts:
                self.core.expert_done(x, now)

    def _arrived(self) -> None:
        """The oldest chunk on the link has arrived: tell the core."""
        handed_over, chunk, _ = self._under_way.popleft()
        now = self.now()
        began = max(handed_over, self._free_since)
        self._free_since = now
        expert = chunk // self.core.setup.chunks
        self.timeline.copy(began, now, chunk, self.core.state.kind[expert])
        self.timeline.occupancy(now, self.core.state.used)
        accounts = self.core.accounts
        accounts.link_busy_ns += now - max(began, accounts.start_ns)  # what lay in the warm-up does not count
        self._charge(self.core.state.kind[expert], now)
        self.core.chunk_done(chunk, now)

    def _charge(self, cause: int, now: int) -> None:
        """If compute waits: it has waited until now, and ``cause`` is what for."""
        if self._waiting_since is not None:
            self._stall(self._waiting_since, now, cause)
            self._waiting_since, self._awaited = now, cause

    def _stall(self, begin: int, end: int, cause: int) -> None:
        self.timeline.stall(begin, end, cause)
        self._stalls[cause] += end - begin
        self._stalled += end - begin

    def _go_on(self, *, may_block: bool = False) -> list[Prediction]:
        """Something has ended or was told: what the link takes next, and what the policy wants predicted. Returns the
        predictions that block, as only those may that follow a fact of the model's (``may_block``)."""
        self._hand_over()
        blocking = []
        for asked in self.core.take_predictions(may_block=may_block) if self.core.predictions else ():
            if asked[2]:
                blocking.append(asked)
            else:
                self._predict(*asked[:2])
        return blocking

    def _predict(self, tag: int, latency: int) -> None:
        """Start a prediction that does not block, on the thread that is free first."""
        self._asked += 1
        free = self._predictor_free
        thread = min(range(len(free)), key=free.__getitem__)
        begin = max(self.now(), free[thread])
        free[thread] = begin + latency
        self.timeline.predict(begin, free[thread], blocking=False)
        heappush(self._predictions, (free[thread], self._asked, tag))
        self._due.notify()

    def _hand_over(self) -> None:
        """Give the link the core's next chunks, as long as the core has some and the link takes them."""
        while self.core.pending and len(self._under_way) < self.depth and not self._stop:
            chunk = self.core.next_chunk()
            if chunk == NONE:
                return
            now = self.now()
            with self._copying(chunk):
                self._under_way.append((now, chunk, self.pool.start_copy(chunk)))
            self._work.notify()

    @contextmanager
    def _copying(self, chunk: int) -> Iterator[None]:
        """DeviceError where the device refuses to copy a chunk, or to compute (NONE)."""
        try:
            yield
        except RuntimeError as error:
            setup, item = self.core.setup, chunk // self.core.setup.chunks
            expert = f"expert {item % setup.n_experts} of layer {setup.layer_of(item)}"
            what = "the compute of experts" if chunk == NONE else f"the copy of {expert}"
            raise DeviceError(f"{what} failed on {self.backend.device}: {in_short(error)}") from error
