"""The bounds of several GPUs: no policy beats them, exhaustive search finds the same, and one GPU's are the same."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.bounds import windows
from policies.bounds.future import Clairvoyant
from sim.core.several import core_of
from sim.experiment.bounds import Floor
from sim.experiment.gpus_bound import gpus_floors
from sim.machine.machine import Machine
from sim.workload.passes import Pass
from tests.policies.bounds.toy import POLICIES, Lab, Pregates, one_by_one, random_lab


def spread_lab(rng: random.Random) -> Lab:
    """Its experts anywhere on two to four GPUs, each with memory enough for one of each layer."""
    lab, gpus = random_lab(rng), rng.randint(2, 4)
    setup = lab.setup
    homes = [rng.randrange(gpus) for _ in range(setup.n_layers * setup.n_experts)]
    budget = max(setup.budget, gpus * sum(setup.expert_bytes)) + rng.randrange(gpus)
    return replace(lab, setup=replace(setup, gpus=gpus, homes=homes, budget=budget))


def peer_ns(tokens: int) -> int:
    return 7 + 2 * tokens


def floor(lab: Lab, warmup: int = 0) -> Floor:
    costs: Any = lab.costs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "STRIDE", 3)
        patch.setattr(windows, "REACH", 9)
        passes, budgets = lab.passes[warmup:], [lab.setup.budget]
        (found,) = gpus_floors(passes, lab.setup, costs, peer_ns, budgets, warm=warmup > 0)
    return found


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), share=st.just(0.0) | st.floats(0.1, 0.9))
def test_no_policy_beats_the_bounds_from_the_start_or_after_a_warm_up(name: str, seed: int, share: float) -> None:
    lab = spread_lab(random.Random(seed))
    warmup = int(share * len(lab.passes))
    least = POLICIES[name](lab.setup).min_budget()
    lab = replace(lab, setup=replace(lab.setup, budget=max(lab.setup.budget, least)))
    policy = POLICIES[name](lab.setup)
    if isinstance(policy, Clairvoyant):
        policy.foresee(lab.future())
    core, costs = core_of(policy, lab.setup, Pregates(lab)), lab.costs
    machine = Machine(core, costs, depth=lab.depth, lanes=costs.lanes, peer_ns=peer_ns)  # type: ignore[arg-type]
    accounts = machine.run(lab.passes[:warmup], lab.passes[warmup:])
    bound = floor(lab, warmup)
    assert accounts.demand_bytes + accounts.speculative_bytes >= bound.nbytes
    assert accounts.wall_ns >= bound.ns
    assert accounts.compute_ns + accounts.peer_ns <= accounts.wall_ns


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True), min_size=1, max_size=6),
    st.lists(st.integers(0, 1), min_size=5, max_size=5),
    st.integers(1, 2),
)
def test_the_bytes_are_what_exhaustive_search_finds(
    events: Sequence[Sequence[int]], homes: Sequence[int], each: int
) -> None:
    """Whole experts of one byte, both GPUs' memories chosen together after every event."""
    lab = one_by_one([0], 5, 2 * each)
    passes = [Pass(False, (0,), [(i, 1)], 1, 1, 1, [list(e)], [[1] * len(e)]) for i, e in enumerate(events)]
    lab = replace(lab, passes=passes, setup=replace(lab.setup, gpus=2, homes=list(homes)))
    states = [
        frozenset(held)
        for n in range(2 * each + 1)
        for held in combinations(range(5), n)
        if all(sum(homes[x] == gpu for x in held) <= each for gpu in (0, 1))
    ]
    best = {frozenset[int](): 0}
    for event in events:
        best = {
            after: min(copied + len((after | set(event)) - before) for before, copied in best.items())
            for after in states
        }
    assert floor(lab).nbytes == min(best.values())


def test_the_floor_of_compute_by_hand() -> None:
    lab = one_by_one([0], 3, 3, expert=40, dense=100, launch=6)
    both = Pass(False, (0,), [(0, 1)], 1, 50, 50, [[0, 1, 2]], [[1, 1, 1]])
    lab = replace(lab, passes=[both], setup=replace(lab.setup, gpus=2, homes=[0, 1, 1]))
    # what leads; dense and software; GPU 1's two experts, each with a launch, and the way of one token; head
    assert floor(lab).compute_ns == 50 + (101 + 3) + 2 * (40 + 6) + 2 * 9 + 100


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_all_on_the_first_is_one_gpu(seed: int) -> None:
    lab = random_lab(random.Random(seed))
    setup = lab.setup
    several = replace(setup, gpus=3, homes=[0] * (setup.n_layers * setup.n_experts), budget=3 * setup.budget)
    one = lab.floor()
    assert replace(floor(replace(lab, setup=several)), budget_bytes=setup.budget) == one
