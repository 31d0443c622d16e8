"""Experts that the host computes: what they are to the accounts, when they run, what is refused."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import LayerEvent, Policy, Routing, Setup, Step
from policies.lru import LRU
from sim.core.accounts import BYTES_DEMANDED, BYTES_READY, COMPLETE, LOOKUPS, RESIDENT, Accounts
from sim.core.core import Core
from sim.core.log import HOST, NEXT_HOST, entries
from sim.core.state import CoreError
from sim.machine.machine import Machine
from tests.sim.machine.cases import FlatCosts, FlatHost, NoSignals, decode, make_pass, make_setup, record, simulate
from tests.sim.machine.ledger import Ledger
from tests.sim.machine.restless import EXAMPLES, Case, Placing, Restless, hosted_cases

COSTS = FlatCosts(per_copy=0, per_byte=1, dense=7, per_token=3, per_step=0, launch_ns=2, layer_overhead_ns=0)
"""Experts of 10 bytes: a copy takes 10 ns, an expert 5, what comes before a gate 7."""


class Planned(LRU):
    """The host computes what it is told of each layer; ``last``: after the GPU."""

    def __init__(self, setup: Setup, plan: Sequence[Sequence[int]] = ((),), *, last: bool = False) -> None:
        super().__init__(setup)
        self.plan, self.last = plan, last

    def serial(self) -> bool:
        return self.last

    def place(self, event: LayerEvent) -> Sequence[int]:
        return self.plan[event.layer]


def one_layer(budget: int = 100, *, host: FlatHost | None = None, costs: FlatCosts = COSTS, chunks: int = 1) -> Setup:
    return replace(make_setup([10], 10, budget, costs=costs, chunks=chunks), host=host or FlatHost(1, None, 20, 0))


# -- time, by hand ----------------------------------------------------------------------------------------------


# A host that computes before the gate, one expert too many at a time, or that nobody waits for.
@pytest.mark.parametrize(("workers", "took"), [(1, 60), (2, 40), (3, 20), (5, 20)])
def test_an_event_of_the_host_alone_takes_its_workers_time(workers: int, took: int) -> None:
    setup = one_layer(host=FlatHost(workers, None, 20, 0))
    accounts, core = simulate(Planned(setup, [[2, 0, 1]]), setup, decode([[[0, 1, 2]]], 10))
    assert (accounts.end_ns, accounts.compute_ns, accounts.host_ns) == (7 + took, 7, 60)
    assert accounts.stall_row() == [0, 0, 0, 0, took]
    assert (accounts.demand_bytes, core.state.peak, accounts.host_lookups) == (0, 0, 3)


# Sides of a layer one after the other, or its end with the first of them.
def test_gpu_and_host_run_at_once_and_the_layer_ends_with_the_slower() -> None:
    for per_expert, stalls in ((20, [10, 0, 0, 0, 5]), (3, [10, 0, 0, 0, 0])):
        setup = one_layer(host=FlatHost(1, None, per_expert, 0))
        accounts, _ = simulate(Planned(setup, [[2]]), setup, decode([[[0, 2]]], 10))
        assert accounts.stall_row() == stalls  # the copy until 17, the GPU until 22
        assert accounts.end_ns == max(22, 7 + per_expert)
    setup = one_layer()
    accounts, _ = simulate(Planned(setup, [[2]]), setup, decode([[[0, 1, 2]]], 10))
    assert (accounts.end_ns, accounts.stall_row()) == (32, [15, 0, 0, 0, 0])  # copies at 17 and 27, host at 27


# A serial policy whose host runs beside the GPU all the same, or for whose host nobody waits.
def test_a_serial_policy_has_the_host_last() -> None:
    setup = one_layer()
    for last, end in ((False, 27), (True, 42)):
        accounts, _ = simulate(Planned(setup, [[2]], last=last), setup, decode([[[0, 2]]], 10))
        assert (accounts.end_ns, accounts.host_ns) == (end, 20)
        assert accounts.stall_row()[4] == end - 22
    alone, _ = simulate(Planned(setup, [[2]], last=True), setup, decode([[[2]]], 10))
    assert alone.end_ns == 27  # the GPU has nothing to do first


class Ahead(Planned):
    """Asks for one expert before the gate."""

    def __init__(self, setup: Setup, plan: Sequence[Sequence[int]], ahead: int) -> None:
        super().__init__(setup, plan)
        self.ahead_of_it = ahead

    def on_step(self, step: Step) -> None:
        if step.number == 1:
            self.actions.prefetch(self.ahead_of_it, 0.0)


# Compute waits for a copy and for the host at once: the nanosecond is charged twice, or to what no one waits for.
def test_a_nanosecond_is_the_links_while_a_demanded_chunk_is_under_way_and_else_the_hosts() -> None:
    passes = decode([[[0, 2]]], 10)
    setup = one_layer(host=FlatHost(1, None, 4, 0), costs=replace(COSTS, per_byte=2))
    strange, _ = simulate(Ahead(setup, [[2]], ahead=5), setup, passes)
    # The chunk of 5 until 20, of which the host works until 11; then 0 until 40.
    assert strange.stall_row() == [20, 0, 20 - 11, 0, 11 - 7]
    mine, _ = simulate(Ahead(setup, [[2]], ahead=0), setup, passes)
    assert mine.stall_row() == [0, 13, 0, 0, 0]


# -- what it is to the accounts -----------------------------------------------------------------------------------


# A lookup that is lost, or a hit that is none; an expert admitted or pinned by an event that has it computed elsewhere.
def test_it_is_a_lookup_like_the_others_and_nothing_is_fetched_for_it() -> None:
    class Second(Planned):
        """Leaves the first step alone."""

        number = 0

        def on_step(self, step: Step) -> None:
            self.number = step.number

        def place(self, event: LayerEvent) -> Sequence[int]:
            return [0, 1] if self.number == 2 else []

    setup = one_layer(budget=10)
    accounts, core = simulate(Second(setup), setup, decode([[[0]], [[0, 1, 2]]], 10))
    row = accounts.hit_row()
    assert (row[LOOKUPS], row[RESIDENT], row[COMPLETE]) == (4, 1, 1)
    assert (row[BYTES_READY], row[BYTES_DEMANDED]) == (10, 40)
    assert accounts.demand_bytes == 20  # of 0 and of 2, which takes the place of 0 while the host computes it
    assert core.state.slot[2]
    assert not any(core.state.pinned)


# A speculative load whose fate is settled by an event that does not want it on the GPU.
@pytest.mark.parametrize("per_byte", [0, 20])
def test_a_speculative_load_of_it_keeps_its_own_fate(per_byte: int) -> None:
    setup = one_layer(costs=replace(COSTS, per_byte=per_byte), chunks=2)
    alone, _ = simulate(Ahead(setup, [[3]], ahead=3), setup, decode([[[3]]], 10))
    assert alone.fates == ([0, 0, 1, 0, 0] if per_byte == 0 else [0, 0, 0, 0, 1])
    assert alone.demand_bytes == 0
    row = alone.hit_row()
    assert row[COMPLETE] == (per_byte == 0)


@settings(EXAMPLES, max_examples=30)
@given(case=hosted_cases(), last=st.booleans())
def test_the_accounts_add_up_and_what_the_host_computes_is_what_was_placed(case: Case, last: bool) -> None:
    core = Watched(Placing(case.setup, by_layer=case.by_layer, last=last), case.setup)
    machine = Machine(core, case.costs, depth=case.depth, lanes=case.lanes)  # type: ignore[arg-type]
    accounts = machine.run([], case.warmup + case.passes)
    assert core.link_bytes == accounts.demand_bytes + sum(accounts.fate_bytes)
    assert accounts.issued == sum(accounts.fates)
    assert accounts.host_lookups == core.by_host
    row = accounts.hit_row()
    assert row[LOOKUPS] == sum(len(demand) for step in case.warmup + case.passes for demand in step.demand)
    assert row[COMPLETE] <= row[RESIDENT] <= row[LOOKUPS]
    if case.setup.host is not None and case.setup.host.dram is None:
        assert accounts.host_ns == core.host_ns


class Watched(Ledger):
    """Also sees that each expert is computed once, in one place, and that the event pins the GPU's alone."""

    by_host = host_ns = 0

    def gate(self, layer: int, demand: Sequence[int], tokens: Sequence[int], now: int) -> LayerEvent:
        assert not self.left_to_the_host
        self.given_out = []
        event = Core.gate(self, layer, demand, tokens, now)
        assert self.places is not None
        assert self.setup.host is not None
        self.left_to_the_host = set(self.places.experts)
        self.by_host += len(self.left_to_the_host)
        n_tokens = dict(zip(event.demand, event.tokens, strict=True))
        self.host_ns += sum(self.setup.host.expert_ns(layer, n_tokens[x]) for x in self.left_to_the_host)
        for x in event.demand:
            assert self.state.pinned[x] == (x not in self.left_to_the_host)
        self.watch()
        return event

    left_to_the_host: set[int] = set()  # noqa: RUF012 - replaced, never changed before

    def next_expert(self) -> int:
        x = super().next_expert()
        assert x not in self.left_to_the_host
        return x

    def host_done(self, x: int, now: int) -> None:
        super().host_done(x, now)
        self.left_to_the_host.remove(x)


