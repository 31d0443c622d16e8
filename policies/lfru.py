"""Least frequently and recently used."""

from __future__ import annotations

import numpy as np

from policies.api import LayerEvent, Setup
from policies.parts.ranking import lowest
from policies.parts.scoped import Scope, Scoped


class LFRU(Scoped):
    """Evict the expert with the smallest frequency / age, age being layer events since its last demand, plus one.

    The best causal policy in 12 of 13 settings of arXiv 2608.07911 (moe-cache-eval, ``simulate_event_atomic``), with
    its counts: never forgotten, one per layer event. There the event's own experts compete for a place when it ends;
    here they are pinned and admitted (rule 3). Ties: lower number (exact up to 2**26 events). ``scope``: see lru.
    Scores fall at unequal speeds, so no heap: O(experts) in numpy per event with a miss. Lossless; needs no signals.
    """

    name = "lfru"
    title = "LFRU"

    def __init__(self, setup: Setup, *, scope: Scope = "global") -> None:
        super().__init__(setup, scope)
        n = setup.n_layers * setup.n_experts
        self.count, self.last, self.resident = np.zeros(n), np.zeros(n), np.zeros(n, np.bool_)
        self.scores = np.full(n, np.inf)  # of residents, at the current event, if ``scored``; inf: no resident
        self.scored = False
        self.event = 0

    def on_gate(self, event: LayerEvent) -> None:
        demand = np.array(event.demand)
        self.event += 1
        self.count[demand] += 1
        self.last[demand] = self.event
        self.scored = False

    def on_slot(self, expert: int) -> None:
        self.resident[expert] = True
        self.scores[expert] = self.count[expert] / (self.event + 1 - self.last[expert])

    def on_evict(self, expert: int) -> None:
        self.resident[expert] = False
        self.scores[expert] = np.inf

    def victim(self, incoming: int, speculative: bool) -> int | None:
        if not self.scored:
            self.scores = np.where(self.resident, self.count / (self.event + 1 - self.last), np.inf)
            self.scored = True
        first = incoming // self.span * self.span
        place = lowest(self.scores[first : first + self.span], lambda x: self.view.evictable(first + x))
        return None if place is None else first + place
