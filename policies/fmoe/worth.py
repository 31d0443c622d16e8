"""Which resident expert is worth the least (fMoE's section on eviction, and its baselines)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from policies.fmoe.maps import Reals
from policies.parts.orders import Scores

Eviction = Literal["p_freq", "p_freq_whole", "lru", "lfu"]


class Worth(Scores):
    """p x frequency of every expert: p from the map found last, 1 / E before; each event counts its experts once.

    ``p_freq_whole`` cuts the product to a whole number, ``lfu`` leaves p out, ``lru`` is the time of the last demand,
    or of the speculative load. ``forget``: an eviction forgets the frequency. Ties: lower number.
    """

    def __init__(self, n_layers: int, n_experts: int, rule: Eviction, *, forget: bool) -> None:
        n = n_layers * n_experts
        super().__init__(range(n), self._worth)
        self.n_experts, self.rule, self.forget = n_experts, rule, forget
        self.p = np.full((n_layers, n_experts), 1.0 / n_experts)
        self.freq, self.last, self.uses = np.zeros(n), np.zeros(n), 0

    def found(self, first: int, end: int, probs: Reals) -> None:
        """A map tells p of the layers ``first`` to ``end`` - 1, [n, E]."""
        self.p[first:end] = probs
        self.stale = True

    def unknown(self) -> None:
        """Nothing tells p of any layer."""
        self.p.fill(1.0 / self.n_experts)
        self.stale = True

    def demanded(self, experts: Sequence[int]) -> None:
        """An event demands these experts, in token order."""
        demand = np.array(experts)
        self.freq[demand] += 1
        if self.rule == "lru":
            self.last[demand] = np.arange(self.uses + 1, self.uses + 1 + len(demand))
            self.uses += len(demand)
        self.stale = True

    def enter(self, expert: int, *, speculative: bool) -> None:
        """The expert has taken a slot."""
        if speculative:
            self.uses += 1
            self.last[expert] = self.uses
        self.add(expert)

    def discard(self, expert: int) -> None:
        super().discard(expert)
        if self.forget:
            self.freq[expert] = 0
            if self.rule != "lru":
                self.worth[expert] = 0

    def _worth(self, experts: slice) -> Reals:
        if self.rule == "lru":
            return self.last
        if self.rule == "lfu":
            return self.freq
        product = self.p.ravel() * self.freq
        return np.floor(product) if self.rule == "p_freq_whole" else product