# -- the log, and policies that place nothing -----------------------------------------------------------------------


class Nowhere(Planned):
    def place(self, event: LayerEvent) -> Sequence[int]:
        return []


class Idle(Restless):
    def place(self, event: LayerEvent) -> Sequence[int]:
        return []


# A hook that costs who does not use it, or that decides by being there; another link where a host might compute.
@settings(EXAMPLES, max_examples=30)
@given(case=hosted_cases())
def test_who_places_nothing_decides_and_takes_as_one_without_the_hook(case: Case) -> None:
    def run(kind: type[Restless], setup: Setup) -> tuple[Accounts, Core]:
        given = {"warmup": case.warmup, "depth": case.depth, "lanes": case.lanes, "policy_ns": case.policy_ns}
        return record(lambda s: kind(s, by_layer=case.by_layer), setup, case.passes, **given)

    without, plain = run(Restless, replace(case.setup, host=None))
    accounts, core = run(Idle, case.setup)
    assert core.log == plain.log
    assert core.digest() == plain.digest()
    assert accounts == without


@pytest.mark.parametrize("lanes", [1, 3])
def test_what_places_nothing_logs_nothing_of_the_host(lanes: int) -> None:
    setup = make_setup([10, 20], 6, 60, chunks=2)
    passes = decode([[[i % 5, 5], [i % 4, i % 3 + 3]] for i in range(12)], 6)
    without, plain = record(LRU, setup, passes, depth=2, lanes=lanes)
    setup = replace(setup, host=FlatHost(dram=Fraction(1, 9)))
    accounts, core = record(Nowhere, setup, passes, depth=2, lanes=lanes)
    assert core.digest() == plain.digest()
    assert accounts == without
    assert core.log == plain.log
    assert not {op for op, _ in entries(core.log)} & {HOST, NEXT_HOST}


