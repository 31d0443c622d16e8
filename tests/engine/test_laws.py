"""Laws of the engine. Above each, the bug that it prevents."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from cases import FREE_COMPUTE, FREE_LINK, FlatCosts, NoSignals, decode, make_pass, make_setup, record, simulate
from hypothesis import given, settings
from ledger import Ledger
from restless import EXAMPLES, Bypass, Case, Restless, cases

from policies.api import LayerEvent, Policy, Setup, Step
from policies.lru import LRU
from sim.core.accounts import COMPLETE, LOOKUPS, RESIDENT, USEFUL, Accounts
from sim.core.core import Core
from sim.core.state import CoreError
from sim.machine import Machine
from sim.replay import RecordingCore
from sim.workload import Pass

DEMAND_COPY, LATE_PREFETCH, QUEUEING = 0, 1, 2


def some_passes(n_layers: int, n_experts: int, steps: int, *, k: int = 2, seed: int = 0) -> list[Pass]:
    random = Random(seed)
    return decode([[random.sample(range(n_experts), k) for _ in range(n_layers)] for _ in range(steps)], n_experts)


def distinct(passes: Sequence[Pass]) -> set[int]:
    return {x for step in passes for demand in step.demand for x in demand}


def restless(setup: Setup, case: Case) -> Restless:
    return Restless(setup, by_layer=case.by_layer)


# -- hits -------------------------------------------------------------------------------------------------------


# Members of an event replayed one after the other: a sibling evicts a sibling, and LRU looks 27 % worse (rule 3).
def test_layer_events_are_atomic() -> None:
    passes = decode([[pair] * 3 for pair in ([0, 1], [0, 2], [0, 1], [0, 3], [0, 1])], 4)
    accounts, _ = simulate(LRU(setup := make_setup([10] * 3, 4, 60), scope="layer"), setup, passes)
    row = accounts.hit_row()
    assert (row[LOOKUPS], row[COMPLETE], row[LOOKUPS] - row[COMPLETE]) == (30, 12, 18)
    assert accounts.demand_bytes == 18 * 10


# Recency that is not the order of demand: any other order hits in a scan.
@pytest.mark.parametrize("held", [1, 2, 5, 6])
def test_lru_never_hits_in_a_cycle_longer_than_the_cache(held: int) -> None:
    passes = decode([[[i % 7]] for i in range(35)], 7)
    setup = make_setup([10], 7, 10 * held)
    accounts, _ = simulate(LRU(setup), setup, passes)
    assert accounts.hit_row()[RESIDENT] == 0
    setup = make_setup([10], 7, 70)
    accounts, _ = simulate(LRU(setup), setup, passes)
    assert accounts.hit_row()[COMPLETE] == 28


class WatchedLRU(LRU):
    """Remembers which lookups were hits."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.hits: list[bool] = []

    def on_gate(self, event: LayerEvent) -> None:
        super().on_gate(event)
        self.hits += map(self.view.complete, event.demand)


# A recency or capacity slip in one size of cache alone: LRU's stack property breaks.
@pytest.mark.parametrize("seed", range(3))
def test_a_larger_lru_hits_whatever_a_smaller_one_hits(seed: int) -> None:
    passes = some_passes(3, 6, 40, k=1, seed=seed)
    smaller = [False] * 120
    for held in range(1, 19):
        setup = make_setup([10] * 3, 6, 10 * held)
        policy = WatchedLRU(setup)
        simulate(policy, setup, passes)
        assert all(large or not small for small, large in zip(smaller, policy.hits, strict=True)), held
        smaller = policy.hits
    assert smaller.count(False) == len(distinct(passes))


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


def compute_bound(passes: Sequence[Pass], costs: FlatCosts) -> int:
    total = 0
    for step in passes:
        dense = costs.dense_ns(step.rows, step.kv_tokens, step.pairs) + costs.layer_overhead_ns
        total += dense * len(step.demand)
        total += sum(costs.expert_ns(0, n) + costs.launch_ns for tokens in step.tokens for n in tokens)
        total += costs.lead_ns(step.rows, step.kv_tokens, step.pairs) + costs.head_ns(len(step.requests))
    return total


# Compute that waits although nothing is under way, or is counted twice.
@EXAMPLES
@given(cases())
def test_a_link_that_takes_no_time_leaves_the_compute_bound(case: Case) -> None:
    passes = case.warmup + case.passes
    setup = make_setup(
        case.setup.expert_bytes, case.setup.n_experts, case.setup.budget, chunks=case.setup.chunks, costs=FREE_LINK
    )
    accounts, _ = simulate(LRU(setup), setup, passes, depth=case.depth)
    assert accounts.end_ns == accounts.compute_ns == compute_bound(passes, FREE_LINK)
    assert accounts.stall_row() == [0] * 5


