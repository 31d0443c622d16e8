"""A host that computes: its workers, and the memory that they share with the link.

An expert takes a worker for its activations' way there, its compute and their way back. Link and workers read one
memory: whoever begins while others are under way runs at its rate alone times min(1, D / the sum of the rates alone),
D what the memory gives; what has begun before keeps its end. A rate is bytes over the time alone. First order: held
against rates that are shared anew at every beginning and end (tests/sim/machine/test_contention.py).
"""

from collections.abc import Sequence
from fractions import Fraction
from heapq import heappop, heappush

from policies.api import Host
from sim.core.accounts import CPU_EXPERTS
from sim.core.core import Core
from sim.core.loads import NONE
from sim.core.state import SPECULATIVE, CoreError
from sim.machine.behind import Behind
from sim.machine.link import Link
from sim.machine.listener import SpanListener
from sim.machine.predictor import Predictor


class Memory:
    """Who reads the host's memory: ``dram`` bytes per ns in all, None for as many as are wanted."""

    def __init__(self, dram: Fraction | None) -> None:
        self.dram = dram
        self._reading: list[tuple[int, Fraction]] = []  # (end, rate alone)

    def read(self, nbytes: int, alone_ns: int, now: int) -> int:
        """Begin to read; returns when it ends. What takes no time alone takes none."""
        if self.dram is None or not alone_ns:
            return now + alone_ns
        rate = Fraction(nbytes, alone_ns)
        self._reading = [entry for entry in self._reading if entry[0] > now]
        ns, together = alone_ns, rate + sum(rate for _, rate in self._reading)
        if self._reading and together > self.dram:
            slowed = alone_ns * together / self.dram
            ns = -(-slowed.numerator // slowed.denominator)
        self._reading.append((now + ns, rate))
        return now + ns


class SharedLink(Link):
    """A link whose copies are in the way of others who read the memory: a chunk's time is known when it begins."""

    def __init__(self, core: Core, copy_ns: Sequence[int], depth: int, memory: Memory) -> None:
        super().__init__(core, copy_ns, depth)
        self.memory = memory
        self._waiting: list[int] = []  # handed over, and not begun
        self.began = 0
        """When the chunk under way began."""

    def hand_over(self, now: int) -> None:
        core, under_way, waiting = self.core, self.under_way, self._waiting
        while core.pending and len(under_way) + len(waiting) < self.depth:
            chunk = self._next_chunk()
            if chunk == NONE:
                return
            waiting.append(chunk)
            self.begin(now)

    def begin(self, now: int) -> None:
        """The next chunk begins, if it is its turn."""
        if self._waiting and not self.under_way:
            chunk = self._waiting.pop(0)
            end = self.memory.read(self.core.state.chunk_bytes[chunk], self.copy_ns[chunk], now)
            self.busy_ns += end - now
            self.began = now
            self.under_way.append((end, chunk))


class Workers:
    """Compute what the core gives the host, as many at a time as there are workers, in the order of the policy."""

    def __init__(self, core: Core, host: Host, memory: Memory, listener: SpanListener) -> None:
        self.core, self.host, self.memory, self.listener = core, host, memory, listener
        self.under_way: list[tuple[int, int, int]] = []  # a heap of (end, order of taking, expert)
        self._taken = 0

    def take(self, now: int) -> None:
        """Take experts, as long as the core has some and a worker is free."""
        core, setup = self.core, self.core.setup
        while core.hosted and len(self.under_way) < self.host.workers:
            x = core.next_host()
            layer, event = setup.layer_of(x), core.event
            alone_ns = self.host.expert_ns(layer, event.tokens[event.demand.index(x)])
            end = self.memory.read(setup.expert_bytes[layer], alone_ns, now)
            core.accounts.host_ns += end - now
            self.listener.host(now, end, x)
            self._taken += 1
            heappush(self.under_way, (end, self._taken, x))


class WithHost(Behind):
    """A link, a predictor and the host's workers."""

    def __init__(
        self,
        core: Core,
        host: Host,
        copy_ns: Sequence[int],
        depth: int,
        predictor: Predictor,
        listener: SpanListener,
    ) -> None:
        memory = Memory(host.dram)
        self.shared = SharedLink(core, copy_ns, depth, memory)
        self.workers = Workers(core, host, memory, listener)
        self.hosts = self.workers.under_way
        super().__init__(core, self.shared, predictor, listener)

    def advance(self, now: int) -> None:
        """Tell the core all that ends up to ``now``, in time order: of one instant chunk, prediction, host expert."""
        core, copies, predictions, hosts = self.core, self.copies, self.predictions, self.workers.under_way
        while True:
            ends = [(queue[0][0], i) for i, queue in enumerate((copies, predictions, hosts)) if queue]
            end, which = min(ends, default=(now + 1, 0))
            if end > now:
                return
            if which == 0:
                _, chunk = copies.popleft()
                self._chunk_done(chunk, end)
                self.shared.begin(end)
            elif which == 1:
                _, _, tag = heappop(predictions)
                core.prediction(tag, end)
            else:
                _, _, x = heappop(hosts)
                core.host_done(x, end)
            self.go_on(end)

    def go_on(self, now: int) -> None:
        """Something has ended: what link and workers can take next, and the predictions that the policy wants now."""
        super().go_on(now)
        self.workers.take(now)

    def block(self, now: int, stalls: list[int]) -> int:
        """As without a host, whose workers begin at the gate, as the link does."""
        self.link.hand_over(now)
        self.workers.take(now)
        return super().block(now, stalls)

    def wait_for_expert(self, now: int, stalls: list[int]) -> int:
        """Compute waits until an expert is ready, for link and host at once: a nanosecond is the host's where it works
        and the chunk on the link is none that the event demands. Returns when."""
        core, copies, hosts = self.core, self.copies, self.workers.under_way
        kind, chunks, began = core.state.kind, core.state.chunks, now
        while not core.ready:
            if not copies:
                raise CoreError("deadlock: compute waits and nothing can be copied")
            end, chunk = copies[0]
            cause = kind[chunk // chunks]
            if hosts:
                end = min(end, hosts[0][0])
                cause = CPU_EXPERTS if cause == SPECULATIVE else cause
            now = self._wait(now, end, cause, stalls)
        self.waited_ns += now - began
        return now

    def wait_for_host(self, now: int, stalls: list[int]) -> int:
        began = now
        self.workers.take(now)
        while hosts := self.workers.under_way:
            now = self._wait(now, hosts[0][0], CPU_EXPERTS, stalls)
        self.waited_ns += now - began
        return now

    def _wait(self, now: int, until: int, cause: int, stalls: list[int]) -> int:
        stalls[cause] += until - now
        self.listener.stall(now, until, cause)
        self.advance(until)
        return until

    def _shown(self, chunk: int, now: int) -> None:
        core = self.core
        self.listener.copy(self.shared.began, now, chunk, core.state.kind[chunk // core.state.chunks])
        core.chunk_done(chunk, now)
        self.listener.occupancy(now, core.state.used)
