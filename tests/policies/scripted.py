"""Traces written out by hand, and policies that are told facts by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from policies import registry
from policies.api import Actions, LayerEvent, Policy, Step
from tests.policies.lab import ABSENT, FakeSignals, FlatCosts, Routing, Run, run, setup_of

SIZE = 12


def costs(copy: int) -> FlatCosts:
    """Dense part 10 ns, expert 100 ns, no overheads."""
    return FlatCosts(copy=copy, expert=100, launch_ns=0, dense=10, head=0, layer_overhead_ns=0)


def script(demand: list[list[list[int]]], ahead: list[list[list[int]]] | None = None, n_experts: int = 8) -> Routing:
    """Decode steps: demand [step][layer] and what each gate says of the next layer [step][layer], [] if nothing."""
    ids = np.array(demand, np.uint8)
    n, n_layers, k = ids.shape
    guess = np.full((n, n_layers, 1, k), ABSENT, np.uint8)
    for step, layers in enumerate(ahead or []):
        for layer, experts in enumerate(layers):
            guess[step, layer, 0, : len(experts)] = experts
    steps = [(False, i, 1) for i in range(n)]
    return Routing(ids, steps, n_experts, {"expert_ids": ids, "gate_ahead": guess})


def go(name: str, routing: Routing, copy: int, *, room: int, chunks: int = 1, **params: Any) -> Run:
    """Run a policy with room for so many experts."""
    setup = setup_of(routing, room * SIZE, chunks=chunks, costs=costs(copy))
    return run(registry.build(name, setup, params), routing)


def sums(done: Run) -> tuple[list[int], list[int], int]:
    """Fates (useful, late, useless, cancelled, in flight), stalls (demand, late, queueing, predictor, CPU), wall."""
    a = done.accounts
    return a.fates, a.stall_row(), a.end_ns - a.start_ns


def held(done: Run) -> list[int]:
    """Who has a slot in the end."""
    return [x for x, slot in enumerate(done.core.state.slot) if slot]


class Desk:
    """A policy on a desk: its facts are told by hand, its actions written down.

    ``resident``, ``complete`` and ``pinned`` are what it sees; what it evicts is no longer resident, and it is told.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.prefetched: list[int] = []
        self.priorities: dict[int, float] = {}
        self.cancelled: list[int] = []
        self.evicted: list[int] = []
        self.expected: list[list[int]] = []
        self.asked: list[tuple[int, int, bool]] = []
        self.pinned: set[int] = set()
        self.complete: set[int] = set()
        self.resident: set[int] = set()
        view: Any = SimpleNamespace(
            complete=self.complete.__contains__,
            resident=lambda x: x in self.resident or x in self.complete,
            evictable=lambda x: x not in self.pinned,
            chunks_done=lambda x: 0,
        )
        policy.attach(
            view,
            Actions(
                prefetch=self._prefetch,
                cancel=lambda x: not self.cancelled.append(x),
                expect=lambda xs: self.expected.append(list(xs)),
                predict=lambda *asked: self.asked.append(asked),
                evict=self._evict,
            ),
        )

    def _prefetch(self, expert: int, priority: float) -> bool:
        self.prefetched.append(expert)
        self.priorities[expert] = priority
        return True

    def _evict(self, expert: int) -> bool:
        if expert in self.pinned:
            return False
        self.evicted.append(expert)
        self.gone(expert)
        return True

    def slot(self, *experts: int) -> None:
        """Loads take their slots."""
        for x in experts:
            self.resident.add(x)
            self.policy.on_slot(x)

    def arrive(self, *experts: int) -> None:
        """Loads are complete; they take their slots first if they have none."""
        for x in experts:
            if x not in self.resident:
                self.slot(x)
            self.complete.add(x)
            self.policy.on_complete(x)

    def gone(self, expert: int) -> None:
        """An expert loses its slot."""
        self.resident.discard(expert)
        self.complete.discard(expert)
        self.policy.on_evict(expert)

    def step(self, *requests: int, prefill: bool = False) -> None:
        """A pass over one row of each request begins."""
        counts = [1] * len(requests)
        signals: Any = None
        self.policy.on_step(Step(0, prefill, len(requests), requests, counts, signals))

    def gate(
        self,
        layer: int,
        demand: list[int],
        ahead: list[list[int]] | None = None,
        *,
        requests: tuple[int, ...] = (0,),
        tokens: list[int] | None = None,
        ids: list[list[int]] | None = None,
        prefill: bool = False,
    ) -> None:
        """A gate has run; ``ahead``: what it says of the next layer, and of the one
        after it; ``ids``: the experts chosen, by row."""
        rows = len(ahead or ids or [[]])
        arrays = {name: np.array(given, np.uint8)[:, None] for name, given in (("expert_ids", ids),) if given}
        if ahead:
            arrays["gate_ahead"] = np.array(ahead, np.uint8)[:, None, None].repeat(2, 2)
        signals: Any = FakeSignals({name: array.repeat(layer + 1, 1) for name, array in arrays.items()})
        signals.enter([(0, rows)])
        signals.layer = layer
        counts = (rows,) if len(requests) == 1 else (1,) * len(requests)
        given = tokens or [1] * len(demand)
        self.policy.on_gate(LayerEvent(layer, prefill, demand, given, requests, counts, signals))
