"""Traces written out by hand, and policies that are run on them."""

from dataclasses import replace
from typing import Any

import numpy as np

from policies import registry
from sim.check.laws import Run, run
from sim.check.synthetic import ABSENT, FlatCosts, Routing, setup_of
from sim.check.variants import named

SIZE = 12


def costs(copy: int) -> FlatCosts:
    """Dense part 10 ns, expert 100 ns, no overheads."""
    return FlatCosts(copy=copy, expert=100, launch_ns=0, dense=10, head=0, layer_overhead_ns=0)


def script(
    demand: list[list[list[int]]],
    said: list[list[list[int]]] | None = None,
    n_experts: int = 8,
    signal: str = "gate_ahead",
    distance: int = 1,
) -> Routing:
    """Decode steps: demand [step][layer] and what each gate says [step][layer], [] if nothing.

    It speaks of ``distance`` layers on, by that signal.
    """
    ids = np.array(demand, np.uint8)
    n, n_layers, k = ids.shape
    guess = np.full((n, n_layers, distance, k), ABSENT, np.uint8)
    for step, layers in enumerate(said or []):
        for layer, experts in enumerate(layers):
            guess[step, layer, -1, : len(experts)] = experts
    shown = guess if signal == "gate_ahead" else guess[:, :, -1]
    return Routing(ids, [(False, i, 1) for i in range(n)], n_experts, {"expert_ids": ids, signal: shown})


def go(name: str, routing: Routing, copy: int, *, room: int, chunks: int = 1, lanes: int = 1, **params: Any) -> Run:
    """Run a policy with room for so many experts."""
    setup = replace(setup_of(routing, room * SIZE, chunks=chunks, costs=costs(copy)), lanes=lanes)
    return run(registry.build(name, setup, params), routing)


def as_shipped(title: str) -> dict[str, Any]:
    """What the YAML of that name changes of its policy's defaults."""
    return dict(named(title)[0].params)


def sums(done: Run) -> tuple[list[int], list[int], int]:
    """Fates (useful, late, useless, cancelled, in flight), stalls (demand, late, queueing, predictor, CPU), wall."""
    a = done.accounts
    return a.fates, a.stall_row(), a.end_ns - a.start_ns


def held(done: Run) -> list[int]:
    """Who has a slot in the end."""
    return [x for x, slot in enumerate(done.core.state.slot) if slot]
