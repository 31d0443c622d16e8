"""Samples as the columns of a profile: medians, quartiles, counts, and the medians made monotone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import numpy as np

from traces.calibrate.timing import Sample


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
