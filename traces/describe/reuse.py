"""Reuse distances: how many other experts of its layer were demanded since an expert's last demand."""

from dataclasses import dataclass

import numpy as np

from traces.format.layout import Array
from traces.format.reader import Trace


@dataclass(frozen=True)
class Reuse:
    """Distances of all lookups. ``counts[l, d]``: lookups of layer l at distance d, 0 to E - 1.

    ``first[l]``: lookups of an expert that was not demanded before. Steps are taken one after the other, as
    recorded, also across requests. Within a step the last token's experts are the most recent ones; a lookup is
    judged by what was before its step. So a pool of c slots for the layer that evicts the least recently used
    hits the lookups at a distance below c (as long as a step's demand fits into it).
    """

    counts: Array
    first: Array

    def quantile(self, share: float) -> Array:
        """Return per layer the distance that ``share`` of the lookups with a distance do not exceed; NaN for none."""
        below = np.cumsum(self.counts, axis=1)
        reached = below >= share * below[:, -1:]
        return np.where(below[:, -1] > 0, np.argmax(reached, axis=1), np.nan)

    def within(self) -> Array:
        """Return [E]: the share of all lookups, over all layers, at a distance of at most 0 to E - 1."""
        lookups = self.counts.sum() + self.first.sum()
        within: Array = np.cumsum(self.counts.sum(axis=0)) / max(1, lookups)
        return within


_CELLS = 2**17


def reuse_distances(trace: Trace) -> Reuse:
    """Count the distances of ``trace``, in chunks of steps that bound the memory."""
    counts, first = np.zeros((trace.L, trace.E), np.int64), np.zeros(trace.L, np.int64)
    used = np.zeros((trace.L, trace.E), np.int64)
    """When each expert was demanded last; only the order counts, and 0 is never."""
    start, ends = 0, (trace.steps["first_row"] + trace.steps["rows"]).astype(np.int64)
    while start < len(ends):
        first_row = int(trace.steps["first_row"][start])
        # As many steps as bound rows x K and steps x E, but at least one.
        rows = max(1, _CELLS // (trace.E + trace.K))
        stop = max(start + 1, int(np.searchsorted(ends, first_row + rows, side="right")))
        ids = np.asarray(trace.expert_ids[first_row : ends[stop - 1]])
        step = np.repeat(np.arange(stop - start), trace.steps["rows"][start:stop])
        for layer in range(trace.L):
            _count(ids[:, layer], step, used[layer], counts[layer], first[layer : layer + 1])
        start = stop
    return Reuse(counts, first)


def _count(ids: Array, step: Array, used: Array, counts: Array, first: Array) -> None:
    """Add one layer's lookups of some steps to ``counts`` and ``first``; ``used`` is brought up to date."""
    n_experts, (rows, top_k) = len(used), ids.shape
    # Only the order of times counts: those before this chunk become 1 to E, so that 32 bits do.
    order = np.argsort(used, kind="stable")
    past = np.zeros(n_experts + 1, np.int32)
    past[order] = np.where(used[order] > 0, np.arange(1, n_experts + 1), 0)
    time = np.arange(n_experts + 1, n_experts + 1 + rows * top_k, dtype=np.int32).reshape(rows, top_k)
    # One more column takes the absent entries. The last of several demands of a step wins.
    demand = np.zeros((step[-1] + 2, n_experts + 1), np.int32)
    demand[np.broadcast_to(step[:, None] + 1, ids.shape), np.minimum(ids, n_experts)] = time
    demand[0] = past
    demand = demand[:, :n_experts]
    last = np.maximum.accumulate(demand, axis=0)
    used[:] = last[-1]
    step_of, expert = np.nonzero(demand[1:])
    for begin in range(0, len(step_of), max(1, _CELLS // n_experts)):
        part = slice(begin, begin + max(1, _CELLS // n_experts))
        before = last[step_of[part]]
        own = before[np.arange(len(before)), expert[part]]
        known = own > 0
        distance = (before[known] > own[known, None]).sum(axis=1)
        counts += np.bincount(distance, minlength=n_experts)
        first += len(own) - int(known.sum())
