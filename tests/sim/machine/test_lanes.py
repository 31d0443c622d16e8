"""Laws of a link with several lanes. Above each, the bug that it prevents."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.api import Policy
from policies.lru import LRU
from sim.core.accounts import Accounts
from sim.core.core import Core
from sim.machine.link import Lanes
from sim.machine.machine import Machine
from tests.sim.machine.cases import FREE_COMPUTE, FlatCosts, NoSignals, decode, make_setup, record, simulate
from tests.sim.machine.restless import EXAMPLES, Bypass, Case, Restless, cases

LANES = st.integers(2, 6)


def roomy(case: Case) -> Case:
    """With a budget for all experts: no copy then waits for a slot, and chunks go in one order whatever the lanes."""
    setup = case.setup
    return replace(case, setup=replace(setup, budget=setup.n_experts * sum(setup.expert_bytes)))


def run(case: Case, kind: type[Policy], lanes: int) -> Accounts:
    policy, passes = kind(case.setup), case.warmup + case.passes
    return simulate(policy, case.setup, passes, depth=case.depth, lanes=lanes, policy_ns=case.policy_ns)[0]


# A lane that stands still though a chunk waits, or a chunk that waits for a busy one beside a free one.
@pytest.mark.parametrize("kind", [LRU, Bypass])
@EXAMPLES
@given(cases(), LANES)
def test_a_further_lane_never_makes_it_later_and_copies_the_same(kind: type[Policy], case: Case, lanes: int) -> None:
    case = roomy(case)
    found = [run(case, kind, n) for n in (1, lanes, lanes + 1)]
    ends = [accounts.end_ns for accounts in found]
    assert ends == sorted(ends, reverse=True)
    assert len({(accounts.demand_bytes, accounts.compute_ns, accounts.link_busy_ns) for accounts in found}) == 1


# Lanes that share the rate of one, or one that is counted twice.
@EXAMPLES
@given(st.integers(1, 20), LANES, st.integers(1, 3), st.integers(1, 3), st.integers(1, 40))
def test_independent_loads_take_what_the_fullest_lane_takes(
    loads: int, lanes: int, chunks: int, depth: int, size: int
) -> None:
    setup = make_setup([size * chunks], loads, loads * size * chunks, chunks=chunks, costs=FREE_COMPUTE)
    accounts, _ = simulate(LRU(setup), setup, decode([[range(loads)]], loads), depth=depth, lanes=lanes)
    copy = FREE_COMPUTE.copy_ns(size)
    assert accounts.end_ns == accounts.stall_row()[0] == -(-loads * chunks // lanes) * copy
    assert accounts.link_busy_ns == loads * chunks * copy


# A machine with lanes that is another machine: with one, it is the link that was there before, to the last answer.
@EXAMPLES
@given(cases())
def test_a_single_lane_is_a_link(case: Case) -> None:
    found = []
    for link in (None, 1):
        core = Core(Restless(case.setup, by_layer=case.by_layer), case.setup, NoSignals())
        machine = Machine(core, case.setup.costs, depth=case.depth)  # type: ignore[arg-type]
        if link is not None:
            lanes = Lanes(core, machine.links[0].copy_ns, case.depth, 1)
            machine.links = [lanes]
            machine.gpu.behind.link = lanes
            machine.gpu.behind.copies = lanes.under_way
        found.append((machine.run(case.warmup, case.passes), core.digest()))
    assert found[0] == found[1]


# Decisions that hang on the clock, or on what a lane knows: the log of facts replays to the same digest.
@EXAMPLES
@given(cases(), LANES)
def test_the_lanes_are_no_part_of_the_decisions_but_by_their_facts(case: Case, lanes: int) -> None:
    record(Restless, case.setup, case.passes, warmup=case.warmup, depth=case.depth, lanes=lanes)


class Ahead(LRU):
    """Prefetches expert 2, slowly to arrive, when the first step begins."""

    def on_step(self, step: object) -> None:
        self.actions.prefetch(2, 0)


# While a demand chunk is on one lane and somebody else's on another, who is to blame?
def test_a_demand_chunk_on_any_lane_is_what_compute_waits_for() -> None:
    costs = FlatCosts(per_copy=0, per_byte=1, dense=4, per_token=0, per_step=0, launch_ns=0, layer_overhead_ns=0)
    setup = make_setup([10], 4, 40, costs=costs)
    accounts, _ = simulate(Ahead(setup), setup, decode([[[0]]], 4), lanes=2)
    # From 0 to 10, expert 2 on the first lane; the gate has run at 4, and expert 0 comes on the second from 4 to 14.
    assert accounts.end_ns == 14
    assert accounts.stall_row() == [10, 0, 0, 0, 0]
    accounts, _ = simulate(Ahead(setup), setup, decode([[[0]]], 4), lanes=1)
    assert accounts.stall_row() == [10, 0, 6, 0, 0]
    accounts, _ = simulate(Ahead(setup), setup, decode([[[2]]], 4), lanes=2)
    assert accounts.stall_row() == [0, 6, 0, 0, 0]


# An event for each copy creeps in with the lanes.
def test_simpy_sees_one_event_per_step_with_lanes_too() -> None:
    setup = make_setup([10] * 3, 6, 70, chunks=3)
    machine = Machine(Core(Restless(setup), setup, NoSignals()), setup.costs, depth=2, lanes=3)  # type: ignore[arg-type]
    step, times = machine.env.step, []

    def counted() -> None:
        step()
        times.append(machine.env.now)

    machine.env.step = counted  # type: ignore[method-assign]
    machine.run([], decode([[[0, 1]] * 3] * 20, 6))
    assert len(times) - 2 * 2 == 20