# A digest that is the same whoever computes, or in whatever order.
def test_the_digest_holds_the_places() -> None:
    setup = one_layer()
    plans = [[]], [[0]], [[1]], [[0, 1]], [[1, 0]]
    found = [record(lambda s, p=p: Planned(s, p), setup, decode([[[0, 1]]], 10))[1].digest() for p in plans]  # type: ignore[misc]
    assert len(set(found)) == len(plans)


# -- what is refused ------------------------------------------------------------------------------------------------


class Fetching(Planned):
    """Adds expert 3, without tokens."""

    def route(self, event: LayerEvent) -> Routing:
        return Routing([*event.demand, 3], [*event.tokens, 0])


@pytest.mark.parametrize(
    ("kind", "plan", "said"),
    [
        (Planned, [4], r"experts \[4\]; allowed: those of the event with tokens, \[0, 1\]"),
        (Planned, [0, 0], r"an expert twice: \[0, 0\]"),
        (Fetching, [3], r"experts \[3\]; allowed: .*, \[0, 1\]"),
        (Planned, [0.5], r"whole numbers are wanted"),
    ],
)
def test_what_is_no_place_stops_in_one_line(kind: type[Planned], plan: list[int], said: str) -> None:
    setup = one_layer()
    with pytest.raises(CoreError, match=said) as error:
        simulate(kind(setup, [plan]), setup, decode([[[0, 1]]], 10))
    assert "\n" not in str(error.value)


def test_a_machine_without_prices_for_it_is_named() -> None:
    setup = make_setup([10], 10, 100)
    with pytest.raises(CoreError, match=r"policy lru places on the host experts \[0\], and this machine has no price"):
        simulate(Planned(setup, [[0]]), setup, decode([[[0]]], 10))


# A machine that ends an event early, or tells what it was not asked for.
def test_a_machine_that_forgets_the_host_or_makes_it_up_is_found_out() -> None:
    def core_of(policy: Policy) -> Core:
        core = Core(policy, policy.setup, NoSignals())
        core.step_begin(1, False, (0,), [(0, 1)], 0)
        core.gate(0, [0, 1], [1, 1], 7)
        return core

    setup = one_layer()
    core = core_of(Planned(setup, [[0]]))
    with pytest.raises(CoreError, match="expert 0, which it was not given"):
        core.host_done(0, 9)
    assert core.next_host() == 0
    assert core.next_host() == -1
    with pytest.raises(CoreError, match=r"before the host has computed \[0\]"):
        core.step_end(9)
    core.host_done(0, 10)
    core.step_end(11)
    with pytest.raises(CoreError, match=r"before the host has computed \[0, 1\]"):
        core_of(Planned(setup, [[0, 1]])).step_end(9)


# Two layers of a prompt: the host's price goes by an expert's tokens.
def test_the_price_is_of_the_experts_tokens() -> None:
    setup = replace(make_setup([10, 10], 4, 80, costs=COSTS), host=FlatHost(1, None, 1, 100, 10_000))
    passes = [make_pass([[[0], [2]], [[0], [3]], [[1], [3]]], 4, prefill=True)]
    accounts, _ = simulate(Planned(setup, [[0], [7]]), setup, passes)
    assert accounts.host_ns == (1 + 200) + (1 + 10_000 + 200)
