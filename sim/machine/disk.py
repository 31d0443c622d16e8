"""A disk below host memory: reads beside the link's copies, each with lanes of its own.

Facts of one instant come in the order read, chunk, prediction, expert, gate; what is free then is asked in the order
link, disk. A nanosecond in which compute waits belongs to the link where it carries something that the event demands,
else to the disk where it reads such a thing, else to what was queued before.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from heapq import heappop, heapreplace
from operator import itemgetter

from sim.core.accounts import DISK_READ
from sim.core.loads import NONE
from sim.core.state import SPECULATIVE, CoreError
from sim.core.tiers import TieredCore
from sim.machine.behind import WithMore
from sim.machine.link import Link
from sim.machine.listener import SpanListener
from sim.machine.page_cache import PageCache
from sim.machine.predictor import Predictor

NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Reads:
    """What the disk takes, in whole ns."""

    read_ns: Sequence[int]
    """Of each chunk."""
    back_ns: Callable[[int], int]
    """Of so many bytes that go from the GPU back to the host, before the next chunk."""
    lanes: int = 1
    page_cache: int = 0
    """Bytes of the operating system's page cache."""
    cached_ns: Sequence[int] = ()
    """Of each chunk that it serves: on a lane, as it is the reader's copy, but not on the drive."""


class Stage(Link):
    """Lanes that take chunks in the order in which they are given, ``places`` of them at a time; these always finish.

    A chunk goes to the lane that is free first. ``ask``: for the next one, NONE if there is none now.
    """

    def __init__(
        self,
        core: TieredCore,
        ask: Callable[[], int],
        wants: Callable[[], bool],
        price: Callable[[int], int],
        places: int,
        lanes: int,
    ) -> None:
        super().__init__(core, (), NEVER)
        # The GPU lets things go on wherever something is pending: where the link is full, the disk may be free.
        self.ask, self.wants, self.price, self.places, self.lanes = ask, wants, price, places, lanes
        self.began: dict[int, int] = {}
        """When each chunk that is under way began, or is to begin."""
        self.elsewhere: Collection[int] = ()
        """The chunks under way whose time is that of somebody else than this stage's device."""
        self._free = [0] * lanes  # a heap of when each lane is free

    def hand_over(self, now: int) -> None:
        while self.wants() and len(self.under_way) < self.places:
            chunk = self.ask()
            if chunk == NONE:
                return
            ns = self.price(chunk)
            self.busy_ns += 0 if chunk in self.elsewhere else ns
            begin = self.began[chunk] = max(now, self._free[0])
            heapreplace(self._free, begin + ns)
            insort(self.under_way, (begin + ns, chunk), key=itemgetter(0))  # of one end, the one that began first

    def busy_after(self, now: int) -> int:
        own = ((end, chunk) for end, chunk in self.under_way if chunk not in self.elsewhere)
        return sum(min(end - self.began[chunk], end - now) for end, chunk in own)

    def carried(self, now: int) -> list[int]:
        """The chunks that are on a lane from ``now`` on; those that wait for one are not."""
        return [chunk for _, chunk in self.under_way if self.began[chunk] <= now]


class WithDisk(WithMore):
    """A link, a disk and a predictor."""

    def __init__(
        self,
        core: TieredCore,
        copy_ns: Sequence[int],
        depth: int,
        lanes: int,
        reads: Reads,
        predictor: Predictor,
        listener: SpanListener,
    ) -> None:
        self.tiered, back_ns = core, reads.back_ns

        def copying(chunk: int) -> int:
            owed = core.take_owed()
            return copy_ns[chunk] + (back_ns(owed) if owed else 0)

        link = Stage(core, core.next_chunk, lambda: core.pending, copying, depth * lanes, lanes)
        reading: Callable[[int], int] = reads.read_ns.__getitem__
        self.pages = pages = PageCache(core.state.chunk_bytes, core.state.chunks, reads.page_cache)
        if reads.page_cache:
            reading = pages.priced(reads.read_ns, reads.cached_ns)
        self.disk = Stage(core, core.next_read, lambda: core.reading, reading, reads.lanes, reads.lanes)
        self.disk.elsewhere = pages.serves
        self.reads: deque[tuple[int, int]] = self.disk.under_way
        self.stage = link
        super().__init__(core, link, predictor, listener)
        self.hosts = self.reads  # type: ignore[assignment]  # asked whether anything is there, as host workers are

    def take(self, now: int) -> None:
        self.disk.hand_over(now)

    def _tell(self, now: int) -> bool:
        """Tell the core what ends first, and go on; False if nothing ends up to ``now``."""
        core, reads, copies, predictions = self.tiered, self.reads, self.copies, self.predictions
        queues: tuple[Sequence[tuple[int, ...]], ...] = (reads, copies, predictions)
        end, which = min(((queue[0][0], i) for i, queue in enumerate(queues) if queue), default=(now + 1, 0))
        if end > now:
            return False
        if which == 0:
            _, chunk = reads.popleft()
            self.listener.read(self.disk.began.pop(chunk), end, chunk)
            self.pages.read_done(chunk)
            core.read_done(chunk, end)
        elif which == 1:
            _, chunk = copies.popleft()
            self._chunk_done(chunk, end)
            self.stage.began.pop(chunk)
        else:
            _, _, tag = heappop(predictions)
            core.prediction(tag, end)
        self.go_on(end)
        return True

    def wait_for_expert(self, now: int, stalls: list[int]) -> int:
        """Compute waits until an expert is ready, for link and disk at once. Returns when."""
        core, predictions, began = self.core, self.predictions, now
        while not core.ready:
            if not self.copies and not self.reads:
                raise CoreError("deadlock: compute waits and nothing can be copied or read")
            queues: tuple[Sequence[tuple[int, ...]], ...] = (self.reads, self.copies, predictions)
            until, cause = min(queue[0][0] for queue in queues if queue), self._cause(now)
            stalls[cause] += until - now
            self.listener.stall(now, until, cause)
            now = until
            if predictions:
                self.advance(now)
            else:  # one fact, and the next question, as without a disk
                self._tell(now)
                if predictions:  # what takes no time
                    self.advance(now)
        self.waited_ns += now - began
        return now

    def wait_for_host(self, now: int, stalls: list[int]) -> int:
        """No expert of the event is computed elsewhere."""
        return now

    def _cause(self, now: int) -> int:
        kind, chunks = self.core.state.kind, self.core.state.chunks
        cause = min((kind[chunk // chunks] for chunk in self.stage.carried(now)), default=SPECULATIVE)
        if cause == SPECULATIVE and any(kind[chunk // chunks] != SPECULATIVE for chunk in self.disk.carried(now)):
            return DISK_READ
        return cause

    def _shown(self, chunk: int, now: int) -> None:
        core = self.core
        self.listener.copy(self.stage.began[chunk], now, chunk, core.state.kind[chunk // core.state.chunks])
        core.chunk_done(chunk, now)
        self.listener.occupancy(now, core.state.used)
