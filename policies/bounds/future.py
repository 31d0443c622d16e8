"""The future: the whole demand sequence, and the class of policies that may read it (docs/design.md, rule 2)."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.api import Policy

BLOCK = 1 << 17  # lookups that are worked on, or turned into Python numbers, at a time


class FutureError(RuntimeError):
    """A run differs from the future that was foretold: a bug in whoever made the future, never a user's mistake."""


@dataclass(frozen=True, slots=True)
class Future:
    """All layer events of a run, in replay order; a lookup is one member of one event."""

    n_all: int  # experts of all layers
    starts: NDArray[np.int64]  # first lookup of each event, [events + 1]
    experts: NDArray[np.int32]  # expert number of each lookup
    next_use: NDArray[np.int32]
    """Per lookup, the next event that demands the same expert; ``n_events`` if none does."""
    first_use: NDArray[np.int32]
    """Per expert, the first event that demands it; ``n_events`` if none does."""

    @property
    def n_events(self) -> int:
        """Layer events with at least one lookup."""
        return len(self.starts) - 1

    @classmethod
    def of(cls, events: Iterable[Sequence[int]], n_all: int) -> Future:
        """Read the demand sets of the layer events in replay order; empty ones are no events, as on the machine.

        ValueError where an expert is not in 0 .. n_all or is demanded twice by one event. O(lookups).
        """
        flat, ends = array("i"), array("q", [0])
        for demand in events:
            if demand:
                flat.extend(demand)
                ends.append(len(flat))
        starts, experts = np.frombuffer(ends, np.int64), np.frombuffer(flat, np.int32)
        if len(experts) and not 0 <= int(experts.min()) <= int(experts.max()) < n_all:
            raise ValueError(f"an event demands expert {experts.min()} or {experts.max()}; allowed: 0 .. {n_all - 1}")
        n_events = len(starts) - 1
        following = np.full(n_all, n_events, np.int32)  # per expert, its first event from the current block on
        next_use = np.empty(len(experts), np.int32)
        for a, b in reversed(list(_blocks(starts))):
            span = slice(starts[a], starts[b])
            event = np.repeat(np.arange(a, b, dtype=np.int32), np.diff(starts[a : b + 1]))
            order = np.argsort(experts[span], kind="stable")  # by expert, then in time
            x, event = experts[span][order], event[order]
            after = following[x]
            same = x[:-1] == x[1:]
            after[:-1][same] = event[1:][same]
            if (after == event).any():
                i = int(np.argmax(after == event))
                raise ValueError(f"event {event[i]} demands expert {x[i]} twice")
            next_use[span][order] = after
            first = np.concatenate(([True], ~same))
            following[x[first]] = event[first]
        return cls(n_all, starts, experts, next_use, following)

    def events(self) -> Iterator[tuple[list[int], list[int]]]:
        """Each event's experts and their next uses."""
        for a, b in _blocks(self.starts):
            first = int(self.starts[a])
            experts = self.experts[first : self.starts[b]].tolist()
            next_use = self.next_use[first : self.starts[b]].tolist()
            for i, j in pairwise((self.starts[a : b + 1] - first).tolist()):
                yield experts[i:j], next_use[i:j]


def _blocks(starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut the events into runs (first, last + 1) of about BLOCK lookups."""
    a, n_events = 0, len(starts) - 1
    while a < n_events:
        b = max(a + 1, int(np.searchsorted(starts, starts[a] + BLOCK, side="right")) - 1)
        yield a, b
        a = b


class Clairvoyant(Policy):
    """A policy that knows the future: a reference row, never a contender."""

    clairvoyant: ClassVar[bool] = True

    def foresee(self, future: Future) -> None:
        """Receive the demand of the whole run, warm-up included. Called once, before the first fact."""
        if future.n_all != self.setup.n_layers * self.setup.n_experts:
            raise FutureError(f"a future of {future.n_all} experts for {self.setup.n_layers} x {self.setup.n_experts}")
        self.future = future
