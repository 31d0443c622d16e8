"""With host compute: one ledger of seconds, of what a layer takes now and of what its copies save later."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from policies.api import Setup
from policies.parts.lanes import alone_ns
from policies.parts.pools import Scores
from policies.parts.sides import Lookup, Sides

TRIED = 16
"""Of at most so many misses every number of copies is priced; of more, as in a prompt, the one that ends first."""


class Ledger:
    """Of a layer's misses, which the host is to compute, so that the layer's time less what is saved later is least.

    Now: the longer of both sides (:class:`~policies.parts.sides.Sides`), of link with GPU, and of the host. Later: a
    copy brings an expert that is worth ``worth`` for one that is worth less or more, and a miss costs a layer what both
    sides take that share one: copy x host / (copy + host). O(n log n) for each number of copies.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup, self.sides = setup, Sides(setup, None)
        self.miss_ns = []
        if setup.host is not None:
            for layer in range(setup.n_layers):
                copy, host = alone_ns(setup, layer), setup.host.expert_ns(layer, 1) / setup.host.workers
                self.miss_ns.append(copy * host / max(1, copy + host))

    def hosted(
        self, layer: int, members: Sequence[Lookup], worth: Mapping[int, float], victims: Sequence[float]
    ) -> list[int]:
        """``worth`` of the missing ones, ``victims``: of as many who would go, the first first."""
        there = [it for it in members if it.complete]
        host, miss = self.sides.host, self.miss_ns[layer]
        missing = sorted(
            (it for it in members if not it.complete),
            key=lambda it: (-(host.expert_ns(layer, it.tokens) / host.workers + worth[it.expert] * miss), it.expert),
        )
        if len(missing) > TRIED:
            n = self.sides.best_prefix(layer, there, missing)
        else:
            saved = np.cumsum([0.0, *(worth[it.expert] - v for it, v in zip(missing, victims, strict=True))]) * miss
            takes = [
                max(self.sides.gpu_ns(layer, [*there, *missing[:k]]), self.sides.host_ns(layer, missing[k:]))
                for k in range(len(missing) + 1)
            ]
            n = int((np.array(takes) - saved).argmin())
        return [it.expert for it in sorted(missing[n:], key=lambda it: it.hotness)]


def victims(pool: Scores, n: int, spared: Collection[int], free: int) -> list[float]:
    """Worth of the ``n`` that would give up their slot, the first first; 0 for each of ``free`` slots that nobody has.

    ``spared``: who is not asked.
    """
    worth = pool.scores_now()
    worth[[x - pool.first for x in spared]] = np.inf
    lowest = np.sort(np.partition(worth, min(n, len(worth) - 1))[:n])
    found: list[float] = [0.0] * min(free, n) + np.where(np.isinf(lowest), 1.0, lowest).tolist()
    return (found + [1.0] * n)[:n]
