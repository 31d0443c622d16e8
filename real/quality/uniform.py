"""The yardstick of lower precisions: every expert in one dtype, whatever the gate makes of it."""

from policies.api import LayerEvent, Policy, Routing, Setup


class Uniform(Policy):
    """Compute each chosen expert in the setup's second version; evict the least recently demanded.

    No policy to choose (`uniform=` of python -m real quality). O(n) per victim. Lossy; needs no signals.
    """

    name = "uniform"
    lossless = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.order: dict[int, None] = {}

    def decided(self) -> dict[str, object]:
        return {"uniform": self.setup.versions[1]}

    def route(self, event: LayerEvent) -> Routing:
        demand, slots = [self.setup.item(x, 1) for x in event.demand], sum(event.tokens)
        return Routing(demand, event.tokens, slots=slots, low_precision=slots)

    def on_gate(self, event: LayerEvent) -> None:
        for item in event.demand:
            self.order.pop(item, None)
            self.order[item] = None

    def on_evict(self, expert: int) -> None:
        del self.order[expert]

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return next((item for item in self.order if self.view.evictable(item)), None)
