"""From recorded rows to demand sets: the union of the experts that a step's tokens chose, in token order."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces import Trace

Demand = list[list[int]]
"""Expert numbers per layer, the last token's experts last; within a token by descending weight."""

BLOCK = 1024  # rows that are turned into Python numbers at a time


class DemandReader:
    """Reads demand sets from a memory-mapped trace, a block at a time: memory does not grow with the trace."""

    def __init__(self, trace: Trace) -> None:
        self._ids = trace.expert_ids
        self._absent = trace.absent
        self._first = np.arange(trace.L, dtype=np.int32)[:, None] * trace.E  # expert number of a layer's expert 0
        self._slots = trace.L * trace.E

    def rows(self, first: int, count: int) -> Iterator[Demand]:
        """Demand of each single row of ``first .. first + count``: a decode step of one request."""
        for start in range(first, first + count, BLOCK):
            ids = self._ids[start : min(start + BLOCK, first + count)]
            flat = (ids + self._first).tolist()
            if (ids == self._absent).any():
                absent = (ids == self._absent).tolist()
                flat = [
                    [[x for x, gone in zip(*pair, strict=True) if not gone] for pair in zip(*row, strict=True)]
                    for row in zip(flat, absent, strict=True)
                ]
            yield from flat

    def union(self, parts: list[tuple[int, int]]) -> tuple[Demand, Demand]:
        """Demand and tokens per expert of one step over the rows of ``parts`` [(first row, rows)]."""
        ids = np.concatenate([self._ids[first : first + rows] for first, rows in parts])
        flat = ids + self._first  # int32 [rows, L, K]
        flat[ids == self._absent] = self._slots
        pairs = [ordered_union(flat[:, layer], self._slots) for layer in range(flat.shape[1])]
        return [demand for demand, _ in pairs], [tokens for _, tokens in pairs]


def ordered_union(flat: NDArray[Any], slots: int) -> tuple[list[int], list[int]]:
    """Union of one layer's demand over rows of expert numbers [n, K] (``slots`` and more: none); tokens per expert."""
    if len(flat) == 1 and int(flat.max()) < slots:  # a token chooses no expert twice
        return flat[0].tolist(), [1] * flat.shape[1]
    # An expert's place in the order is that of its last use: unique() of the reversed sequence finds it first.
    experts, last, counts = np.unique(flat[::-1, ::-1], return_index=True, return_counts=True)
    order = np.argsort(-last)
    order = order[experts[order] < slots]
    return experts[order].tolist(), counts[order].tolist()


def merge(rows: list[list[int]]) -> tuple[list[int], list[int]]:
    """Union of one layer's demand over single rows, in order of last use, with tokens per expert."""
    counts: dict[int, int] = {}
    for row in rows:
        for x in row:
            counts[x] = counts.pop(x, 0) + 1
    return list(counts), list(counts.values())
