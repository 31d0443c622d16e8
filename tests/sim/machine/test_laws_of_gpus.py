"""Laws of several GPUs. Above each, the bug that it prevents."""

from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import Policy, Setup
from policies.lru import LRU
from sim.core.accounts import Accounts
from sim.core.state import CoreError
from sim.prices.placement import WHOLE, Spread
from sim.workload.passes import Pass
from tests.sim.machine.cases import FREE_COMPUTE, FlatCosts, decode, make_setup, simulate, some_passes
from tests.sim.machine.restless import EXAMPLES, Bypass, Case, Restless, Unruly, cases
from tests.sim.machine.several_cases import spread_cases

OF_SEVERAL = ("gpus", "by_gpu")


def run(kind: type[Policy], setup: Setup, case: Case, **more: Any) -> Accounts:
    given = {"warmup": case.warmup, "depth": case.depth, "lanes": case.lanes, "policy_ns": case.policy_ns}
    return simulate(kind(setup), setup, case.passes, **given, **more)[0]


def whole(accounts: Accounts) -> dict[str, Any]:
    """Without what is of each GPU."""
    return {key: value for key, value in asdict(accounts).items() if key not in OF_SEVERAL}


# Another machine where the others have nothing to do: their queues, their links or their questions disturb the first.
@pytest.mark.parametrize("kind", [LRU, Restless, Unruly])
@settings(EXAMPLES, max_examples=15)
@given(case=cases(), gpus=st.integers(2, 4), spare=st.integers(0, 1))
def test_all_on_the_first_is_one_gpu(kind: type[Policy], case: Case, gpus: int, spare: int) -> None:
    homes = [0] * (case.setup.n_layers * case.setup.n_experts)
    several = replace(case.setup, gpus=gpus, homes=homes, budget=gpus * case.setup.budget + spare)
    one, many = run(kind, case.setup, case), run(kind, several, case)
    assert whole(many) == whole(one)
    first, *others = many.by_gpu
    assert first.compute_ns == one.compute_ns
    assert first.stall_ns == [*one.stall_row(), 0]  # no disk
    assert first.idle_ns == first.peer_ns == 0
    assert all(its.idle_ns == one.wall_ns for its in others)


# A GPU that is privileged by its number. (Of two that are equally slow, the lower one says what the time went into.)
@settings(EXAMPLES, max_examples=15)
@given(case=spread_cases(), kind=st.sampled_from([LRU, Bypass]))
def test_the_names_of_all_but_the_first_do_not_matter(case: Case, kind: type[Policy]) -> None:
    gpus = case.setup.gpus
    turned = [home and home % (gpus - 1) + 1 for home in case.setup.homes]
    here, there = (run(kind, replace(case.setup, homes=homes), case) for homes in (case.setup.homes, turned))
    for name in ("hits", "demand_bytes", "link_busy_ns", "start_ns", "end_ns"):
        assert getattr(here, name) == getattr(there, name), name
    assert [there.by_gpu[gpu and gpu % (gpus - 1) + 1] for gpu in range(gpus)] == here.by_gpu


# A stall of one GPU that is counted for the run although another took longer, or a layer that waits for nobody.
def test_a_layer_takes_as_long_as_its_slowest_gpu() -> None:
    costs = FlatCosts(per_copy=0, per_byte=1, dense=100, per_token=3, per_step=0, launch_ns=0, layer_overhead_ns=0)
    costs = replace(costs, per_peer=5, per_peer_token=1)
    setup = replace(make_setup([30], 3, 90, costs=costs), gpus=3, homes=[0, 1, 2])
    passes = decode([[[0, 1]], [[1]], [[0]], [[0, 1, 2]]], 3)
    accounts, _ = simulate(LRU(setup), setup, passes)
    # Both copies begin at once; GPU 1's activations come while its copy is under way, and go when it has computed.
    first = 100 + 30 + 3 + 6
    second = 100 + 6 + 3 + 6
    third = 100 + 3
    fourth = 100 + 30 + 3 + 6
    assert accounts.wall_ns == first + second + third + fourth
    assert accounts.peer_ns == 12 + 12 + 12
    assert accounts.stall_row() == [24 + 24, 0, 0, 0, 0]
    assert accounts.compute_ns == 4 * 103
    assert [its.stall_ns[0] for its in accounts.by_gpu] == [30, 24, 24]
    assert [its.idle_ns for its in accounts.by_gpu[:2]] == [6 + 15 + 0 + 36, 100 + 100 + 103 + 100 + 24]
    assert [(its.lookups, its.complete) for its in accounts.by_gpu] == [(3, 2), (3, 2), (1, 0)]


