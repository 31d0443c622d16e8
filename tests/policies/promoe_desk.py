"""ProMoE on small traces written out by hand, and on a desk.

3 layers of 4 experts, so that layer 1 has the flat numbers 4 to 7 and layer 2 has 8 to 11; dense part 10 ns, expert
100 ns, no overheads; predictions at once; room for everything.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from policies import registry
from policies.api import Actions, LayerEvent, Predictor, Setup
from policies.promoe import ProMoE
from sim.core.accounts import FETCHED, PREDICTED, RECALL
from tests.policies.lab import ABSENT, FakeSignals, Routing, run, setup_of
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


class Desk:
    """A policy on a desk: its facts are told by hand, its actions written down."""

    def __init__(self, **params: Any) -> None:
        setup = setup_of(RIGHT, 12 * SIZE, chunks=3, costs=costs(60))
        fitted = params.get("fitted", "promoe")
        predictor = Predictor(fitted, params.get("stride", 2), 2, {"input": "hidden"})
        setup = Setup(3, E, 1, (SIZE,) * 3, 3, setup.budget, setup.costs, 0, {fitted: predictor})
        self.policy = ProMoE(setup, **{"latency_us": 0.0} | params)
        self.signal = f"predicted/{fitted}"
        self.prefetched: list[int] = []
        self.expected: list[list[int]] = []
        self.cancelled: list[int] = []
        self.asked: list[tuple[int, int]] = []  # tag, ns
        self.resident: set[int] = set()
        self.chunks: dict[int, int] = {}
        view: Any = SimpleNamespace(
            resident=self.resident.__contains__,
            evictable=lambda x: True,
            chunks_done=lambda x: self.chunks.get(x, 0),
            complete=lambda x: self.chunks.get(x, 0) == 3,
        )
        self.policy.attach(
            view,
            Actions(
                prefetch=lambda x, priority: not self.prefetched.append(x),
                cancel=lambda x: not self.cancelled.append(x),
                expect=lambda xs: self.expected.append(list(xs)),
                predict=lambda tag, ns, blocking: self.asked.append((tag, ns)),
                evict=lambda x: False,
            ),
        )

    def event(self, layer: int, demand: list[int], said: list[list[int]] | None = None) -> LayerEvent:
        rows = np.array(said or [[ABSENT]], np.uint8)
        signals: Any = FakeSignals({self.signal: rows[:, None].repeat(3, 1)})
        signals.enter([(0, len(rows))])
        signals.layer = layer
        return LayerEvent(layer, False, demand, [1] * len(demand), (0,), (len(rows),), signals)

    def gate(self, layer: int, demand: list[int], said: list[list[int]]) -> None:
        self.policy.on_gate(self.event(layer, demand, said))

    def done(self) -> None:
        """The last prediction that was asked for has ended."""
        self.policy.on_prediction(self.asked[-1][0])
