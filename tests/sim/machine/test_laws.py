"""Laws of the engine: hits, time, sums, small budgets, the measured window. Above each, the bug that it prevents."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from policies.api import Policy, Step
from policies.lru import LRU
from sim.core.accounts import BYTES_DEMANDED, BYTES_READY, COMPLETE, LOOKUPS, RECALL, RESIDENT, USEFUL, Accounts
from sim.core.core import Core
from sim.core.state import CoreError
from sim.machine.machine import Machine
from sim.workload.passes import Pass
from tests.sim.machine.cases import (
    FREE_COMPUTE,
    FREE_LINK,
    FlatCosts,
    NoSignals,
    compute_bound,
    decode,
    distinct,
    make_pass,
    make_setup,
    simulate,
    some_passes,
)
from tests.sim.machine.ledger import Ledger
from tests.sim.machine.restless import EXAMPLES, Bypass, Case, Lossy, Restless, Unruly, cases, restless

# -- hits -------------------------------------------------------------------------------------------------------


# Members of an event replayed one after the other: a sibling evicts a sibling, and LRU loses hits (rule 3).
def test_layer_events_are_atomic() -> None:
    passes = decode([[pair] * 3 for pair in ([0, 1], [0, 2], [0, 1], [0, 3], [0, 1])], 4)
    accounts, _ = simulate(LRU(setup := make_setup([10] * 3, 4, 60), scope="layer"), setup, passes)
    row = accounts.hit_row()
    assert (row[LOOKUPS], row[COMPLETE], row[LOOKUPS] - row[COMPLETE]) == (30, 12, 18)
    assert accounts.demand_bytes == 18 * 10


# Evictions without need, and copies of what is there already.
def test_with_room_for_all_only_the_first_use_is_copied() -> None:
    passes = some_passes(4, 8, 30)
    setup = make_setup([10, 20, 30, 40], 8, 800, chunks=3)
    accounts, core = simulate(LRU(setup), setup, passes)
    compulsory = sum(setup.expert_bytes[setup.layer_of(x)] for x in distinct(passes))
    assert accounts.demand_bytes == core.state.peak == compulsory
    row = accounts.hit_row()
    assert row[LOOKUPS] - row[COMPLETE] == len(distinct(passes))


# -- time -------------------------------------------------------------------------------------------------------


# Compute that waits although nothing is under way, or is counted twice.
@EXAMPLES
@given(cases())
def test_a_link_that_takes_no_time_leaves_the_compute_bound(case: Case) -> None:
    passes = case.warmup + case.passes
    setup = replace(case.setup, costs=FREE_LINK)
    accounts, _ = simulate(LRU(setup), setup, passes, depth=case.depth)
    assert accounts.end_ns == accounts.compute_ns == compute_bound(passes, FREE_LINK)
    assert accounts.stall_row() == [0] * 5


# Gaps on a busy link, and rounding that depends on how a sum is taken.
@EXAMPLES
@given(cases())
def test_compute_that_takes_no_time_leaves_the_sum_of_the_copies(case: Case) -> None:
    passes, chunks = case.warmup + case.passes, case.setup.chunks
    sizes, setup = case.setup.expert_bytes, replace(case.setup, costs=FREE_COMPUTE)
    accounts, _ = simulate(Bypass(setup), setup, passes, depth=case.depth)
    pieces = [[size // chunks + (i < size % chunks) for i in range(chunks)] for size in sizes]
    copies = sum(
        len(demand) * sum(map(FREE_COMPUTE.copy_ns, pieces[layer]))
        for step in passes
        for layer, demand in enumerate(step.demand)
    )
    assert accounts.end_ns == accounts.link_busy_ns == accounts.stall_row()[0] == copies


# -- sums -------------------------------------------------------------------------------------------------------


# Counters that do not sum; a budget that is passed for an instant; a stall that nobody is charged with. With routings:
# a lookup, a byte or a nanosecond of an expert that nobody chose is counted, or is lost.
@pytest.mark.parametrize("kind", [Restless, Unruly, Lossy])
@settings(EXAMPLES, max_examples=36)
@given(case=cases())
def test_the_accounts_add_up_and_the_budget_holds_at_every_event(kind: type[Restless], case: Case) -> None:
    core = Ledger(kind(case.setup, by_layer=case.by_layer), case.setup)
    passes = case.warmup + case.passes
    accounts = Machine(core, case.costs, depth=case.depth, lanes=case.lanes).run([], passes)  # type: ignore[arg-type]
    assert core.most <= core.state.peak <= case.setup.budget  # a slot may be gone again within one question

    assert core.link_bytes == accounts.demand_bytes + sum(accounts.fate_bytes)
    assert accounts.issued == sum(accounts.fates)
    for phase in (0, 1):
        for layer, size in enumerate(case.setup.expert_bytes):
            events = [(demand, tokens) for p, at, demand, tokens in core.events if (p, at) == (phase, layer)]
            row = accounts.hits[phase][layer]
            assert row[LOOKUPS] == sum(n > 0 for _, tokens in events for n in tokens)
            assert row[COMPLETE] <= row[RESIDENT] <= row[LOOKUPS] >= row[RECALL]
            # All experts of a layer have one size, so that its four hit rates are of the same lookups.
            assert row[COMPLETE] * size <= row[BYTES_READY] <= row[RESIDENT] * size
            assert row[BYTES_DEMANDED] == row[LOOKUPS] * size
            if kind.lossless:
                assert row[LOOKUPS] == sum(len(p.demand[layer]) for p in passes if p.prefill == (phase == 0))

    ends = [*core.begins[1:], (accounts.end_ns, accounts.compute_ns + sum(accounts.stall_row()))]
    for began, ended in zip(core.begins, ends, strict=True):
        assert ended[0] - began[0] == ended[1] - began[1]
    computed = [replace(step, demand=step.demand, tokens=[]) for step in passes]
    experts = sum(case.costs.expert_ns(0, n) + case.costs.launch_ns for *_, ns in core.events for n in ns if n)
    assert accounts.compute_ns == compute_bound(computed, case.costs) + experts


# Every byte of an on-demand policy is a demand byte: hits and misses are the lookups.
@EXAMPLES
@given(cases())
def test_misses_are_what_is_copied(case: Case) -> None:
    accounts, _ = simulate(Bypass(case.setup), case.setup, case.passes, depth=case.depth)
    row = accounts.hit_row()
    assert row[COMPLETE] == row[RESIDENT] == 0
    assert accounts.demand_bytes == row[BYTES_DEMANDED]


# -- small budgets ----------------------------------------------------------------------------------------------


# A demand set that does not fit: deadlock, or a silent overdraft of the budget.
@pytest.mark.parametrize("held", [1, 2, 3, 6])
@pytest.mark.parametrize("chunks", [1, 3])
def test_a_demand_set_larger_than_the_budget_streams_through_in_waves(held: int, chunks: int) -> None:
    passes = [make_pass([[[0, 1, 2, 3, 4, 5]]] * 2, 6, prefill=True)] * 2
    setup = make_setup([10], 6, 10 * held, chunks=chunks)
    core = Ledger(LRU(setup), setup)
    accounts = Machine(core, setup.costs).run([], passes)  # type: ignore[arg-type]
    assert sorted(core.given_out) == [0, 1, 2, 3, 4, 5]
    assert accounts.hit_row()[LOOKUPS] == 12
    if held == 1:
        copy = sum(map(setup.costs.copy_ns, core.state.chunk_bytes[:chunks]))
        assert accounts.end_ns == compute_bound(passes, setup.costs) + accounts.demand_bytes // 10 * copy
    if held == 6:
        assert accounts.demand_bytes == 60


# A machine that hangs, or ends early, where nothing can go on (BLIS calls it a silent stall).
def test_a_budget_below_one_expert_is_an_error() -> None:
    setup = make_setup([10], 4, 9)
    with pytest.raises(CoreError, match="deadlock"):
        simulate(LRU(setup), setup, decode([[[0]]], 4))


# -- the measured window ------------------------------------------------------------------------------------------


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


@settings(EXAMPLES, max_examples=36)
@given(cases())
def test_a_window_is_the_rest_of_the_whole(case: Case) -> None:
    def run(warmup: list[Pass], passes: list[Pass]) -> tuple[Accounts, Core]:
        policy = restless(case.setup, case)
        return simulate(policy, case.setup, passes, warmup=warmup, depth=case.depth, lanes=case.lanes)

    whole, by_whole = run([], case.warmup + case.passes)
    before, _ = run([], case.warmup)
    after, by_window = run(case.warmup, case.passes)
    assert by_whole.digest() == by_window.digest()
    assert after.start_ns == before.end_ns
    for name in ("demand_bytes", "speculative_bytes", "compute_ns", "link_busy_ns"):
        assert getattr(whole, name) == getattr(before, name) + getattr(after, name), name
    pairs = zip(before.stall_row(), after.stall_row(), strict=True)
    assert whole.stall_row() == [b + a for b, a in pairs]


# -- events -----------------------------------------------------------------------------------------------------


# An event for each copy creeps back in, and the machine is ten times slower (docs/design.md, The machine model).
@pytest.mark.parametrize("policy", [LRU, Bypass, Restless])
def test_simpy_sees_one_event_per_step(policy: type[Policy]) -> None:
    n_layers, steps = 4, 25
    setup = make_setup([10] * n_layers, 6, 70, chunks=3)
    machine = Machine(Core(policy(setup), setup, NoSignals()), setup.costs, depth=2)  # type: ignore[arg-type]
    step, events = machine.env.step, 0

    def counted() -> None:
        nonlocal events
        step()
        events += 1  # not where the schedule was empty

    machine.env.step = counted  # type: ignore[method-assign]
    machine.run([], some_passes(n_layers, 6, steps))
    processes = 2  # warm-up and measured, each with a beginning and an end
    assert events - 2 * processes == steps
