"""When what happened to each instance: its arrival, its first pass, and each of its output tokens."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from sim.workload.online.schedule import Arrival, Batch, Share


@dataclass(slots=True)
class Served:
    """One instance, in ns since the start of the run. Its tokens take 9 bytes each."""

    arrival: Arrival
    first_ns: int = -1
    """When its first pass began; -1: not yet."""
    token_ns: array[int] = field(default_factory=lambda: array("q"))
    """When the pass ended that gave each output token."""
    beside: bytearray = field(default_factory=bytearray)
    """Of each gap between two of these, 1 if some pass within it computed prompt rows, or rows again, of another
    instance; aligned with ``token_ns``, whose first entry has no gap and 0."""
    preemptions: int = 0
    recomputed: int = 0
    """Rows that were computed again after these."""
    reached: int = 0
    """The most tokens that were ever computed."""

    @property
    def ended(self) -> bool:
        return len(self.token_ns) == self.arrival.output_tokens

    @property
    def end_ns(self) -> int:
        return self.token_ns[-1]


class Ledger:
    """Is told of arrivals and passes as they happen, and knows all instances, in the order of their arrival.

    A pass in which several instances compute prompt rows counts for each of them as beside the others.
    """

    def __init__(self) -> None:
        self.served: dict[int, Served] = {}
        self._prefills = 0
        """Shares with prompt rows in all passes so far."""
        self._own: dict[int, int] = {}
        """Of these an instance's own, while it runs."""
        self._others: dict[int, int] = {}
        """Those of others, as of an instance's last token."""

    def arrived(self, arrival: Arrival) -> None:
        self.served[arrival.id] = Served(arrival)

    def began(self, batch: Batch, now: int) -> None:
        """A pass begins at ``now``."""
        for i in batch.preempted:
            self.served[i].preemptions += 1
        for i in batch.admitted:
            if self.served[i].first_ns < 0:
                self.served[i].first_ns = now

    def ended(self, batch: Batch, now: int) -> None:
        """That pass ends at ``now``."""
        for share in batch.shares:
            self._computed(share)
            if share.prompt_tokens:
                self._prefills += 1
                self._own[share.id] = self._own.get(share.id, 0) + 1
        for share in batch.shares:
            if share.yields:
                self._token(share.id, now)

    def _computed(self, share: Share) -> None:
        one, until = self.served[share.id], share.start + share.tokens
        one.recomputed += max(0, min(until, one.reached) - share.start)
        one.reached = max(one.reached, until)

    def _token(self, i: int, now: int) -> None:
        one = self.served[i]
        others = self._prefills - self._own.get(i, 0)
        one.beside.append(bool(one.token_ns) and others > self._others[i])
        one.token_ns.append(now)
        self._others[i] = others
        if one.ended:
            del self._others[i]
            self._own.pop(i, None)


def ended(instances: Iterable[Served]) -> list[Served]:
    """Those that have all of their output."""
    return [one for one in instances if one.ended]
