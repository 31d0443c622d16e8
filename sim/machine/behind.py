"""What goes on behind the model's back: a link's copies and a predictor's answers, told to the core in time order."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from heapq import heappop

from sim.core.accounts import PREDICTOR
from sim.core.core import Core
from sim.core.state import CoreError
from sim.machine.link import Lanes, Link
from sim.machine.listener import NOBODY, SpanListener
from sim.machine.predictor import Predictor


class Behind:
    """A link and a predictor, advanced lazily: nothing of them is an event of SimPy's.

    A disk (sim.machine.disk) and host workers (sim.machine.host) are queues of ends beside these two, told in the order
    that rule 1 has for equal times (:meth:`advance`), and awaited with them (:meth:`wait_for_expert`).
    """

    hosts: Sequence[tuple[int, int, int]] = ()
    """What the host computes now: (end, order of taking, expert)."""

    def __init__(self, core: Core, link: Link, predictor: Predictor, listener: SpanListener) -> None:
        self.core, self.link, self.predictor, self.listener = core, link, predictor, listener
        self.copies, self.predictions = link.under_way, predictor.under_way
        self.waited_ns = 0  # compute, so far
        self._waiting_since: int | None = None
        self._chunk_done: Callable[[int, int], None] = core.chunk_done if listener is NOBODY else self._shown

    def advance(self, now: int) -> None:
        """Tell the core all that ends up to ``now``, in time order, a chunk before a prediction."""
        core, copies, predictions = self.core, self.copies, self.predictions
        while True:
            if copies and copies[0][0] <= now and not (predictions and predictions[0][0] < copies[0][0]):
                end, chunk = copies.popleft()
                self._chunk_done(chunk, end)
            elif predictions and predictions[0][0] <= now:
                end, _, tag = heappop(predictions)
                core.prediction(tag, end)
            else:
                return
            if core.pending or core.predictions:
                self.go_on(end)

    def go_on(self, now: int) -> None:
        """Something has ended: what the link can take next, and the predictions that the policy wants now."""
        self.link.hand_over(now)
        if self.core.predictions:
            self.predictor.start(self.core.take_predictions(may_block=False), now)

    def block(self, now: int, stalls: list[int]) -> int:
        """The model itself has told a fact: go on, and compute waits for predictions that block. Returns until when."""
        self.link.hand_over(now)
        if not self.core.predictions:
            return now
        free = self.predictor.start(self.core.take_predictions(may_block=True), now)
        stalls[PREDICTOR] += free - now
        self.waited_ns += free - now
        self.listener.stall(now, free, PREDICTOR)
        self.advance(free)
        return free

    def wait_for_expert(self, now: int, stalls: list[int]) -> int:
        """Compute waits until an expert is ready: charge each nanosecond to the chunk on the link; returns when."""
        core, copies, kind, chunks = self.core, self.copies, self.core.state.kind, self.core.state.chunks
        lanes = self.link if isinstance(self.link, Lanes) else None
        began, self._waiting_since = now, None if lanes else now
        while not core.ready:
            if not copies:
                raise CoreError("deadlock: compute waits and nothing can be copied")
            end, chunk = copies[0]
            if lanes is None:
                stalls[kind[chunk // chunks]] += end - now
            else:
                end = self._wait_for_lanes(lanes, now, end, stalls)
            now = end
            if self.predictions:
                self.advance(now)
                continue
            copies.popleft()
            self._chunk_done(chunk, now)
            if core.pending:
                self.link.hand_over(now)
            if core.predictions:
                self.go_on(now)
                self.advance(now)  # what takes no time
        self._waiting_since = None
        self.waited_ns += now - began
        return now

    def wait_for_host(self, now: int, stalls: list[int]) -> int:
        """Compute has done its part of the layer, and waits until the host has; returns when."""
        raise CoreError("a machine without a host that computes was asked to wait for it")

    def _wait_for_lanes(self, link: Lanes, now: int, end: int, stalls: list[int]) -> int:
        """Compute waits for several lanes, of which the first ends its chunk at ``end``. Returns until when the chunks
        on them stay the same: what a prediction calls forth may take a free lane before.

        A nanosecond is charged to a demand chunk if any is on a lane, else to the rest of an upgraded load if any is.
        """
        kind, chunks = self.core.state.kind, self.core.state.chunks
        cause = min(kind[chunk // chunks] for chunk in link.carried(now))
        if self.predictions:
            end = min(end, self.predictions[0][0])
        stalls[cause] += end - now
        self.listener.stall(now, end, cause)
        return end

    def _shown(self, chunk: int, now: int) -> None:
        """As the core's ``chunk_done``, for a listener."""
        core, listener = self.core, self.listener
        kind = core.state.kind[chunk // core.state.chunks]
        listener.copy(now - self.link.copy_ns[chunk], now, chunk, kind)
        if self._waiting_since is not None:
            listener.stall(self._waiting_since, now, kind)
            self._waiting_since = now
        core.chunk_done(chunk, now)
        listener.occupancy(now, core.state.used)


class WithMore(Behind, ABC):
    """A link and a predictor, and beside them something that takes what it can whenever anything has ended."""

    @abstractmethod
    def take(self, now: int) -> None:
        """Let it take what it can."""

    @abstractmethod
    def _tell(self, now: int) -> bool:
        """Tell the core what ends first, and go on; False if nothing ends up to ``now``."""

    def advance(self, now: int) -> None:
        while self._tell(now):
            pass

    def go_on(self, now: int) -> None:
        super().go_on(now)
        self.take(now)

    def block(self, now: int, stalls: list[int]) -> int:
        """As without it: it begins at the gate, as the link does."""
        self.link.hand_over(now)
        self.take(now)
        return super().block(now, stalls)
