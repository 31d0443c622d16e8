"""Rows that repeat the row before: a recorder that got stuck writes the same experts again and again."""

from dataclasses import dataclass, field

import numpy as np

from traces.format.layout import Array
from traces.format.npy import row_chunks
from traces.format.reader import Trace


@dataclass
class Repeats:
    """Counts over pairs of adjacent rows of one request, of which the second has any expert at all.

    ``pairs``: how many there are; ``equal``: how many of them name the same experts in the same order in every layer;
    ``by_layer`` [L]: how many do in this layer; ``longest``: the longest run of equal ones.
    """

    pairs: int = 0
    equal: int = 0
    by_layer: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    longest: int = 0
    run: int = 0
    """How many equal pairs the last row seen ends."""

    def add(self, ids: Array, absent: int, related: Array | None = None) -> None:
        """Count rows [n + 1, L, K]: of one request; or, with ``related`` [n], the first is the last one of before.

        ``related``: whether a row is of the same request as the row above it.
        """
        if related is None:
            self.run = 0
        same = (ids[1:] == ids[:-1]).all(axis=2)
        there = (ids[1:] != absent).any(axis=(1, 2)) & (True if related is None else related)
        equal = same.all(axis=1) & there
        self.pairs += int(there.sum())
        self.equal += int(equal.sum())
        by_layer = same[there].sum(axis=0)
        self.by_layer = np.pad(self.by_layer, (0, max(0, len(by_layer) - len(self.by_layer))))
        self.by_layer[: len(by_layer)] += by_layer
        breaks = np.flatnonzero(~equal)
        ends = np.concatenate([[-1 - self.run], breaks, [len(equal)]])
        runs = np.diff(ends) - 1
        self.longest = max(self.longest, int(runs.max()))
        self.run = int(runs[-1])

    @property
    def share(self) -> float | None:
        """The share of pairs that are equal; None where there are no pairs."""
        return self.equal / self.pairs if self.pairs else None

    @property
    def expected(self) -> float:
        """The share that there would be if each layer repeated as often as it does, for itself."""
        return float(np.prod(self.by_layer / self.pairs)) if self.pairs else 0.0

    @property
    def suspicious(self) -> bool:
        """Say whether it cannot be chance: far more repeats, or far longer runs, than layers alone make.

        That is 4 pairs and 1 % more than expected, and 1.5 times as many; or a run of 4 and more that one would see
        once in a thousand such traces. A model that generates one token for ever may look like this, too.
        """
        share, expected = self.share or 0.0, self.expected
        many = self.equal - expected * self.pairs >= 4 and share >= 1.5 * expected + 0.01
        return many or (self.longest >= 4 and self.pairs * expected**self.longest < 1e-3)

    def __str__(self) -> str:
        share = f" ({100 * self.equal / self.pairs:.1f} %)" if self.pairs else ""
        return f"{self.equal:,} of {self.pairs:,}{share}, longest run {self.longest:,}"


def warning(repeats: Repeats) -> str:
    """The one line to say of a trace whose rows repeat too often."""
    return (
        f"rows that repeat the row before in every layer: {repeats}; chance would make {100 * repeats.expected:.2g} %. "
        "A recorder that is stuck writes this, or a model that generates one token for ever; hit rates mean little"
    )


def repeats_of(trace: Trace) -> Repeats:
    """Count the rows of a trace, in chunks of bounded memory."""
    repeats = Repeats()
    owner = np.repeat(trace.steps["request"], trace.steps["rows"])
    for chunk in row_chunks(trace.N - 1, 8 * trace.L * trace.K) if trace.N > 1 else ():
        rows = slice(chunk.start, chunk.stop + 1)
        of = owner[rows]
        repeats.add(np.asarray(trace.expert_ids[rows]), trace.absent, of[1:] == of[:-1])
    return repeats
