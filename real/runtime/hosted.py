"""A machine whose host computes experts, too (policies.api.Policy.place): threads of its own beside those of Behind.

Who touches what. The thread that runs the model gives a layer's work (:meth:`HostedMachine.host`) after its gate, and
waits for the workers before it sums (:meth:`HostedMachine.turns`). A worker takes an expert from the core, computes it,
and tells the core, each under the lock; in between, without it, it reads the store, which nobody writes, and the
layer's inputs, and writes the rows of its expert alone. Its staging buffers and its stream are its own.

torch's number of threads is each thread's own (OpenMP's), and the last one that was set is what threads begin with that
start later. So a worker sets its share when it starts, and who has started it sets the former number again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from real.runtime.backend import DeviceError, Ticket
from real.runtime.compute import Work
from real.runtime.machine import Machine
from real.runtime.pool import Pool
from sim.core.accounts import CPU_EXPERTS
from sim.core.core import Core
from sim.core.loads import NONE, Prediction
from sim.core.state import DEMAND, SPECULATIVE
from traces.kit.telling import in_short


class HostedMachine(Machine):
    """Adds ``workers`` threads that compute what the core gives the host, each with its even share of torch's threads.

    They begin when the layer's rows are at hand: after the gate, and after predictions that block there. On a CPU an
    expert's bits are those that the device would have made if a worker has as many of torch's threads as the model's
    (one worker, or one thread): torch cuts sums by their number. A GPU rounds otherwise than a host in any case.
    """

    def __init__(self, core: Core, pool: Pool, *, depth: int = 1, predictor_threads: int = 1, workers: int = 1) -> None:
        super().__init__(core, pool, depth=depth, predictor_threads=predictor_threads)
        self.workers, self._whole = workers, torch.get_num_threads()
        self.threads = max(1, self._whole // workers)
        """Of torch, for each worker."""
        self._hosting = threading.Condition(self._lock)
        self._settled = 0  # workers that have their share of threads
        self._job: tuple[Work, Ticket] | None = None  # of the layer, and when its rows are there
        self._at_work = 0  # workers that compute
        self._for_host = False  # compute waits for nothing but the host

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"host_workers": self.workers, "host_threads_each": self.threads}

    # -- threads ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        super().start()
        with self._lock:
            while self._settled < self.workers:
                self._check()
                self._ready.wait()
        torch.set_num_threads(self._whole)

    def stop(self) -> None:
        super().stop()
        torch.set_num_threads(self._whole)  # a start that was interrupted has not come to it

    def _loops(self) -> list[Callable[[], None]]:
        return [*super()._loops(), *[self._host_loop] * self.workers]

    def _wake(self) -> None:
        super()._wake()
        self._hosting.notify_all()

    def _host_loop(self) -> None:
        """A worker: take an expert, compute it, tell the core."""
        staging = self.backend.staging()
        with self._lock:
            if self._stop:
                return
            torch.get_num_threads()  # a thread's first question gives it what was set last, whatever it has set before
            torch.set_num_threads(self.threads)
            self._settled += 1
            self._ready.notify()
        while True:
            with self._lock:
                while not self._stop and not (self._job and self.core.hosted):
                    self._hosting.wait()
                if self._stop:
                    return
                assert self._job is not None
                work, there = self._job
                began = self._taken()
                x = self.core.next_host()
            with self._computing_on_host(x):
                there.wait()
                work(x, staging)
            del work  # and the layer's rows with it
            with self._lock:
                if self._stop:
                    return
                self._computed(x, began)

    # -- what the model's thread tells ----------------------------------------------------------------------------

    def host(self, work: Work) -> None:
        with self._copying(NONE):
            there = self.backend.mark()
        with self._lock:
            self._check()
            self._job = work, there
            self._go_on()

    def turns(self) -> Iterator[list[int]]:
        yield from super().turns()
        if self._job is not None:
            self.wait_for_host()

    def wait_for_host(self) -> None:
        """The device's part of the layer has been handed out: wait until it has been computed, then for the host."""
        with self._lock:
            running = self._computing[-1][2] if self._computing else None
        if running is not None:
            with self._copying(NONE):
                running.wait()  # which is compute; without the lock: copies go on meanwhile
        with self._lock:
            self._retire()  # a host that begins last begins now
            self._go_on()
            if self.core.hosted or self._at_work:
                self._waiting_since, self._for_host = self.now(), True
                while self.core.hosted or self._at_work:
                    self._check()
                    self._ready.wait()
                self._charge(CPU_EXPERTS, self.now())
                self._waiting_since, self._for_host, self._awaited = None, False, DEMAND
            self._check()
            self._job = None

    # -- inside, under the lock -----------------------------------------------------------------------------------

    def _go_on(self, *, may_block: bool = False) -> list[Prediction]:
        blocking = super()._go_on(may_block=may_block)
        if self._job and self.core.hosted:
            self._hosting.notify(len(self.core.hosted))
        return blocking

    def _taken(self) -> int:
        """A worker begins; returns when. Until now compute that waits has waited for the link alone, or for another."""
        now = self.now()
        self._charge(self._on_link(), now)
        self._at_work += 1
        return now

    def _computed(self, x: int, began: int) -> None:
        """A worker has computed an expert: tell the core."""
        now = self.now()
        self._charge(self._on_link(), now)
        self._at_work -= 1
        self.core.accounts.host_ns += now - began
        self.timeline.host(began, now, x)
        self.core.host_done(x, now)
        if not self._at_work and not self.core.hosted:
            self._ready.notify()

    def _on_link(self) -> int:
        """What compute that waits for the link waits for now, as an index of the stalls."""
        if not self._under_way:
            return self._awaited
        return self.core.state.kind[self._under_way[0][1] // self.core.setup.chunks]

    def _charge(self, cause: int, now: int) -> None:
        """As without a host; but a nanosecond is the host's where it works and nothing demanded is on the link."""
        if self._for_host or (self._at_work and cause == SPECULATIVE):
            cause = CPU_EXPERTS
        super()._charge(cause, now)

    @contextmanager
    def _computing_on_host(self, x: int) -> Iterator[None]:
        """DeviceError where torch refuses to compute an expert."""
        try:
            yield
        except RuntimeError as error:
            layer, expert = divmod(x, self.core.setup.n_experts)
            said = f"expert {expert} of layer {layer} failed on the host"
            raise DeviceError(f"{said}: {in_short(error)}") from error
