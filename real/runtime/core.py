"""The simulator's core, with the slots of a device."""

from __future__ import annotations

from policies.api import LayerEvent, Policy, Routing, Setup
from real.runtime.pool import Pool
from sim.core.replay import RecordingCore
from sim.core.state import CoreError
from sim.core.words import StepSignals


class DeviceCore(RecordingCore):
    """A core that takes an expert's slot on the device back when it has decided so."""

    def __init__(self, policy: Policy, setup: Setup, signals: StepSignals, pool: Pool) -> None:
        self.pool = pool
        super().__init__(policy, setup, signals)
        self._all_bytes = sum(self.state.size)
        self.routing: Routing | None = None
        """What the policy has put in the place of the last gate's choice."""
        if self._route is not None:
            self._ask_route, self._route = self._route, self._routed

    def _routed(self, event: LayerEvent) -> Routing | None:
        routing = self.routing = self._ask_route(event)
        if routing is not None and routing.chosen is None and not self.policy.lossless:
            wanted = {x: n for x, n in zip(routing.demand, routing.tokens, strict=True) if n}
            if wanted != dict(zip(event.demand, event.tokens, strict=True)):
                raise CoreError(f"policy {self.policy.name} does not say who computes which token (Routing.chosen)")
        return routing

    @property
    def queued(self) -> bool:
        """Whether a load waits, be it that it can get no slot now."""
        return bool(self._demand or self._queue)

    @property
    def all_have_slots(self) -> bool:
        """Whether every expert has a slot, and what is computed is what the gate chose."""
        return not self.routes and self.state.used == self._all_bytes

    @property
    def whole(self) -> bool:
        """As :attr:`all_have_slots`, and every expert is complete."""
        return self.all_have_slots and all(n == self.state.chunks for n in self.state.done)

    def evict(self, x: int) -> None:
        super().evict(x)
        self.pool.release(x)
