"""ProMoE on small traces written out by hand, and on a desk.

3 layers of 4 experts, so that layer 1 has the flat numbers 4 to 7 and layer 2 has 8 to 11; dense part 10 ns, expert
100 ns, no overheads; predictions at once; room for everything.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from policies import registry
from policies.api import Predictor, Setup
from policies.promoe import ProMoE
from sim.core.accounts import FETCHED, PREDICTED, RECALL
from tests.policies.desk import Desk
from tests.policies.lab import ABSENT, Routing, run, setup_of
from tests.policies.scripted import SIZE, costs

E = 4


def script(demand: list[list[list[int]]], said: list[list[list[int]]], signal: str = "predicted/promoe") -> Routing:
    """Decode steps: demand [step][layer], and what is said at each gate [step][layer], [] if nothing."""
    ids = np.array(demand, np.uint8)
    n, n_layers, k = ids.shape
    shape = (n, n_layers, k) if signal.startswith("predicted") else (n, n_layers, 2, k)
    guess = np.full(shape, ABSENT, np.uint8)
    for step, layers in enumerate(said):
        for layer, experts in enumerate(layers):
            guess[(step, layer, *[1] * (len(shape) - 3))][: len(experts)] = experts
    return Routing(ids, [(False, i, 1) for i in range(n)], E, {signal: guess})


def go(routing: Routing, copy: int, *, room: int = 12, chunks: int = 1, **params: Any) -> Any:
    setup = setup_of(routing, room * SIZE, chunks=chunks, costs=costs(copy))
    return run(registry.build("promoe", setup, {"latency_us": 0.0} | params), routing)


def foretold(done: Any) -> tuple[int, int, int]:
    """Predicted, used, complete at the gate."""
    row = done.accounts.hit_row()
    return row[PREDICTED], row[RECALL], row[FETCHED]


RIGHT = script([[[0], [1], [2]]], [[[2], [], []]])
WRONG = script([[[0, 1], [0, 1], [2, 3]]], [[[0, 1], [], []]])


class OnDesk(Desk[ProMoE]):
    """In three chunks; what it is told to foretell with is what a gate says of layer l + stride."""

    def __init__(self, **params: Any) -> None:
        self.fitted = params.get("fitted", "promoe")
        predictor = Predictor(self.fitted, params.get("stride", 2), 2, {"input": "hidden"})
        costs_: Any = costs(60)
        setup = Setup(3, E, 1, (SIZE,) * 3, 3, 12 * SIZE, costs_, 0, {self.fitted: predictor})
        super().__init__(ProMoE(setup, **{"latency_us": 0.0} | params))

    def says(self, layer: int, demand: list[int], said: list[list[int]]) -> None:
        self.gate(layer, demand, **{f"predicted/{self.fitted}": said or [[ABSENT]]})
