"""Random replacement."""

from collections.abc import Callable
from random import Random as Generator

from policies.api import Setup
from policies.parts.pools import Pooled, Scope


class Urn:
    """Drawn evenly from those that are allowed: an order that is another one each time."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self.draw = draw
        self.members: list[int] = []
        self.place: dict[int, int] = {}

    def add(self, expert: int) -> None:
        self.place[expert] = len(self.members)
        self.members.append(expert)

    def discard(self, expert: int) -> None:
        self.swap(self.place[expert], len(self.members) - 1)
        del self.place[self.members.pop()]

    def swap(self, i: int, j: int) -> None:
        members = self.members
        members[i], members[j] = members[j], members[i]
        self.place[members[i]], self.place[members[j]] = i, j

    def lowest(self, allowed: Callable[[int], bool]) -> int | None:
        for left in range(len(self.members), 0, -1):  # the first ``left`` have not been drawn
            i = int(self.draw() * left) if left > 1 else 0
            if allowed(self.members[i]):
                return self.members[i]
            self.swap(i, left - 1)
        return None


class Random(Pooled[Urn]):
    """Evict an expert drawn evenly from the evictable ones.

    A folklore baseline: what recency or frequency must beat. Seeded with ``setup.seed``; draws only while more than
    one expert is left to choose from, so ties cannot arise. ``scope`` as for lru.
    O(1) per lookup, O(pinned) per victim. Lossless; needs no signals.
    """

    name = "random"

    def __init__(self, setup: Setup, *, scope: Scope = "global") -> None:
        draw = Generator(setup.seed).random  # the one method whose sequence Python guarantees
        super().__init__(setup, scope, lambda _: Urn(draw))
