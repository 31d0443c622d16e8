"""Pre-gated MoE: a model whose gates choose one layer ahead, and a double buffer that what they say is copied into."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from policies.api import LayerEvent, Order, Schedule, Setup
from policies.parts.mixed import Mixed, as_prefill
from policies.parts.pools import Pooled, Queue, Rank, Ranking, Stack
from policies.parts.ranges import between

Cache = Literal["lru", "lfu", "lifo"]
MOST = 0.9


class Pregated(Pooled[Order]):
    """While a layer computes, copy just what the next one will demand into the other half of a double buffer.

    Pre-gated MoE (arXiv 2308.12066, and its code): the model is fine-tuned so that the gate of layer l chooses for
    layer l + 1; on what an unmodified model chose this is an oracle of exactly one layer. One layer is in flight at
    most, copied by index; nothing of a layer computes before all of it is there; a half is given up at the next gate.
    The first layer of a pass, and prefill, are on demand (``mixed``: whether a pass of both counts as prefill or
    decode). ``cache_share`` of all experts are kept beside the buffers; of these the ``cache`` drops the least recent,
    the least frequent (counts forgotten on eviction; ties: least recent) or the last come. O(n log n) for the n experts
    of an event, O(n + log residents) per victim. Of a modified model; needs no recorded signal.
    """

    name = "pregated"
    title = "Pre-gated MoE"
    of_mixed = frozenset({"mixed"})
    modified = True

    def __init__(
        self, setup: Setup, *, cache_share: float = 0.0, cache: Cache = "lfu", mixed: Mixed = "prefill"
    ) -> None:
        share = between("cache_share", cache_share, 0, MOST, "a share of all experts")
        self.cache_bytes = int(share * setup.n_experts * sum(setup.expert_bytes))
        self.cache, self.mixed = cache, mixed
        orders: dict[str, Callable[[range], Order]] = {"lru": Queue, "lfu": lambda _: Ranking(self.rank), "lifo": Stack}
        super().__init__(setup, "global", orders[cache])
        self.count = [0] * (setup.n_layers * setup.n_experts)
        self.last = [0] * len(self.count)
        self.lookups = 0
        self.held_bytes = 0  # of all that has a slot
        self.buffered: dict[int, None] = {}  # this layer's, and what is coming
        self.coming: dict[int, None] = {}

    def min_budget(self) -> int:
        return self.cache_bytes + super().min_budget()

    def rank(self, expert: int) -> Rank:
        return self.count[expert], self.last[expert]

    def on_gate(self, event: LayerEvent) -> None:
        self._touch(event)
        past, self.coming = self.buffered, dict.fromkeys(self._next(event))
        self.buffered = {**dict.fromkeys(event.demand), **self.coming}
        self._give_up(past)
        if self.coming:
            self.actions.expect(self.coming)
            for expert in self.coming:
                self.actions.prefetch(expert, 0.0)

    def schedule(self, event: LayerEvent) -> Schedule | None:
        there = [x for x in event.demand if self.view.complete(x)]
        missing = sorted(x for x in event.demand if not self.view.complete(x))
        # Whoever is copied last is waited for first.
        return Schedule(compute=[*reversed(missing), *there], copy=missing) if missing else None

    def on_slot(self, expert: int) -> None:
        super().on_slot(expert)
        self.held_bytes += self._size(expert)

    def on_evict(self, expert: int) -> None:
        super().on_evict(expert)
        self.held_bytes -= self._size(expert)
        self.count[expert] = 0

    def victim(self, incoming: int, speculative: bool) -> int | None:
        """Of the cache and what this layer has computed.

        What is coming has only room that this layer's own had no use for; but if it was there already, and nothing
        else can go, it goes for these.
        """
        order, evictable = self.pools[0], self.view.evictable
        found = order.lowest(lambda x: x not in self.coming and evictable(x))
        return order.lowest(evictable) if found is None and not speculative else found

    def _touch(self, event: LayerEvent) -> None:
        for expert in event.demand:
            self.lookups += 1
            self.count[expert] += 1
            self.last[expert] = self.lookups
        order = self.pools[0]
        if self.cache == "lru" and isinstance(order, Queue):
            for expert in event.demand:
                if expert in order:
                    order.move_to_end(expert)

    def _next(self, event: LayerEvent) -> list[int]:
        """What the next layer will demand, by index; nothing in prefill, nor after the last layer."""
        layer = event.layer + 1
        if as_prefill(event, self.mixed) or layer == self.setup.n_layers:
            return []
        n, ids = self.setup.n_experts, event.signals.pregate()
        return [layer * n + x for x in np.unique(ids[ids < n]).tolist()]

    def _give_up(self, past: dict[int, None]) -> None:
        """The half of the layer before is free: its experts take the place of others in the cache, or go."""
        order, evictable, resident = self.pools[0], self.view.evictable, self.view.resident
        over = self.held_bytes - sum(self._size(x) for x in self.buffered if resident(x)) - self.cache_bytes
        while over > 0:
            found = order.lowest(lambda x: x not in self.buffered and x not in past and evictable(x))
            if found is None:
                found = order.lowest(lambda x: x not in self.buffered and evictable(x))
            if found is None or not self.actions.evict(found):
                return
            over -= self._size(found)

    def _size(self, expert: int) -> int:
        return self.setup.expert_bytes[expert // self.setup.n_experts]
