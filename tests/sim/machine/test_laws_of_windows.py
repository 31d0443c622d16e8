"""Laws of the measured window, after a warm-up. Above each, the bug that it prevents."""

import pytest
from hypothesis import given, settings

from policies.api import Step
from policies.lru import LRU
from sim.core.accounts import USEFUL, Accounts
from sim.core.core import Core
from sim.workload.passes import Pass
from tests.sim.machine.cases import (
    FlatCosts,
    decode,
    make_setup,
    simulate,
)
from tests.sim.machine.restless import EXAMPLES, Case, cases, restless


class OneAhead(LRU):
    """Prefetches the expert 1 of the last layer in its first step, and asks for nothing else."""

    def on_step(self, step: Step) -> None:
        if step.number == 1:
            self.actions.prefetch(self.setup.n_experts * (self.setup.n_layers - 1) + 1, 0)


# Loads that began before the measured window: fates without a load, or bytes without a fate.
@pytest.mark.parametrize(("per_byte", "fate"), [(1, USEFUL), (20, 1)])
def test_loads_carried_in_from_the_warm_up_keep_the_sums(per_byte: int, fate: int) -> None:
    costs = FlatCosts(per_copy=0, per_byte=per_byte, dense=10, per_token=5, per_step=10)
    setup = make_setup([10], 4, 40, chunks=2, costs=costs)
    first, then = decode([[[]]], 4), decode([[[1]]], 4)
    accounts, _ = simulate(OneAhead(setup), setup, then, warmup=first)
    accounts.check()
    assert accounts.start_ns == 20 + 10 + 1 + 10
    assert accounts.issued == accounts.fates[fate] == 1
    assert accounts.speculative_bytes == accounts.fate_bytes[fate] == 0  # these were copied before the window
    late = per_byte == 20
    assert accounts.demand_bytes == (5 if late else 0)
    assert accounts.link_busy_ns == (200 - accounts.start_ns if late else 0)  # the rest of what was under way


# A warm-up that takes no time was counted as measured.
def test_a_warm_up_that_takes_no_time_is_not_measured() -> None:
    free = FlatCosts(0, 0, 0, 0, 0, 0, 0)
    setup = make_setup([10], 4, 40, costs=free)
    accounts, _ = simulate(LRU(setup), setup, decode([[[0]]], 4), warmup=decode([[[0, 1]]], 4))
    assert accounts.hit_row()[:4] == [1, 0, 1, 1]
    assert accounts.demand_bytes == 0


@settings(EXAMPLES, max_examples=100)
@given(cases())
def test_a_window_is_the_rest_of_the_whole(case: Case) -> None:
    def run(warmup: list[Pass], passes: list[Pass]) -> tuple[Accounts, Core]:
        return simulate(restless(case.setup, case), case.setup, passes, warmup=warmup, depth=case.depth)

    whole, by_whole = run([], case.warmup + case.passes)
    before, _ = run([], case.warmup)
    after, by_window = run(case.warmup, case.passes)
    assert by_whole.digest() == by_window.digest()
    assert after.start_ns == before.end_ns
    for name in ("demand_bytes", "speculative_bytes", "compute_ns", "link_busy_ns"):
        assert getattr(whole, name) == getattr(before, name) + getattr(after, name), name
    pairs = zip(before.stall_row(), after.stall_row(), strict=True)
    assert whole.stall_row() == [b + a for b, a in pairs]
