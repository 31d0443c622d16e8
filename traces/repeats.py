"""Rows that repeat the row before: a recorder that got stuck writes the same experts again and again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from traces.format import Array

MANY = 8
"""Repeated rows in a trace from which on they are worth a warning: where routing moves at all, chance makes none."""
LONG = 4
"""Repeated rows in a run, that is five equal rows, from which on they are, too."""


@dataclass
class Repeats:
    """Counts, over rows that have a row of the same request before them and any expert at all.

    ``pairs``: how many there are; ``equal``: how many name the same experts in the same order in every layer;
    ``longest``: the longest run of such rows.
    """

    pairs: int = 0
    equal: int = 0
    longest: int = 0
    run: int = 0
    """The run that the last row seen is in."""

    def add(self, ids: Array, absent: int, joined: bool = False) -> None:
        """Count rows [n, L, K] of one request; ``joined``: the first of them was seen before, as the last one."""
        if not joined:
            self.run = 0
        flat = ids.reshape(len(ids), -1)
        present = (flat[1:] != absent).any(axis=1)
        equal = (flat[1:] == flat[:-1]).all(axis=1) & present
        self.pairs += int(present.sum())
        self.equal += int(equal.sum())
        for_runs = np.flatnonzero(~equal)
        if not len(for_runs):
            self.run += len(equal)
            self.longest = max(self.longest, self.run)
            return
        gaps = np.diff(np.concatenate([[-1 - self.run], for_runs, [len(equal)]])) - 1
        self.longest = max(self.longest, int(gaps.max()))
        self.run = int(gaps[-1])

    @property
    def share(self) -> float | None:
        """The share of repeated rows; None where no row has one before it."""
        return self.equal / self.pairs if self.pairs else None
