"""The next layer's gate, applied early."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.api import LayerEvent, Setup, Signal, Step
from policies.lru import LRU
from policies.scoped import Scope
from traces.errors import UserError


class GateAhead(LRU):
    """When the gate of layer l has run, apply that of layer l + ``distance`` to the same hidden state and prefetch.

    Speculative loading of Mixtral-Offloading (arXiv 2312.17238, section 3.2). The union over tokens, most tokens first,
    then first come (token by token, by falling score); at most ``outstanding`` speculative loads at a time. Victims are
    LRU: what is predicted and not yet passed goes last for demand, and never for a speculative load; no ties.
    ``overlap_aware`` (MoE-Infinity pull request 180) admits a load only if it fits the link while this event computes.
    O(rows x K) per event, O(predicted + pinned) per victim. Lossless; needs gate_ahead.
    """

    name = "gate_ahead"
    signals = frozenset({Signal.GATE_AHEAD})

    def __init__(
        self,
        setup: Setup,
        *,
        distance: int = 1,
        outstanding: int = 1,
        overlap_aware: bool = False,
        latency_us: float = 0.0,
        blocking: bool = False,
        scope: Scope = "global",
    ) -> None:
        super().__init__(setup, scope=scope)
        farthest = max(1, setup.n_layers - 1)
        if not 1 <= distance <= farthest:
            raise UserError(f"policy.distance={distance}: allowed: 1 to {farthest} (layers)")
        if outstanding < 1:
            raise UserError(f"policy.outstanding={outstanding}: allowed: at least 1 (loads)")
        if latency_us < 0:
            raise UserError(f"policy.latency_us={latency_us}: allowed: at least 0 (microseconds)")
        self.distance, self.outstanding, self.overlap_aware = distance, outstanding, overlap_aware
        self.latency_ns, self.blocking = round(latency_us * 1000), blocking
        self.asked: dict[int, tuple[int, list[int]]] = {}  # tag -> (layer, experts), prediction under way
        self.tags = 0
        self.predicted = deque[tuple[int, list[int]]]()  # (layer, experts), gate not passed
        self.protected: set[int] = set()
        self.waiting = deque[int]()  # predicted, not issued
        self.issued: dict[int, None] = {}  # not complete
        self.window_ns = 0
        """Of the link, while the current event computes, not yet spoken for."""
        self.left_ns = [self._left_ns(size) for size in setup.expert_bytes]
        """Copy time of an expert of a layer once i of its chunks are done."""

    def _left_ns(self, size: int) -> list[int]:
        small, larger = divmod(size, self.setup.chunks)
        copies = [self.setup.costs.copy_ns(small + (i < larger)) for i in range(self.setup.chunks)]
        return [sum(copies[i:]) for i in range(self.setup.chunks + 1)]

    def on_step(self, step: Step) -> None:
        self._passed(self.setup.n_layers)

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        self._passed(event.layer)
        if self.overlap_aware:
            self.window_ns = self._window_ns(event)
        layer = event.layer + self.distance
        if layer < self.setup.n_layers:
            experts = self._union(event.signals.gate_ahead(self.distance), layer)
            if self.latency_ns:
                self.tags += 1
                self.asked[self.tags] = layer, experts
                self.actions.predict(self.tags, self.latency_ns, self.blocking)
            else:
                self._foretell(layer, experts)
        self._issue()

    def on_prediction(self, tag: int) -> None:
        if tag in self.asked:  # else its layer has been passed
            self._foretell(*self.asked.pop(tag))
            self._issue()

    def on_complete(self, expert: int) -> None:
        self.issued.pop(expert, None)
        self._issue()

    def on_evict(self, expert: int) -> None:
        super().on_evict(expert)
        self.issued.pop(expert, None)

    def victim(self, incoming: int, speculative: bool) -> int | None:
        spared = None
        for expert in filter(self.view.evictable, self.orders[incoming // self.span]):
            if expert not in self.protected:
                return expert
            if spared is None:
                spared = expert
        return None if speculative else spared

    def _passed(self, layer: int) -> None:
        """Forget what was predicted up to ``layer``, and cancel what of it is neither complete nor demanded."""
        for tag in [tag for tag, (target, _) in self.asked.items() if target <= layer]:
            del self.asked[tag]
        while self.predicted and self.predicted[0][0] <= layer:
            self.protected.difference_update(self.predicted.popleft()[1])
        while self.waiting and self.setup.layer_of(self.waiting[0]) <= layer:
            self.waiting.popleft()
        for expert in [x for x in self.issued if self.setup.layer_of(x) <= layer]:
            self.issued.pop(expert, None)
            self.actions.cancel(expert)  # of no effect on a load that was demanded

    def _union(self, ids: NDArray[np.integer[Any]], layer: int) -> list[int]:
        tokens = Counter(ids.ravel().tolist())
        tokens.pop(int(np.iinfo(ids.dtype).max), None)  # absent
        return [layer * self.setup.n_experts + x for x in sorted(tokens, key=lambda x: -tokens[x])]

    def _foretell(self, layer: int, experts: list[int]) -> None:
        self.actions.expect(experts)
        self.predicted.append((layer, experts))
        self.protected.update(experts)
        self.waiting.extend(experts)

    def _window_ns(self, event: LayerEvent) -> int:
        costs, view = self.setup.costs, self.view
        compute = sum(costs.expert_ns(event.layer, n) + costs.launch_ns for n in event.tokens)
        queued = [x for x in event.demand if not view.complete(x)] + list(self.issued)
        copies = sum(self.left_ns[self.setup.layer_of(x)][view.chunks_done(x)] for x in queued)
        return compute - copies - (0 if self.blocking else self.latency_ns)

    def _issue(self) -> None:
        while self.waiting and len(self.issued) < self.outstanding:
            expert = self.waiting[0]
            if not self.view.complete(expert):
                if self.overlap_aware:
                    copy_ns = self.left_ns[self.setup.layer_of(expert)][self.view.chunks_done(expert)]
                    if copy_ns > self.window_ns:
                        return
                    self.window_ns -= copy_ns
                self.actions.prefetch(expert, 0.0)
                self.issued[expert] = None
            self.waiting.popleft()
