"""Small machines and random passes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from policies.api import Policy, Setup
from policies.bounds import windows
from policies.bounds.belady_bypass import belady_bypass_bytes
from policies.bounds.future import Clairvoyant, Future
from policies.bounds.reference_rows import BeladyForced, OracleAhead, PerfectNextLayer
from policies.lru import LRU
from policies.on_demand import OnDemand
from policies.pregated import Pregated
from sim.core.accounts import Accounts
from sim.core.core import Core
from sim.experiment.bounds import Floor, floors_of
from sim.machine.machine import Machine
from sim.prices.costs import Costs
from sim.prices.curves import Affine
from sim.workload.passes import Pass, merge
from sim.workload.signals import TraceSignals
from tests.sim.machine.restless import Restless


class ToyCosts:
    """Real link, made-up compute: an expert takes ``expert`` ns up to 4 tokens, then more with each."""

    def __init__(
        self, *, overhead: int, bytes_per_ns: Fraction, expert: int, dense: int, launch: int, lanes: int = 1
    ) -> None:
        self.lanes = lanes
        self.link = Affine(Fraction(overhead), 1 / bytes_per_ns)
        self.expert, self.dense, self.launch_ns, self.layer_overhead_ns = expert, dense, launch, launch // 2

    def copy_ns(self, nbytes: int) -> int:
        return self.link.ns(nbytes)

    def link_floor_ns(self, nbytes: int) -> int:
        return self.link.floor_ns(nbytes) // self.lanes

    def expert_ns(self, layer: int, tokens: int) -> int:
        return self.expert_table(layer, tokens)[tokens]

    def expert_table(self, layer: int, max_tokens: int) -> list[int]:
        return [0, *(self.expert * max(4, n) // 4 + layer for n in range(1, max_tokens + 1))]

    def dense_ns(self, tokens: int, kv_tokens: int, pairs: int) -> int:
        return self.dense + (tokens + kv_tokens + pairs) // 100

    def lead_ns(self, tokens: int, kv_tokens: int, pairs: int) -> int:
        return self.dense // 2

    def head_ns(self, logit_rows: int) -> int:
        return self.dense * logit_rows


POLICIES = {
    "lru": LRU,
    "lru_layer": lambda setup: LRU(setup, scope="layer"),
    "on_demand": OnDemand,
    "restless": Restless,
    "pregated": Pregated,
    "pregated_cached": lambda setup: Pregated(setup, cache_share=0.2, cache="lru"),
    "belady_forced": BeladyForced,
    "perfect_next_layer": PerfectNextLayer,
    "oracle_ahead": OracleAhead,
}


class Pregates(TraceSignals):
    """Nothing but who computes in the next layer, of passes that are of no trace."""

    def __init__(self, lab: "Lab") -> None:
        super().__init__(None)
        self.E, self.passes = lab.setup.n_experts, iter(lab.passes)
        self.step: Pass

    def enter(self, parts: Sequence[tuple[int, int]]) -> None:
        super().enter(parts)
        self.step = next(self.passes)

    def _pregate(self) -> NDArray[np.integer[Any]]:
        return np.array([[x % self.E for x in self.step.demand[self.layer + 1]]], np.uint8)


@dataclass
class Lab:
    """One workload on one machine."""

    setup: Setup
    costs: ToyCosts
    passes: list[Pass]
    depth: int = 1

    @property
    def demands(self) -> list[list[int]]:
        """The events, empty layers included."""
        return [demand for step in self.passes for demand in step.demand]

    def future(self, start: int = 0) -> Future:
        n_all = self.setup.n_layers * self.setup.n_experts
        return Future.of((d for step in self.passes[start:] for d in step.demand), n_all)

    def run(self, policy: Policy, warmup: int = 0) -> Accounts:
        """Replay, the first ``warmup`` passes before the window."""
        if isinstance(policy, Clairvoyant):
            policy.foresee(self.future())
        core = Core(policy, self.setup, Pregates(self))
        machine = Machine(core, self.costs, depth=self.depth, lanes=self.costs.lanes)  # type: ignore[arg-type]
        return machine.run(self.passes[:warmup], self.passes[warmup:])

    def bypass(self, warmup: int = 0) -> int:
        setup = self.setup
        return belady_bypass_bytes(
            self.future(warmup), setup.expert_bytes, setup.n_experts, setup.budget, warm=warmup > 0
        )

    def floor(self, warmup: int = 0, stride: int = 3, reach: int = 9, *, with_host: bool = False) -> Floor:
        """The bounds; with windows that begin at every ``stride``-th pass, of up to ``reach`` passes."""
        passes, future = self.passes[warmup:], self.future(warmup)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(windows, "STRIDE", stride)
            patch.setattr(windows, "REACH", reach)
            budgets, costs = [self.setup.budget], cast("Costs", self.costs)
            given = (passes, future, self.setup, costs, budgets)
            (found,) = floors_of(*given, warm=warmup > 0, with_host=with_host)
        return found


def one_by_one(sequence: list[int], n_experts: int, budget: int, *, ns: int = 1, **costs: int) -> Lab:
    """One layer, one expert of one byte per event; a copy takes ``ns``."""
    prices = {"overhead": 0, "expert": 3, "dense": 2, "launch": 1, **costs}
    toy = ToyCosts(bytes_per_ns=Fraction(1, ns), **prices)
    setup = Setup(1, n_experts, 1, (1,), 1, budget, toy)
    passes = [Pass(False, (0,), [(i, 1)], 1, i + 1, i + 1, [[x]], [[1]]) for i, x in enumerate(sequence)]
    return Lab(setup, toy, passes)


def random_lab(rng: random.Random) -> Lab:
    """Any sizes, chunks, depth, lanes, budget, speeds; prefill, decode and batches; some layers see no token."""
    L, E = rng.randint(1, 4), rng.randint(1, 8)
    K = rng.randint(1, E)
    sizes = tuple(rng.choice([5, 16, 40, 100]) for _ in range(L)) if rng.random() < 0.5 else (rng.randint(1, 60),) * L
    costs = ToyCosts(
        overhead=rng.choice([0, 0, 7]),
        bytes_per_ns=Fraction(rng.choice([1, 3, 20]), rng.choice([1, 7])),
        expert=rng.choice([0, 3, 40]),
        dense=rng.choice([0, 5, 100]),
        launch=rng.choice([0, 5]),
        lanes=rng.choice([1, 1, 2, 3]),
    )
    total = E * sum(sizes)
    least = max(sizes) if rng.random() < 0.5 else sum(sizes)
    budget = min(total, max(least, int(total * rng.random())))
    setup = Setup(L, E, K, sizes, rng.randint(1, 4), budget, costs, seed=rng.randrange(2**31))
    weights = [[0.01 + rng.random() ** 3 for _ in range(E)] for _ in range(L)]
    passes, context = [], 0
    for _ in range(rng.randint(1, 25)):
        prefill = rng.random() < 0.15
        rows = rng.randint(1, 12) if prefill or rng.random() < 0.3 else 1
        requests, parts = ((0,), [(0, rows)]) if prefill else (tuple(range(rows)), [(0, 1)] * rows)
        context += rows
        layers = []
        for layer in range(L):
            gap = rng.random() < 0.05
            picks = [] if gap else [pick(rng, weights[layer], K, layer * E) for _ in range(rows)]
            layers.append(merge(picks))
        demand, tokens = [d for d, _ in layers], [t for _, t in layers]
        passes.append(Pass(prefill, requests, parts, rows, context, rows * context, demand, tokens))
    return Lab(setup, costs, passes, depth=rng.randint(1, 3))


def pick(rng: random.Random, weights: list[float], k: int, first: int) -> list[int]:
    """``k`` different experts, the popular ones more often."""
    order = sorted(range(len(weights)), key=lambda x: -(rng.random() ** (1 / weights[x])))
    return [first + x for x in order[:k]]