# Links that are in each other's way without a root, or are not behind one.
def test_links_behind_a_root_share_it() -> None:
    setup = replace(make_setup([10], 4, 40, costs=replace(FREE_COMPUTE, per_copy=0, per_peer=0, per_peer_token=0)))
    setup = replace(setup, gpus=4, homes=[0, 1, 2, 3])
    passes = decode([[[0, 1, 2, 3]]], 4)

    def wall(root: Fraction | None) -> int:
        return simulate(LRU(setup), setup, passes, root=root)[0].wall_ns

    assert wall(None) == wall(Fraction(4)) == 10, "each at its own rate, a byte per ns"
    assert wall(Fraction(1)) == 40, "the fourth to begin has a fourth of it"
    assert wall(Fraction(1, 2)) == 80
    alone = replace(setup, homes=[0] * 4)
    assert simulate(LRU(alone), alone, decode([[[0]]], 4), root=Fraction(1, 2))[0].wall_ns == 20


# A root that all of them do not fill changes something.
@settings(EXAMPLES, max_examples=18)
@given(case=spread_cases())
def test_a_wide_root_is_none(case: Case) -> None:
    assert run(Restless, case.setup, case, root=Fraction(10**6)) == run(Restless, case.setup, case)


class Trespasser(LRU):
    """Looks for a victim on another GPU."""

    def victim(self, incoming: int, speculative: bool) -> int | None:
        assert not any(map(self.view.evictable, self.elsewhere(incoming))), "it is told that none can go"
        return next(iter(filter(self.view.resident, self.elsewhere(incoming))), None)

    def elsewhere(self, incoming: int) -> list[int]:
        homes = self.setup.homes
        return [x for x, home in enumerate(homes) if home != homes[incoming]]


# A GPU whose memory is full, and that gets room on another.
def test_a_victim_of_another_gpu_is_an_error() -> None:
    setup = replace(make_setup([10], 4, 20), gpus=2, homes=[0, 0, 1, 1])
    with pytest.raises(CoreError, match="policy lru evicts 2, of GPU 1, for 1, of GPU 0: a victim is evictable"):
        simulate(Trespasser(setup), setup, decode([[[0, 2]], [[1]]], 4))


# Shares of layers that a GPU does not hold, or that are larger than what it has.
@settings(EXAMPLES, max_examples=24)
@given(case=spread_cases(), more=st.integers(0, 50))
def test_layer_budgets_are_of_each_gpu(case: Case, more: int) -> None:
    setup = case.setup
    shares, held = setup.layer_budgets(setup.budget + more), setup.by_pool()
    assert len(shares) == setup.gpus * setup.n_layers
    for gpu in range(setup.gpus):
        own = shares[gpu * setup.n_layers : (gpu + 1) * setup.n_layers]
        assert sum(own) <= (setup.budget + more) // setup.gpus
        counts = [share / size for share, size in zip(own, setup.expert_bytes, strict=True)]
        assert all(count == int(count) <= n for count, n in zip(counts, held[gpu], strict=True))


@pytest.mark.parametrize("placement", WHOLE)
@given(layers=st.integers(1, 9), experts=st.integers(1, 9), gpus=st.integers(2, 9))
def test_placements(placement: str, layers: int, experts: int, gpus: int) -> None:
    homes = Spread(placement, gpus).homes(layers, experts)
    assert len(homes) == layers * experts
    counts = [homes.count(gpu) for gpu in range(gpus)]
    if placement == "round_robin":
        assert max(counts) - min(counts) <= 1
        assert homes[:gpus] == tuple(range(gpus))[: len(homes)]
    by_layer = [homes[first : first + experts] for first in range(0, len(homes), experts)]
    if placement == "hash":
        assert len(set(by_layer)) == 1
        assert by_layer[0] == tuple(x % gpus for x in range(experts))
    if placement == "layers":
        assert all(len(set(layer)) == 1 for layer in by_layer)
        assert list(homes) == sorted(homes)
        runs = [sum(layer[0] == gpu for layer in by_layer) for gpu in range(gpus)]
        assert max(runs) - min(runs) <= 1


# What is written into the accounts of a GPU that is another's.
def test_where_experts_lie_is_where_they_are_copied() -> None:
    setup = make_setup([10, 10, 10], 4, 180)
    passes: list[Pass] = some_passes(3, 4, 20)
    for placement in WHOLE:
        spread = Spread(placement, 3)
        own = replace(setup, gpus=3, homes=spread.homes(3, 4))
        accounts, _ = simulate(LRU(own), own, passes)
        lookups = [x for step in passes for demand in step.demand for x in demand]
        assert [its.lookups for its in accounts.by_gpu] == [sum(own.homes[x] == g for x in lookups) for g in range(3)]
        distinct = set(lookups)
        assert [its.copied_bytes for its in accounts.by_gpu] == [
            10 * sum(own.homes[x] == g for x in distinct) for g in range(3)
        ]
