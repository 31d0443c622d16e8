"""Experts in a list, the victim at its head."""

from __future__ import annotations

from collections import OrderedDict

from policies.api import Setup
from policies.parts.scoped import Scope, Scoped


class Ordered(Scoped):
    """Evict the first evictable expert of the pool's list; an expert enters at the end, when it takes its slot."""

    def __init__(self, setup: Setup, scope: Scope) -> None:
        super().__init__(setup, scope)
        self.orders = [OrderedDict[int, None]() for _ in range(self.n_pools)]

    def on_slot(self, expert: int) -> None:
        self.orders[expert // self.span][expert] = None

    def on_evict(self, expert: int) -> None:
        del self.orders[expert // self.span][expert]

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return next(filter(self.view.evictable, self.orders[incoming // self.span]), None)
