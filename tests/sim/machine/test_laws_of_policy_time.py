"""Laws of what is charged for a policy's own decisions. Above each, the bug that it prevents."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.lru import LRU
from policies.on_demand import OnDemand
from sim.core.log import EXPERT, entries
from sim.workload.passes import Pass
from tests.sim.machine.cases import (
    FREE_COMPUTE,
    decode,
    make_pass,
    make_setup,
    record,
    simulate,
)
from tests.sim.machine.restless import EXAMPLES, Case, Restless, cases

OWN = (70_001, 3_001)
"""Of a prefill and a decode pass, in ns: no multiple of any number of layers here."""


def charged(passes: list[Pass], own: tuple[int, int]) -> int:
    return sum(own[0 if step.prefill else 1] for step in passes if any(step.demand))


# A remainder lost at each layer, a pass of the warm-up that is counted, a stall that holds it too.
@EXAMPLES
@given(cases(), st.tuples(st.integers(0, 99), st.integers(0, 99)), st.integers(0, 4))
def test_it_is_charged_to_the_nanosecond(case: Case, own: tuple[int, int], eagerness: int) -> None:
    accounts, _ = record(
        lambda setup: Restless(setup, eagerness=eagerness),
        case.setup,
        case.passes,
        warmup=case.warmup,
        depth=case.depth,
        policy_ns=own,
    )
    accounts.check()
    assert accounts.policy_ns == charged(case.passes, own) <= accounts.compute_ns


# A charge that moves something where there is nothing to move: copies that take no time.
@EXAMPLES
@given(cases())
def test_a_link_that_takes_no_time_hides_none_of_it(case: Case) -> None:
    costs = replace(case.costs, per_copy=0, per_byte=0)
    setup = replace(case.setup, costs=costs)
    free, _ = simulate(LRU(setup), setup, case.passes, depth=case.depth)
    own, _ = simulate(LRU(setup), setup, case.passes, depth=case.depth, policy_ns=OWN)
    assert own.end_ns - free.end_ns == charged(case.passes, OWN)
    assert own.hits == free.hits


# Copies that stand still while the policy decides: what the gate queued is under way meanwhile.
@pytest.mark.parametrize(("own", "end"), [(0, 20), (7, 20), (20, 20), (21, 21), (50, 50)])
def test_copies_go_on_while_a_policy_decides(own: int, end: int) -> None:
    costs = replace(FREE_COMPUTE, per_copy=0, per_byte=1)
    setup = make_setup([20], 2, 40, costs=costs)
    accounts, _ = simulate(OnDemand(setup), setup, decode([[[0]]], 2), policy_ns=(0, own))
    assert accounts.end_ns == end
    assert (accounts.compute_ns, sum(accounts.stall_row())) == (own, end - own)


# One layer of a pass that pays for all, or layers without an event that pay too.
def test_it_is_spread_over_the_layer_events_and_the_first_has_the_remainder() -> None:
    setup = make_setup([10] * 4, 4, 160, costs=replace(FREE_COMPUTE, per_copy=0, per_byte=0))
    step = make_pass([[[0], [], [1], [2]]], 4)
    _, core = record(OnDemand, setup, [step], policy_ns=(0, 11))
    experts = [operands for op, operands in entries(core.log) if op == EXPERT]
    assert experts == [(0, 5), (9, 8), (14, 11)]
