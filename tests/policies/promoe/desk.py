"""ProMoE on small traces written out by hand, and on a desk.

3 layers of 4 experts, so that layer 1 has the expert numbers 4 to 7 and layer 2 has 8 to 11; dense part 10 ns, expert
100 ns, no overheads; predictions at once; room for everything.
"""

from functools import partial
from typing import Any

from policies.api import Predictor, Setup
from policies.promoe import ProMoE
from sim.check.lab import Run
from sim.check.synthetic import ABSENT, Routing
from sim.core.accounts import FETCHED, PREDICTED, RECALL
from tests.policies import scripted
from tests.policies.desk import Desk
from tests.policies.scripted import SIZE, costs

E = 4


script = partial(scripted.script, n_experts=E, signal="predicted/promoe", distance=2)


def go(routing: Routing, copy: int, **given: Any) -> Run:
    return scripted.go("promoe", routing, copy, **{"room": 12, "latency_us": 0.0} | given)


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
