"""Samples as the columns of a profile: medians, quartiles, counts; the medians made monotone; how noisy they are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import numpy as np

WIDE = 0.2
"""A point is noisy where its quartiles are further apart than this share of its median."""


@dataclass(frozen=True)
class Sample:
    """Nanoseconds per call over `count` batches."""

    median: int
    q1: int
    q3: int
    count: int


@dataclass(frozen=True)
class Rows:
    """One sample per point; `axes` has the points' values, one list per axis."""

    axes: Mapping[str, Sequence[int]]
    samples: list[Sample]

    def columns(self, ns: Sequence[int] | None = None) -> dict[str, Any]:
        """The table as the profile holds it. `ns`: by default the medians, pooled along the only axis."""
        medians = [sample.median for sample in self.samples]
        return {
            **{key: list(values) for key, values in self.axes.items()},
            "ns": list(pooled(medians) if ns is None else ns),
            "median_ns": medians,
            "q1_ns": [sample.q1 for sample in self.samples],
            "q3_ns": [sample.q3 for sample in self.samples],
            "count": [sample.count for sample in self.samples],
        }

    @property
    def medians(self) -> list[int]:
        return [sample.median for sample in self.samples]


def pooled(values: Iterable[int]) -> list[int]:
    """A rising sequence nearest to `values` (isotonic, in absolute error): neighbours that fall become their median."""
    pools: list[list[int]] = []
    for value in values:
        pool = [value]
        while pools and median_low(pools[-1]) > median_low(pool):
            pool = pools.pop() + pool
        pools.append(pool)
    return [median_low(pool) for pool in pools for _ in pool]


def pooled_grid(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """`rows` made rising along both axes: pooled by turns, and lifted where a rest remains."""
    table = np.array(rows)
    for _ in range(20):
        table = np.apply_along_axis(pooled, 0, np.apply_along_axis(pooled, 1, table))
    lifted: list[list[int]] = np.maximum.accumulate(np.maximum.accumulate(table, axis=0), axis=1).tolist()
    return lifted


def spreads(median: Sequence[int], q1: Sequence[int], q3: Sequence[int]) -> list[float]:
    """Distance of the quartiles over the median, by point."""
    return [(high - low) / middle for low, middle, high in zip(q1, median, q3, strict=True)]


def noise_of(tables: Mapping[str, Mapping[str, Any]], models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``measured.noise`` of a profile: the widest spread of each table, and the tables with noisy points.

    A model's table is named NAME.expert, NAME.pair.copy and so on.
    """
    every = dict(tables)
    for model, section in models.items():
        every |= _within(model, section)
    found = {name: spreads(table["median_ns"], table["q1_ns"], table["q3_ns"]) for name, table in every.items()}
    return {
        "threshold": WIDE,
        "spread": {name: round(max(spread), 3) for name, spread in found.items()},
        "noisy": noisy(found) or None,
    }


def _within(name: str, section: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The tables of a section and of those within it, by their names."""
    found = dict[str, Mapping[str, Any]]()
    for key, it in section.items():
        if isinstance(it, Mapping):
            found |= {f"{name}.{key}": it} if "median_ns" in it else _within(f"{name}.{key}", it)
    return found


def noisy(spread: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Tables with a noisy point, and how many of its points are."""
    wide = {name: sum(x > WIDE for x in found) for name, found in spread.items()}
    return {name: f"{n} of {len(spread[name])} points" for name, n in wide.items() if n}


def in_words(noisy: Mapping[str, str]) -> str:
    """Which tables, and at how many of their points, for a line."""
    tables = "; ".join(f"{name} at {points}" for name, points in noisy.items())
    return f"{tables} (quartiles more than {100 * WIDE:g} % of the median apart)"
