"""A cache of k experts per layer, and a few buffers for what the next gate seems to want."""

from collections.abc import Mapping
from typing import Any

from policies.api import LayerEvent, Schedule, Setup, Signal
from policies.parts.foreseen import Foreseen, by_tokens
from policies.parts.pools import Scope
from policies.parts.ranges import at_least


class MixtralOffloading(Foreseen):
    """LRU with k slots per layer; what the next layer's gate seems to want is loaded into ``buffers`` apart.

    arXiv 2312.17238, section 3. When a gate has run, the next layer's is applied to the same hidden state, and the
    ``speculated`` likeliest experts are loaded once the layer's own are, into buffers that all layers share and that
    count against the budget. Such a load never evicts a cached expert; if its layer's gate wants it, it takes the place
    of that layer's least recently used, else its buffer is free again. A layer that demands more than its k experts
    streams them through its slots, those that are there first. ``buffers=0``: speculative loads enter the cache itself,
    as the most recent, and evict. The union over tokens comes most tokens first, then first come; no other ties.
    O(rows x K) per event, O(pinned) per victim. Lossless; needs gate_ahead.
    """

    name = "mixtral_offloading"
    title = "Mixtral-Offloading"
    signals = frozenset({Signal.GATE_AHEAD})
    ahead = 1

    def __init__(
        self,
        setup: Setup,
        *,
        speculated: int | None = 2,
        buffers: int = 4,
        latency_us: float = 0.0,
        blocking: bool = False,
        scope: Scope = "layer",
    ) -> None:
        everything = setup.n_layers * setup.n_experts
        super().__init__(setup, outstanding=everything, latency_us=latency_us, blocking=blocking, scope=scope)
        self.speculated = None if speculated is None else at_least(1, "speculated", speculated, "experts, or null")
        self.buffer_bytes = at_least(0, "buffers", buffers, "experts of the largest size") * max(setup.expert_bytes)
        cache = setup.budget - self.buffer_bytes
        self.shares = setup.layer_budgets(cache) if self.by_layer else [cache]  # bytes of cache per pool
        self.cached = [0] * len(self.pools)  # bytes in it; above the share while what is pinned waits in buffers
        self.buffered: dict[int, None] = {}
        self.pool = 0  # of the current layer
        self.unloaded: set[int] = set()
        """Of the current layer's demand; with buffers, nothing is speculated before it is empty."""

    def one_gpu(self) -> str:
        return (
            "layers share its buffers, which are of one memory (policy.buffers=0 has none)" if self.buffer_bytes else ""
        )

    def min_budget(self) -> int:
        return self.buffer_bytes + super().min_budget()

    def layer_budgets(self) -> list[int] | None:
        return None if self.buffer_bytes else super().layer_budgets()  # buffers may hold any layer: kept to here

    def decided(self) -> Mapping[str, Any]:
        if not self.by_layer or self.setup.gpus > 1:
            return {}
        sizes = zip(self.shares, self.setup.expert_bytes, strict=True)
        return {"slots_per_layer": [share // size for share, size in sizes]}

    def on_gate(self, event: LayerEvent) -> None:
        self.pool = event.demand[0] // self.span
        for expert in event.demand:
            if expert in self.buffered:
                del self.buffered[expert]
                self.cached[self.pool] += self._size(expert)
        super().on_gate(event)
        self.pass_by(event.layer)
        self._trim()
        self.unloaded = {x for x in event.demand if not self.view.complete(x)}
        layer = event.layer + 1
        if layer < self.setup.n_layers:
            experts = by_tokens(event.signals.gate_ahead(1), layer, self.setup.n_experts)
            self.foresee(layer, experts[: self.speculated])
        self.issue()

    def pass_by(self, layer: int) -> None:
        super().pass_by(layer)
        for expert in [x for x in self.buffered if self.setup.layer_of(x) <= layer]:
            self.actions.evict(expert)  # or later, if its last chunk is on the link

    def schedule(self, event: LayerEvent) -> Schedule | None:
        slots = self.shares[self.pool] // self.setup.expert_bytes[event.layer]
        if not self.buffer_bytes or len(event.demand) <= slots:
            return None
        view = self.view
        order = sorted(event.demand, key=lambda x: 0 if view.complete(x) else 1 if view.resident(x) else 2)
        return Schedule(compute=order, ahead=slots - 1)

    def on_slot(self, expert: int) -> None:
        if self.buffer_bytes and expert in self.issued:
            self.buffered[expert] = None
        else:
            super().on_slot(expert)
            self.cached[expert // self.span] += self._size(expert)
            self._trim()

    def on_complete(self, expert: int) -> None:
        self.unloaded.discard(expert)
        if expert in self.buffered and expert not in self.issued:  # its last chunk was on the link when it was dropped
            self.actions.evict(expert)
        super().on_complete(expert)

    def on_evict(self, expert: int) -> None:
        if expert in self.buffered:
            del self.buffered[expert]
            self.issued.pop(expert, None)
        else:
            super().on_evict(expert)
            self.cached[expert // self.span] -= self._size(expert)
        self.issue()

    def keep(self, expert: int) -> bool:
        self._trim()
        return True

    def admit(self, expert: int) -> bool:
        if not self.buffer_bytes:
            return True
        if self.unloaded:
            return False
        on_their_way = sum(self._size(x) for x in self.issued if x not in self.buffered)
        overflow = max(0, self.cached[self.pool] - self.shares[self.pool])
        taken = sum(map(self._size, self.buffered)) + on_their_way + overflow
        return taken + self._size(expert) <= self.buffer_bytes

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return None if speculative and self.buffer_bytes else super().victim(incoming, speculative)

    def _size(self, expert: int) -> int:
        return self.setup.expert_bytes[self.setup.layer_of(expert)]

    def _trim(self) -> None:
        """Evict the least recently used of the current pool until it keeps to its share, or all of it is pinned."""
        if not self.buffer_bytes:
            return
        while self.cached[self.pool] > self.shares[self.pool]:
            victim = next(filter(self.view.evictable, self.pools[self.pool]), None)
            if victim is None:
                return
            self.actions.evict(victim)
