"""Whose turn it is: which experts of an event may run now, and which copies may be queued (policies.api.Schedule)."""

from collections import deque
from collections.abc import Sequence

from policies.api import Schedule
from sim.core.state import LATE, CoreError, State, whole

_AS_THEY_COME = Schedule()


class Turns(deque[int]):
    """The complete experts that may run now: all that are not handed out, or with an order the next in turn alone.

    The core appends what has become complete and takes from the left, as from any deque.
    """

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state
        self._line: list[int] | None = None  # not computed, in order; None: no order
        self._out = 0  # how many at the head of the line are handed out
        self._rank: dict[int, int] = {}  # places in the order of copying
        self._ahead = 0
        self._held: set[int] = set()  # missing, too far behind to be queued

    def follow(self, schedule: Schedule | None, demand: Sequence[int], queue: deque[int]) -> None:
        """An event begins: order what may run of the GPU's ``demand``, and the ``queue`` of its copies.

        CoreError for what is no such order.
        """
        schedule = schedule or _AS_THEY_COME
        done, chunks = self.state.done, self.state.chunks
        compute, copy = in_order(schedule, demand, self.state)
        ahead = schedule.ahead
        self.clear()
        self._line, self._out = compute, 0
        if compute is None:
            self.extend(x for x in demand if done[x] == chunks)
        else:
            self._next()
        by_copy = compute if copy is None else copy
        if by_copy is None:
            return
        self._rank = {x: place for place, x in enumerate(by_copy)}
        if ahead is not None:
            self._ahead = ahead
            self._held = {x for x in queue if self.state.kind[x] != LATE}
            for x in self._held:
                queue.remove(x)
        self._sort(queue)

    def computed(self, x: int, queue: deque[int]) -> None:
        """An expert has been computed: the line moves up, and ``queue`` gets what has come near enough."""
        line = self._line
        if line is None or x not in line:
            return
        place = line.index(x)
        del line[place]
        self._out -= place < self._out
        if self._held:
            self._sort(queue)

    def let_one_pass(self) -> None:
        """Nothing of the event can be copied now. If the next in turn would wait for ever, another goes before it.

        Its slot is then free, and the demand streams in waves through a budget that cannot hold it (rule 3).
        """
        line, state = self._line, self.state
        if not line or self or state.slot[line[0]] or self._on_the_link():
            return  # one that is being computed is at the head of the line, and has its slot
        passing = next((x for x in line if state.done[x] == state.chunks), None)
        if passing is not None:
            line.remove(passing)
            line.insert(0, passing)
            self._next()

    # -- as a deque ---------------------------------------------------------------------------------------------

    def append(self, x: int) -> None:
        """``x`` has become complete."""
        if self._line is None or self._line[self._out : self._out + 1] == [x]:
            super().append(x)

    def popleft(self) -> int:
        """Hand one out."""
        x = super().popleft()
        if self._line is not None:
            self._out += 1
            self._next()
        return x

    # -- inside -------------------------------------------------------------------------------------------------

    def _on_the_link(self) -> bool:
        return self.state.given != self.state.done

    def _next(self) -> None:
        """The next in turn may run, if it is complete."""
        for x in (self._line or [])[self._out : self._out + 1]:
            if self.state.done[x] == self.state.chunks:
                super().append(x)

    def _sort(self, queue: deque[int]) -> None:
        near = self._held.intersection((self._line or [])[: self._ahead + 1])
        self._held -= near
        queue.extend(near)
        ordered = sorted(queue, key=self._rank.__getitem__)
        queue.clear()
        queue.extend(ordered)


def in_order(schedule: Schedule, demand: Sequence[int], state: State) -> tuple[list[int] | None, list[int] | None]:
    """The orders of compute and of copies that a schedule gives; None: as they come. CoreError for what is none."""
    missing = [x for x in demand if state.done[x] != state.chunks]
    compute = _order("computes", schedule.compute, demand)
    copy = _order("copies", schedule.copy, missing)
    if schedule.ahead is not None and (compute is None or schedule.ahead < 0):
        raise CoreError(f"a schedule copies {schedule.ahead} ahead; allowed: at least 0, with an order of compute")
    return compute, copy


def _order(what: str, given: Sequence[int] | None, of: Sequence[int]) -> list[int] | None:
    if given is None:
        return None
    order = whole(given)
    if sorted(order) != sorted(of):
        raise CoreError(f"a schedule {what} {order}; allowed: an order of {sorted(of)}")
    return order
