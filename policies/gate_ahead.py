"""The next layer's gate, applied early."""

from policies.api import LayerEvent, Setup, Signal
from policies.parts.foreseen import Foreseen, by_tokens
from policies.parts.lanes import copied
from policies.parts.pools import Scope
from policies.parts.ranges import layers_ahead


class GateAhead(Foreseen):
    """When the gate of layer l has run, apply that of layer l + ``distance`` to the same hidden state and prefetch.

    Speculative loading of Mixtral-Offloading (arXiv 2312.17238, section 3.2). The union over tokens, most tokens first,
    then first come (token by token, by falling score); at most ``outstanding`` speculative loads at a time. Victims are
    LRU: what is predicted and not yet passed goes last for demand, and never for a speculative load; no ties.
    ``overlap_aware`` (MoE-Infinity pull request 180) admits a load only if it fits the link while this event computes:
    behind the copies that are asked for, each chunk on the lane that is free first, the last one ends in time.
    O(rows x K) per event, O(predicted + pinned) per victim. Lossless; needs gate_ahead.
    """

    name = "gate_ahead"
    title = "gate-ahead"
    signals = frozenset({Signal.GATE_AHEAD})
    ahead = "distance"

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
        super().__init__(setup, outstanding=outstanding, latency_us=latency_us, blocking=blocking, scope=scope)
        self.distance, self.overlap_aware = layers_ahead("distance", distance, setup), overlap_aware
        self.window_ns = 0  # while the current event computes, from its gate on, or from when the prediction is known
        self.lanes_ns = [0] * setup.lanes  # a heap: of the window, what is spoken for on each lane of the link
        self.chunk_ns = [setup.chunk_ns(layer) for layer in range(setup.n_layers)]

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        self.pass_by(event.layer)
        if self.overlap_aware:
            self._open_window(event)
        layer = event.layer + self.distance
        if layer < self.setup.n_layers:
            self.foresee(layer, by_tokens(event.signals.gate_ahead(self.distance), layer, self.setup.n_experts))
        self.issue()

    def admit(self, expert: int) -> bool:
        if self.overlap_aware:
            lanes = self.lanes_ns.copy()
            if copied(lanes, self._left(expert)) > self.window_ns:
                return False
            self.lanes_ns = lanes
        return True

    def victim(self, incoming: int, speculative: bool) -> int | None:
        order, evictable = self.pools[incoming // self.span], self.view.evictable
        found = order.lowest(lambda x: x not in self.protected and evictable(x))
        return found if speculative or found is not None else order.lowest(evictable)

    def _open_window(self, event: LayerEvent) -> None:
        """The event's own copies come first, then what was issued before; a prediction that is late shortens it."""
        costs, view = self.setup.costs, self.view
        compute = sum(costs.expert_ns(event.layer, n) + costs.launch_ns for n in event.tokens)
        self.window_ns = compute - (0 if self.line.blocking else self.line.latency_ns)
        self.lanes_ns = [0] * self.setup.lanes
        for x in [x for x in event.demand if not view.complete(x)] + list(self.issued):
            copied(self.lanes_ns, self._left(x))

    def _left(self, expert: int) -> list[int]:
        """What is left of an expert's copy, chunk by chunk."""
        return self.chunk_ns[self.setup.layer_of(expert)][self.view.chunks_done(expert) :]
