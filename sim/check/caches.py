"""What a policy claims by its orders: that caches which hear of the same gates hold what each alone would hold."""

from collections.abc import Callable
from dataclasses import replace

from policies.api import Policy, Setup
from sim.check.synthetic import FakeSignals, Routing
from sim.core.accounts import COMPLETE
from sim.core.caches import Caches, alike
from sim.core.whole import WholeCore

COPY_NS, EXPERT_NS = 100, 30


def assert_orders_hold(make: Callable[[Setup], Policy], routing: Routing, setup: Setup) -> None:
    """AssertionError where a policy with ``orders`` (policies.api.Policy) has other hits in one of many caches."""
    policy, size = make(setup), setup.expert_bytes[0]
    own = policy.gpu_bytes()
    slots = range(-(-(policy.min_budget() - own) // size), setup.n_all + 1, max(1, setup.n_all // 6))
    if not alike(policy) or (orders := policy.orders(len(slots))) is None:
        return
    together = Caches(policy, policy.setup, FakeSignals(routing.signals), orders, slots)
    alone = []
    for n in slots:
        other = make(replace(setup, budget=n * size + own))
        alone.append(WholeCore(other, other.setup, FakeSignals(routing.signals)))
    cores: list[Caches | WholeCore] = [together, *alone]
    for number, step in enumerate(routing.passes(), 1):
        for core in cores:
            core.step_begin(number, step.prefill, step.requests, step.parts, 0)
            for layer, demand in enumerate(step.demand):
                core.gate_at_once(layer, demand, step.tokens[layer], COPY_NS, EXPERT_NS)
            core.step_end(0)
    for n, one, hits in zip(slots, alone, together.hits().tolist(), strict=True):
        if hits != [[row[COMPLETE] for row in rows] for rows in one.accounts.hits[:2]]:
            raise AssertionError(f"its orders evict otherwise than it does alone, with {n} experts")