# Gaps on a busy link, and rounding that depends on how a sum is taken.
@EXAMPLES
@given(cases())
def test_compute_that_takes_no_time_leaves_the_sum_of_the_copies(case: Case) -> None:
    passes, chunks = case.warmup + case.passes, case.setup.chunks
    sizes = case.setup.expert_bytes
    setup = make_setup(sizes, case.setup.n_experts, case.setup.budget, chunks=chunks, costs=FREE_COMPUTE)
    accounts, _ = simulate(Bypass(setup), setup, passes, depth=case.depth)
    pieces = [[size // chunks + (i < size % chunks) for i in range(chunks)] for size in sizes]
    copies = sum(
        len(demand) * sum(map(FREE_COMPUTE.copy_ns, pieces[layer]))
        for step in passes
        for layer, demand in enumerate(step.demand)
    )
    assert accounts.end_ns == accounts.link_busy_ns == accounts.stall_row()[DEMAND_COPY] == copies


# -- sums -------------------------------------------------------------------------------------------------------


# Counters that do not sum; a budget that is passed for an instant; a stall that nobody is charged with.
@settings(EXAMPLES, max_examples=200)
@given(cases())
def test_the_accounts_add_up_and_the_budget_holds_at_every_event(case: Case) -> None:
    core = Ledger(restless(case.setup, case), case.setup)
    passes = case.warmup + case.passes
    accounts = Machine(core, case.costs, depth=case.depth).run([], passes)  # type: ignore[arg-type]
    assert core.most <= core.state.peak <= case.setup.budget  # a slot may be gone again within one question

    assert core.link_bytes == accounts.demand_bytes + sum(accounts.fate_bytes)
    assert accounts.issued == sum(accounts.fates)
    for phase in (0, 1):
        for layer in range(case.setup.n_layers):
            looked = sum(len(step.demand[layer]) for step in passes if step.prefill == (phase == 0))
            row = accounts.hits[phase][layer]
            assert looked == row[LOOKUPS]
            assert row[COMPLETE] <= row[RESIDENT] <= looked
            assert row[COMPLETE] * case.setup.expert_bytes[layer] <= row[4] <= row[5]
            assert row[5] == looked * case.setup.expert_bytes[layer]

    ends = [*core.begins[1:], (accounts.end_ns, accounts.compute_ns + sum(accounts.stall_row()))]
    for began, ended in zip(core.begins, ends, strict=True):
        assert ended[0] - began[0] == ended[1] - began[1]
    assert accounts.compute_ns == compute_bound(passes, case.costs)


# Every byte of an on-demand policy is a demand byte: hits and misses are the lookups.
@EXAMPLES
@given(cases())
def test_misses_are_what_is_copied(case: Case) -> None:
    accounts, _ = simulate(Bypass(case.setup), case.setup, case.passes, depth=case.depth)
    row = accounts.hit_row()
    assert row[COMPLETE] == row[RESIDENT] == 0
    assert accounts.demand_bytes == row[5]


# A clock that runs backwards, in whatever machine drives the core.
def test_the_clock_is_monotone() -> None:
    setup = make_setup([10], 4, 40)
    core = RecordingCore(Bypass(setup), setup, NoSignals())
    core.prediction(0, 5)
    core.prediction(1, 5)
    with pytest.raises(CoreError, match="4 ns came after one at 5 ns"):
        core.prediction(2, 4)


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


# -- decisions --------------------------------------------------------------------------------------------------


class Lowest(Bypass):
    """Keeps what it has, and evicts the lowest number."""

    name = "lowest"

    def keep(self, expert: int) -> bool:
        return True

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return next(filter(self.view.evictable, range(self.setup.n_layers * self.setup.n_experts)), None)


# A digest that would pass two machines off as agreeing when they do not.
def test_the_digest_differs_when_a_decision_differs() -> None:
    passes = some_passes(2, 5, 20)
    setup = make_setup([10, 10], 5, 50)
    _, lru = record(LRU, setup, passes)
    _, again = record(LRU, setup, passes)
    _, other = record(Lowest, setup, passes)
    assert lru.digest() == again.digest() != other.digest()


# Evictions left out of the digest: here they alone differ, in the very last one.
def test_the_digest_holds_the_evictions() -> None:
    passes = decode([[[0]], [[1]], [[0]], [[2]]], 3)  # the victim of 2 is 1 for LRU, 0 for the other
    setup = make_setup([10], 3, 20)
    by_lru, lru = record(LRU, setup, passes)
    by_other, other = record(Lowest, setup, passes)
    assert by_lru == by_other
    assert lru.digest() != other.digest()


def fingerprint() -> str:
    """Accounts and digests of some runs, to compare between processes."""
    found = []
    for seed in range(5):
        setup = make_setup([10, 17, 23], 6, 120, chunks=2, seed=seed)
        accounts, core = simulate(Restless(setup), setup, some_passes(3, 6, 20, seed=seed), depth=2)
        found.append((repr(accounts), core.digest()))
    return repr(found)


# Decisions in the order of a set or a dict of objects: another process, another result (rule 10).
def test_the_result_does_not_depend_on_the_hash_seed() -> None:
    for hash_seed in ("0", "1", "4711"):
        here = Path(__file__).parent
        environment = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": os.pathsep.join([str(here), *filter(None, sys.path)]),
        }
        command = [sys.executable, "-c", "from test_laws import fingerprint; print(fingerprint(), end='')"]
        other = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert other.stdout == fingerprint(), hash_seed


# -- events -----------------------------------------------------------------------------------------------------


# An event for each copy creeps back in, and the machine is ten times slower (DESIGN section 6).
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


# -- warm-up ----------------------------------------------------------------------------------------------------


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
