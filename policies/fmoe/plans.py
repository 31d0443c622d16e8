"""What fMoE makes of an expert map: when it is searched for, what is prefetched in which order, and who is evicted."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from policies.fmoe.maps import Reals
from policies.parts.pools import Scores

Selection = Literal["threshold", "one_fewer", "top_k"]
Eviction = Literal["p_freq", "p_freq_whole", "lru", "lfu"]
BAND = 1e-6  # what the artifact (policies/README.md) adds to every expert of the layers that it plans


@dataclass(slots=True)
class Found:
    """The answer of a search: for the layers ``first`` to ``end`` - 1, the map at ``places``, one per request."""

    first: int
    end: int
    places: list[int]
    similarity: list[float]


class Searcher:
    """Who is asked has an answer after ``ns`` per request; what the gates have overtaken meanwhile is not begun."""

    def __init__(self, ns: int) -> None:
        self.ns = ns
        self.line = deque[Found]()
        self.busy = False
        self.sought: Found | None = None  # by the search under way; None: it is of no use any more
        self.unpaid = 0  # comparisons for the store's update, that the next search pays for

    def forget(self) -> None:
        """Nobody wants the answers any more; the search under way goes on."""
        self.line.clear()
        self.sought = None

    def begin(self, layer: int) -> int | None:
        """The nanoseconds of the search that begins when the gate of ``layer`` was the last to run; None: none does."""
        while self.line and not self.busy:
            found = self.line.popleft()
            if found.end > layer + 1:
                self.busy, self.sought = True, found
                requests, self.unpaid = len(found.places) + self.unpaid, 0
                return self.ns * requests
        return None

    def end(self) -> Found | None:
        """The search under way has ended: its answer, if anybody wants it."""
        self.busy = False
        return self.sought


def choose(probs: Reals, similarity: Sequence[float], top_k: int, rule: Selection) -> list[list[int]]:
    """Experts of each row of probabilities [n, E], by falling probability, the lower index first among equals.

    The mass wanted is delta = clip(1 - similarity, 0, 1): the less alike, the more experts. ``threshold``: the fewest
    with a sum of at least delta, and at least ``top_k``. ``one_fewer``: as many as have a sum of at most delta, and at
    least ``top_k`` (the artifact). ``top_k``: so many. None where all probabilities are 0: that layer was not seen.
    """
    order = (-probs).argsort(axis=1, kind="stable").tolist()
    chosen = []
    for row, falling, score in zip(probs.tolist(), order, similarity, strict=True):
        n, mass, wanted = 0, 0.0, min(max(1.0 - score, 0.0), 1.0)
        for x in falling if rule != "top_k" else ():
            mass += row[x]
            if mass > wanted or (mass == wanted and rule == "threshold"):
                break
            n += 1
        n = max(top_k, n + (rule == "threshold"))
        chosen.append(falling[:n] if row[falling[0]] else [])
    return chosen


class ByUrgency:
    """What is planned and not issued, by number: the largest p / (layer - now) first; equals by layer, then index.

    What has been passed is dropped.
    """

    def __init__(self, n_experts: int) -> None:
        self.n_experts = n_experts
        self.plans: dict[int, list[tuple[int, float]]] = {}  # by layer: (expert, p), the most probable last

    def add(self, first: int, probs: Reals, chosen: Sequence[Sequence[int]]) -> None:
        """Plan layers from ``first`` on: probabilities [n, E]; chosen experts, by falling probability."""
        for i, experts in enumerate(chosen):
            base = (first + i) * self.n_experts
            likely = probs[i].tolist()
            self.plans[first + i] = [(base + x, likely[x]) for x in reversed(experts)]

    def pass_layer(self, layer: int, missed: bool) -> None:
        """The gate of ``layer`` has run, and missed some expert or not; after the last: a new iteration begins."""
        while self.plans and (earliest := min(self.plans)) <= layer:
            del self.plans[earliest]

    def stale(self, expert: int, layer: int, missed: bool) -> bool:
        """Whether an issued load that was not demanded is withdrawn when the gate of ``layer`` has run."""
        return expert // self.n_experts <= layer

    def take(self, now: int, skip: Callable[[int], bool]) -> tuple[int, float] | None:
        """Take the next expert, and its priority, when the gate of layer ``now`` was the last to run (-1: none)."""
        found, highest = None, -1.0
        for layer, plan in self.plans.items():
            while plan and skip(plan[-1][0]):
                plan.pop()
            if plan and (urgency := plan[-1][1] / (layer - now)) > highest:
                found, highest = plan, urgency
        return None if found is None else (found.pop()[0], highest)


class Fifo(ByUrgency):
    """First come, first served, as in the artifact: all of a planned layer are queued, the chosen before the rest.

    Those queued together go by p x (1 - (layer - first) / (last + 1)) + 1e-6, p of a chosen expert only. A miss drops
    what is queued for earlier layers; nothing else does.
    """

    def __init__(self, n_layers: int, n_experts: int) -> None:
        super().__init__(n_experts)
        self.waiting, self.head = np.zeros(0, np.intp), 0
        self.queued = np.zeros(n_layers * n_experts, np.bool_)

    def add(self, first: int, probs: Reals, chosen: Sequence[Sequence[int]]) -> None:
        value = np.full(probs.shape, BAND)
        end = first + len(chosen)
        for i, experts in enumerate(chosen):
            value[i, experts] += probs[i, experts] * (1 - i / end)
        together = np.argsort(-value, axis=None, kind="stable") + first * self.n_experts
        new = together[~self.queued[together]]
        self.queued[new] = True
        self.waiting, self.head = np.concatenate([self.waiting[self.head :], new]), 0

    def pass_layer(self, layer: int, missed: bool) -> None:
        if missed:
            earliest, left = layer * self.n_experts, self.waiting[self.head :]
            self.queued[:earliest] = False
            self.waiting, self.head = left[left >= earliest], 0

    def stale(self, expert: int, layer: int, missed: bool) -> bool:
        return missed and expert // self.n_experts < layer

    def take(self, now: int, skip: Callable[[int], bool]) -> tuple[int, float] | None:
        while self.head < len(self.waiting):
            expert = int(self.waiting[self.head])
            self.head += 1
            self.queued[expert] = False
            if not skip(expert):
                return expert, 0.0
        return None


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
        self.p.fill(1.0 / self.n_experts)
        self.stale = True

    def demanded(self, experts: Sequence[int]) -> None:
        demand = np.array(experts)
        self.freq[demand] += 1
        if self.rule == "lru":
            self.last[demand] = np.arange(self.uses + 1, self.uses + 1 + len(demand))
            self.uses += len(demand)
        self.stale = True

    def enter(self, expert: int, *, speculative: bool) -> None:
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
