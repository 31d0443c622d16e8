"""Train requests and a desk for MoE-Infinity: 3 layers of 4 experts, 1 per token, predictions at once, if not said."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from policies.api import PastStep
from policies.moe_infinity import MoEInfinity
from sim.check.synthetic import draw, setup_of
from tests.policies.desk import Desk, past_step
from tests.policies.scripted import costs


class Past:
    """Train requests: for each, its steps as (prefill, expert ids [rows, L, K])."""

    def __init__(self, *requests: list[tuple[bool, Any]]) -> None:
        self.requests = requests

    def steps(self) -> Iterator[PastStep]:
        for request, steps in enumerate(self.requests):
            for prefill, ids in steps:
                yield past_step(request, prefill, expert_ids=np.array(ids, np.uint8))


def decoded(*steps: list[int]) -> list[tuple[bool, Any]]:
    """A train request: decode steps of one token, one expert per layer."""
    return [(False, [[[x] for x in step]]) for step in steps]


STRAIGHT = Past(decoded([0, 1, 2], [0, 1, 2]), decoded([3, 3, 3]))
# 5 tokens: layer 1 has 2 in expert 0 and 3 in 1; layer 2 all in 2.
MIXED = Past(decoded([0, 0, 2], [0, 0, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2]))


def on_a_desk(past: Any = STRAIGHT, n_layers: int = 3, n_experts: int = 4, **params: Any) -> Desk:
    setup = setup_of(draw(0, n_layers=n_layers, n_experts=n_experts), 10_000, costs=costs(60))
    policy = MoEInfinity(setup, **{"latency_us": 0.0, **params})
    if policy.wants_history():
        policy.fit(past)
    return Desk(policy)


def at_gate_0(*given: Any, **params: Any) -> Desk:
    """It has run, and wants expert 0."""
    desk = on_a_desk(*given, **params)
    desk.step(0)
    desk.gate(0, [0])
    return desk


def queued(desk: Desk) -> list[int]:
    """What is prefetched one after the other until nothing is left to do."""
    while len(desk.complete) < len(desk.prefetched):
        desk.arrive(next(x for x in desk.prefetched if x not in desk.complete))
    return desk.prefetched
