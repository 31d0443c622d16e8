"""Least recently used."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from policies.api import LayerEvent, Policy, Setup


class LRU(Policy):
    """Evict the expert whose last demand is the longest ago; a demand load is always admitted.

    ``scope=global`` keeps one list for all layers, ``scope=layer`` one per layer with an even share of the budget
    (as Mixtral-Offloading, arXiv 2312.17238, section 3.1). O(1) per lookup. Lossless; needs no signals.
    """

    name = "lru"

    def __init__(self, setup: Setup, *, scope: Literal["global", "layer"] = "global") -> None:
        super().__init__(setup)
        self.by_layer = scope == "layer"
        self.orders = [OrderedDict[int, None]() for _ in range(setup.n_layers if self.by_layer else 1)]

    def min_budget(self) -> int:
        return sum(self.setup.expert_bytes) if self.by_layer else super().min_budget()

    def layer_budgets(self) -> list[int] | None:
        return self.setup.layer_budgets() if self.by_layer else None

    def order(self, expert: int) -> OrderedDict[int, None]:
        return self.orders[self.setup.layer_of(expert) if self.by_layer else 0]

    def on_gate(self, event: LayerEvent) -> None:
        order = self.order(event.demand[0])
        for expert in event.demand:
            order[expert] = None
            order.move_to_end(expert)

    def on_slot(self, expert: int) -> None:
        self.order(expert)[expert] = None  # a speculative load enters as the most recent

    def on_evict(self, expert: int) -> None:
        del self.order(expert)[expert]

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return next(filter(self.view.evictable, self.order(incoming)), None)
