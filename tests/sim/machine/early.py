"""A restless policy that has the host begin experts before their gate has run."""

from collections.abc import Mapping, Sequence

from policies.api import LayerEvent, Routing, Step
from tests.sim.machine.restless import Placing


class Early(Placing):
    """Has the host begin what it likes of the next layer, and computes some of it there, and some of it not."""

    lossless = False
    asked: Mapping[int, int] = {}

    def on_step(self, step: Step) -> None:
        self.asked = {}
        super().on_step(step)

    def rerouted(self, event: LayerEvent) -> Routing:
        """What was asked for, with its tokens, beside what the gate chose."""
        routing = super().rerouted(event)
        if self.random.random() < 0.2:
            return routing
        tokens = dict(zip(routing.demand, routing.tokens, strict=True))
        tokens |= {x: n for x, n in self.asked.items() if self.setup.layer_of(x) == event.layer}
        order = self.shuffled(tokens)
        return Routing(order, [tokens[x] for x in order], slots=sum(tokens.values()))

    def able(self, event: LayerEvent) -> list[int]:
        tokens = zip(event.demand, event.tokens, strict=True)
        return [x for x, n in tokens if n and self.asked.get(x, n) == n]

    def place(self, event: LayerEvent) -> Sequence[int]:
        placed = super().place(event)
        if self.random.random() < 0.5:
            placed = self.shuffled({*placed, *(x for x in self.able(event) if x in self.asked)})
        self.hosted = [*placed]
        return self.hosted

    def precompute(self, event: LayerEvent) -> Mapping[int, int]:
        self.note("precompute", *self.about(event))
        self.stir(self.eagerness)
        self.ask(may_block=True)
        rows, layer = sum(event.counts), event.layer + 1
        some = sorted(self.some_of(layer)) if layer < self.setup.n_layers else []  # the same ones again and again
        self.asked = {x: self.random.randint(1, rows) for x in some[: self.random.choice([0, 1, 2, len(some)])]}
        return self.asked
