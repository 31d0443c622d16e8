"""What the device did when: copies, compute and stalls, for a timeline."""

from __future__ import annotations

from array import array
from collections.abc import Sequence


class Spans:
    """Flat lists of (begin ns, end ns, what): a chunk, an expert, a cause of stall."""

    def __init__(self) -> None:
        self.copies, self.computes, self.stalls = array("q"), array("q"), array("q")

    def copy(self, begin: int, end: int, chunk: int) -> None:
        self.copies.extend((begin, end, chunk))

    def compute(self, begin: int, end: int, experts: Sequence[int]) -> None:
        for x in experts:
            self.computes.extend((begin, end, x))

    def stall(self, begin: int, end: int, cause: int) -> None:
        self.stalls.extend((begin, end, cause))
