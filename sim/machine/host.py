"""A host that computes: its workers, and the memory that they share with the link.

An expert takes a worker for its activations' way there, its compute and their way back. Link and workers read one
memory: whoever begins while others are under way runs at its rate alone times min(1, D / the sum of the rates alone),
D what the memory gives; what has begun before keeps its end. A rate is bytes over the time alone. A link's lanes are
others to a worker, and not to each other: their rate is that of all of them at once. First order: held against rates
that are shared anew at every beginning and end (tests/sim/machine/test_contention.py).
"""

from bisect import insort
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from heapq import heappop, heappush
from operator import itemgetter

from policies.api import Host
from sim.core.accounts import CPU_EXPERTS
from sim.core.core import Core
from sim.core.loads import NONE
from sim.core.state import SPECULATIVE, CoreError
from sim.machine.behind import WithMore
from sim.machine.link import Link, Source
from sim.machine.listener import NOBODY, SpanListener
from sim.machine.predictor import Predictor


class Memory:
    """Who reads the host's memory: ``dram`` bytes per ns in all, None for as many as are wanted."""

    def __init__(self, dram: Fraction | None) -> None:
        self.dram = dram
        self._most, self._of = (0, 1) if dram is None else dram.as_integer_ratio()
        self._reading: list[tuple[int, int, int, bool]] = []  # (end, bytes, ns alone, whether by the link)

    def read(self, nbytes: int, alone_ns: int, now: int, *, by_link: bool) -> int:
        """Begin to read; returns when it ends. What takes no time alone takes none."""
        if self.dram is None or not alone_ns:
            return now + alone_ns
        # The sum of the rates alone, as two whole numbers: a Fraction takes many times as long.
        together, over, reading, ns = nbytes, alone_ns, list[tuple[int, int, int, bool]](), alone_ns
        for entry in self._reading:
            if entry[0] > now:
                _, others, others_ns, _ = entry
                together, over = together * others_ns + others * over, over * others_ns
                reading.append(entry)
        self._reading = reading
        if together * self._of > self._most * over and not self._undisturbed(by_link):
            ns = -(-alone_ns * together * self._of // (over * self._most))
        reading.append((now + ns, nbytes, alone_ns, by_link))
        return now + ns

    def _undisturbed(self, by_link: bool) -> bool:
        return all(by_link and a_lane for *_, a_lane in self._reading)


class Root(Memory):
    """What the links of all GPUs lie behind, as behind the host's memory. It may give less than one link alone takes,
    and the lanes of a link are in each other's way, too."""

    def _undisturbed(self, by_link: bool) -> bool:
        return False


class SharedLink(Link):
    """A link whose copies are in the way of others who read the memory: a chunk's time is known when it begins.

    Under way are those that are on one of its lanes.
    """

    def __init__(self, core: Source, copy_ns: Sequence[int], depth: int, lanes: int, memory: Memory) -> None:
        super().__init__(core, copy_ns, depth * lanes)
        self.lanes, self.memory = lanes, memory
        self.waiting: deque[int] = deque()
        """Handed over, and not begun."""
        self.began: dict[int, int] = {}
        """When each chunk that is under way began."""

    @property
    def has_place(self) -> bool:
        """Whether a chunk can be handed over."""
        return len(self.under_way) + len(self.waiting) < self.depth

    def hand_over(self, now: int) -> None:
        if self.core.pending:
            self.take()
        if self.waiting:
            self.begin(now)

    def take(self) -> None:
        """Take chunks, as long as the core has some and there is a place."""
        while self.core.pending and self.has_place:
            chunk = self._next_chunk()
            if chunk == NONE:
                return
            self.waiting.append(chunk)

    def begin(self, now: int) -> None:
        """The next chunks begin, one for each lane that is free."""
        while self.waiting and len(self.under_way) < self.lanes:
            chunk = self.waiting.popleft()
            end = self.memory.read(self.core.state.chunk_bytes[chunk], self.copy_ns[chunk], now, by_link=True)
            self.busy_ns += end - now
            self.began[chunk] = now
            insort(self.under_way, (end, chunk), key=itemgetter(0))  # of one end, the one that began first

    def busy_after(self, now: int) -> int:
        """Nanoseconds of the copies under way that lie after ``now``, summed over the lanes."""
        return sum(end - now for end, _ in self.under_way)


class Workers:
    """Compute what the core gives the host, as many at a time as there are workers, in the order of the policy."""

    def __init__(self, core: Core, host: Host, memory: Memory, listener: SpanListener) -> None:
        self.core, self.host, self.memory, self.listener = core, host, memory, listener
        self.under_way: list[tuple[int, int, int]] = []  # a heap of (end, order of taking, expert)
        self._taken = 0

    def take(self, now: int) -> None:
        """Take experts, as long as the core has some and a worker is free."""
        core, under_way, most = self.core, self.under_way, self.host.workers
        if not core.hosted or len(under_way) >= most:
            return
        setup, places, listener = core.setup, core.places, None if self.listener is NOBODY else self.listener
        assert places is not None
        while core.hosted and len(under_way) < most:
            x = core.next_host()
            layer = setup.layer_of(x)
            alone_ns = self.host.expert_ns(layer, places.tokens[x])
            end = self.memory.read(setup.expert_bytes[layer], alone_ns, now, by_link=False)
            core.accounts.host_ns += end - now
            if listener is not None:
                listener.host(now, end, x)
            self._taken += 1
            heappush(under_way, (end, self._taken, x))


class WithHost(WithMore):
    """A link, a predictor and the host's workers."""

    def __init__(
        self,
        core: Core,
        host: Host,
        copy_ns: Sequence[int],
        depth: int,
        lanes: int,
        predictor: Predictor,
        listener: SpanListener,
    ) -> None:
        assert core.places is not None
        self.places = core.places
        memory = Memory(host.dram)
        self.shared = SharedLink(core, copy_ns, depth, lanes, memory)
        self.workers = Workers(core, host, memory, listener)
        self.hosts = self.workers.under_way
        super().__init__(core, self.shared, predictor, listener)

    def take(self, now: int) -> None:
        self.workers.take(now)

    def go_on(self, now: int) -> None:
        core = self.core
        if core.pending or core.predictions or self.shared.waiting:
            super().go_on(now)
        elif core.hosted:
            self.workers.take(now)

    def _tell(self, now: int) -> bool:
        """Tell the core what ends first, and go on; False if nothing ends up to ``now``.

        Of one instant: chunk, prediction, host expert.
        """
        core, copies, predictions, hosts = self.core, self.copies, self.predictions, self.workers.under_way
        end, which = now, -1
        if hosts and hosts[0][0] <= end:
            end, which = hosts[0][0], 2
        if predictions and predictions[0][0] <= end:
            end, which = predictions[0][0], 1
        if copies and copies[0][0] <= end:
            end, which = copies[0][0], 0
        if which < 0:
            return False
        if which == 0:
            _, chunk = copies.popleft()
            self._chunk_done(chunk, end)
            if self.shared.waiting:
                self.shared.begin(end)
        elif which == 1:
            _, _, tag = heappop(predictions)
            core.prediction(tag, end)
        else:
            _, _, x = heappop(hosts)
            core.host_done(x, end)
        self.go_on(end)
        return True

    def wait_for_expert(self, now: int, stalls: list[int]) -> int:
        """Compute waits until an expert is ready, for link and host at once: a nanosecond is the host's where it works
        and no chunk on the link is one that the event demands. Returns when."""
        core, copies, predictions, hosts = self.core, self.copies, self.predictions, self.workers.under_way
        kind, chunks, began = core.state.kind, core.state.chunks, now
        # What a prediction calls forth may take a lane that is free.
        awaited: list[Sequence[tuple[int, ...]]] = [copies, hosts]
        if self.shared.lanes > 1:
            awaited.append(predictions)
        while not core.ready:
            if not copies:
                raise CoreError("deadlock: compute waits and nothing can be copied")
            cause = kind[copies[0][1] // chunks] if len(copies) == 1 else min([kind[c // chunks] for _, c in copies])
            if hosts and cause == SPECULATIVE and self.places.awaited:
                cause = CPU_EXPERTS
            now = self._wait(now, min([queue[0][0] for queue in awaited if queue]), cause, stalls)
            if predictions:
                self.advance(now)
            else:  # one fact, and the next question, as without a host
                self._tell(now)
                if predictions:  # what takes no time
                    self.advance(now)
        self.waited_ns += now - began
        return now

    def wait_for_host(self, now: int, stalls: list[int]) -> int:
        began = now
        self.workers.take(now)
        while self.places.due:
            now = self._wait(now, self.workers.under_way[0][0], CPU_EXPERTS, stalls)
            self.advance(now)
        self.waited_ns += now - began
        return now

    def _wait(self, now: int, until: int, cause: int, stalls: list[int]) -> int:
        stalls[cause] += until - now
        self.listener.stall(now, until, cause)
        return until

    def _shown(self, chunk: int, now: int) -> None:
        core = self.core
        self.listener.copy(self.shared.began[chunk], now, chunk, core.state.kind[chunk // core.state.chunks])
        core.chunk_done(chunk, now)
        self.listener.occupancy(now, core.state.used)
