"""What is to be measured, point by point, and how long all of it takes, said before any of it is done.

The points at the ends of each axis are tried for real, a few calls each; those between are interpolated. The rest is
arithmetic: :func:`total_s` does with these costs what ``Budget`` and ``samples`` do by the clock.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

from traces.calibrate.tables import Sample
from traces.calibrate.timing import MAX_SAMPLES, MIN_SAMPLES, Budget, batch, measure

Timed = Callable[[int], float]
Point = tuple[int, ...]
LESS = {"bytes": 8, "tokens": 8, "context": 4}
"""By how much a shorter measurement ends earlier along each axis."""


@dataclass(frozen=True)
class Cost:
    """Seconds that one visit of a point takes: to set it up, to warm it up, and for each sample, of which it wants
    ``at_least`` so many."""

    setup_s: float
    warm_s: float
    sample_s: float
    at_least: int = MIN_SAMPLES


@dataclass(frozen=True)
class Part:
    """The points of one table, and how each is timed."""

    name: str
    axes: Mapping[str, Sequence[int]]
    """Values by axis, one per point."""
    timed: Callable[..., Timed]
    """Sets up the point of such values; what it returns takes n and gives the time of n calls in ns."""
    at_least: int = MIN_SAMPLES
    falling: frozenset[str] = field(default_factory=frozenset)
    """Axes along which times go with one over the value, such as the number of threads."""

    @property
    def points(self) -> list[Point]:
        return list(zip(*self.axes.values(), strict=True)) if self.axes else [()]

    def ends(self) -> list[Point]:
        return list(dict.fromkeys(product(*((min(values), max(values)) for values in self.axes.values()))))


class Tried:
    """A part whose end points have been tried: what each of its points costs."""

    def __init__(self, part: Part) -> None:
        self.part = part
        part.timed(*part.ends()[0])(1)  # what is done only once is in no cost: kernels are chosen, memory is taken
        self._ends = {point: _try(part, point) for point in part.ends()}

    def costs(self, shorter: bool = False) -> list[Cost]:
        """Of one visit of each point; ``shorter``: of those that are left where each axis ends earlier, by ``LESS``."""
        within = {key: max(values) // LESS.get(key, 1) for key, values in self.part.axes.items()}
        return [
            self._at(point)
            for point in self.part.points
            if not shorter or all(value <= most for value, most in zip(point, within.values(), strict=True))
        ]

    def _at(self, point: Point) -> Cost:
        """Linear along each axis between its ends."""
        setup = warm = sample = 0.0
        for end, cost in self._ends.items():
            along = zip(self.part.axes.items(), point, end, strict=True)
            weight = prod(_weight(axis, value, at, key in self.part.falling) for (key, axis), value, at in along)
            setup, warm = setup + weight * cost.setup_s, warm + weight * cost.warm_s
            sample += weight * cost.sample_s
        return Cost(setup, warm, sample, self.part.at_least)


def total_s(costs: Sequence[Cost], seconds: float) -> float:
    """How long the points take in that order if they share ``seconds``; each takes its least samples in any case."""
    now = 0.0
    for left, cost in zip(range(len(costs), 0, -1), costs, strict=True):
        now += cost.setup_s
        share = max(0.0, seconds - now) / left
        least = cost.warm_s + cost.at_least * cost.sample_s
        most = cost.warm_s + max(cost.at_least, MAX_SAMPLES) * cost.sample_s
        now += min(most, max(least, share + cost.sample_s / 2))  # it ends with the sample that is under way
    return now


def measured(part: Part, budget: Budget) -> list[Sample]:
    return [measure(part.timed(*point), budget.share()) for point in part.points]


def _try(part: Part, point: Point) -> Cost:
    begin = time.monotonic()
    timed = part.timed(*point)
    ready = time.monotonic()
    timed(1)
    again = time.monotonic()
    n = batch(timed(1))
    end = time.monotonic()
    sample_s = end - again
    if n > 1:
        timed(n)
        sample_s = time.monotonic() - end
    return Cost(ready - begin, end - ready, sample_s, part.at_least)


def _weight(axis: Sequence[int], value: int, at: int, falling: bool) -> float:
    low, high = min(axis), max(axis)
    if low == high:
        return 1.0
    share = (1 / low - 1 / value) / (1 / low - 1 / high) if falling else (value - low) / (high - low)
    return share if at == high else 1 - share
