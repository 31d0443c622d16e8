"""Experts that the host begins before their gate has run: when they run, what becomes of them, what is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import LayerEvent, Routing, Setup
from sim.core.accounts import Accounts
from sim.core.core import Core
from sim.core.state import CoreError
from sim.machine.machine import Machine
from sim.workload.passes import Pass
from tests.sim.machine.cases import FlatCosts, FlatHost, NoSignals, decode, make_pass, make_setup, record, simulate
from tests.sim.machine.early import Early
from tests.sim.machine.restless import EXAMPLES, Case, Restless, hosted_cases
from tests.sim.machine.test_places import Planned

COSTS = FlatCosts(per_copy=0, per_byte=1, dense=7, per_token=3, per_step=0, launch_ns=2, layer_overhead_ns=0)
"""Experts of 10 bytes: a copy takes 10 ns, an expert 5, what comes before a gate 7."""
Asked = Sequence[Mapping[int, int]]


class Foretold(Planned):
    """Begins what it is told at each layer's gate, and lets the host compute what it is told of each layer."""

    lossless = False

    def __init__(self, setup: Setup, plan: Sequence[Sequence[int]], asked: Asked, *, last: bool = False) -> None:
        super().__init__(setup, plan, last=last)
        self.asked = asked

    def place(self, event: LayerEvent) -> Sequence[int]:
        return [x for x in super().place(event) if x in event.demand]

    def precompute(self, event: LayerEvent) -> Mapping[int, int]:
        return self.asked[event.layer]


def two_layers(host: FlatHost | None = None) -> Setup:
    """Layer 0 has the experts 0 to 3, layer 1 those from 4 to 7."""
    return replace(make_setup([10, 10], 4, 80, costs=COSTS), host=host or FlatHost(1, None, 20, 0))


def go(
    steps: list[list[list[int]]],
    plan: list[list[int]],
    asked: Asked,
    per_expert: int = 20,
    *,
    workers: int = 1,
    last: bool = False,
) -> Accounts:
    """Steps of one token, by indices; the answers are checked against a replay without a clock."""
    setup = two_layers(FlatHost(workers, None, per_expert, 0))
    return record(lambda s: Foretold(s, plan, asked, last=last), setup, decode(steps, 4))[0]


NOTHING: Asked = [{}, {}]


# -- time, by hand ----------------------------------------------------------------------------------------------


# Gates at 7 and 29, copies from each for 10 ns, then 5 ns on the GPU: the host's expert of layer 1 takes from 7 on what
# it would take from 29 on. One that begins at its gate all the same, or that nobody waits for.
@pytest.mark.parametrize(
    ("per_expert", "late", "early", "waited"), [(20, 49, 44, 0), (37, 66, 44, 0), (40, 69, 47, 3), (100, 129, 107, 63)]
)
def test_it_hides_behind_the_layer_before(per_expert: int, late: int, early: int, waited: int) -> None:
    step = [[[0], [0, 1]]]
    at_the_gate = go(step, [[], [5]], NOTHING, per_expert)
    before = go(step, [[], [5]], [{5: 1}, {}], per_expert)
    assert (at_the_gate.end_ns, before.end_ns) == (late, early)
    assert before.stall_row() == [20, 0, 0, 0, waited]
    assert at_the_gate.host_ns == before.host_ns == per_expert
    assert at_the_gate.host_lookups == before.host_lookups == 1
    assert (at_the_gate.stale, before.stale) == ([0, 0], [0, 1])
    assert before.precomputed_fates == [1, 0, 0]


# The event's own wait for what is to come; or a host that is to be last begins before the GPU has done its part.
def test_it_comes_behind_the_events_own_and_behind_the_gpu_where_the_host_is_last() -> None:
    step = [[[0, 1], [0, 1]]]
    both = go(step, [[1], [5]], [{5: 1}, {}])
    assert both.end_ns == 49  # 1 until 27, 5 until 47; the gate at 34, a copy until 44, the GPU until 49
    assert both.stall_row() == [20, 0, 0, 0, 5]
    last = go([[[0], [0, 1]]], [[], [5]], [{5: 1}, {}], last=True)
    assert (last.end_ns, last.stall_row()) == (44, [20, 0, 0, 0, 0])  # 5 from 22 to 42
    slow = go([[[0], [0, 1]]], [[], [5]], [{5: 1}, {}], 30, last=True)
    assert (slow.end_ns, slow.stall_row()) == (52, [20, 0, 0, 0, 8])


# Work of no use that is waited for, is lost from the host's time, or leaves its worker before it is done.
def test_what_is_not_wanted_is_finished_and_keeps_its_worker() -> None:
    step = [[0], [0]]
    one = go([step], [[], []], [{5: 1}, {}], 100)
    assert (one.end_ns, one.host_ns, one.host_lookups) == (44, 100, 0)
    assert (one.precomputed, one.precomputed_fates, one.stale) == (1, [0, 1, 0], [0, 0])
    assert one.stall_row() == [20, 0, 0, 0, 0]
    for workers, end in ((1, 207 + 12), (2, 151 + 12)):  # the next gate at 51; the first worker is free at 107
        two = go([step, [[1], [0]]], [[1], []], [{5: 1}, {}], 100, workers=workers)
        assert two.end_ns == end


# What no worker has begun by the gate is computed although nobody wants it, or a second time for who does.
def test_what_was_not_begun_is_dropped_or_computed_in_its_turn() -> None:
    dropped = go([[[0], [0, 1]]], [[], [5]], [{5: 1, 6: 1}, {}], 50)
    assert (dropped.end_ns, dropped.host_ns) == (57, 50)
    assert dropped.precomputed_fates == [1, 0, 1]
    wanted = go([[[0], [0, 1, 2]]], [[], [6, 5]], [{5: 1, 6: 1, 7: 1}, {}], 50)
    assert (wanted.end_ns, wanted.host_ns) == (107, 100)
    assert wanted.precomputed_fates == [2, 0, 1]


# An expert taken for computed because the one of an earlier pass, which nobody wanted, has ended meanwhile.
def test_of_two_computations_of_one_expert_the_event_waits_for_its_own() -> None:
    steps = [[[0], [0]], [[0], [0, 1]]]
    accounts = go(steps, [[], [5]], [{5: 1}, {}], 100, workers=2)
    assert accounts.end_ns == 151  # not 107: asked for again at the gate at 51
    assert accounts.precomputed_fates == [1, 1, 0]


# A layer that sees nothing of the pass: what was asked for it is of use to a later one, or has no fate.
def test_a_layer_without_an_event_wants_nothing() -> None:
    accounts = go([[[0], []], [[0], [0, 1]]], [[], [5]], [{5: 1, 6: 1}, {}], 30)
    assert accounts.precomputed_fates == [1, 1, 2]
    assert accounts.host_ns == 60
    assert go([[[0], []]], [[], [5]], [{5: 1, 6: 1}, {}], 30).precomputed_fates == [0, 1, 1]


# -- what it is to the accounts ---------------------------------------------------------------------------------


class Counting(Core):
    """Adds up for itself what the host was given."""

    given = given_ns = 0

    def next_host(self) -> int:
        x = super().next_host()
        if x >= 0:
            assert self.places is not None
            assert self.setup.host is not None
            self.given += 1
            self.given_ns += self.setup.host.expert_ns(self.setup.layer_of(x), self.places.tokens[x])
        return x


# An expert that is computed twice or not at all; time of the host that nobody is charged with; a fate that is missing.
@settings(EXAMPLES, max_examples=36)
@given(case=hosted_cases(), last=st.booleans())
def test_each_is_computed_once_and_all_that_the_host_did_is_counted(case: Case, last: bool) -> None:
    core = Counting(Early(case.setup, by_layer=case.by_layer, last=last), case.setup, NoSignals())
    accounts = Machine(core, case.costs, depth=case.depth, lanes=case.lanes).run([], case.warmup + case.passes)  # type: ignore[arg-type]
    _, wasted, _ = accounts.precomputed_fates
    assert accounts.precomputed == sum(accounts.precomputed_fates)
    assert core.given == accounts.host_lookups + wasted
    if case.setup.host is not None and case.setup.host.dram is None:
        assert accounts.host_ns == core.given_ns
    assert accounts.end_ns == accounts.compute_ns + sum(accounts.stall_row())


class Silent(Restless):
    def precompute(self, event: LayerEvent) -> Mapping[int, int]:
        return {}


# A hook that costs who asks for nothing, or that decides by being there.
@settings(EXAMPLES, max_examples=24)
@given(case=hosted_cases())
def test_who_asks_for_nothing_decides_and_takes_as_one_without_the_hook(case: Case) -> None:
    def run(kind: type[Restless], setup: Setup) -> tuple[Accounts, Core]:
        given = {"warmup": case.warmup, "depth": case.depth, "lanes": case.lanes, "policy_ns": case.policy_ns}
        return record(lambda s: kind(s, by_layer=case.by_layer), setup, case.passes, **given)

    without, plain = run(Restless, replace(case.setup, host=None))
    accounts, core = run(Silent, case.setup)
    assert (core.log, core.digest(), accounts) == (plain.log, plain.digest(), without)


def test_the_digest_holds_what_was_asked_for() -> None:
    setup, two = two_layers(), [make_pass([[[0], [0]], [[0], [0]]], 4)]
    asked: list[Asked] = [NOTHING, [{5: 1}, {}], [{5: 2}, {}], [{6: 1}, {}], [{5: 1, 6: 1}, {}], [{6: 1, 5: 1}, {}]]
    found = [record(lambda s, a=a: Foretold(s, [[], []], a), setup, two)[1].digest() for a in asked]  # type: ignore[misc]
    assert len(set(found)) == len(asked)


# -- what is refused ----------------------------------------------------------------------------------------------


class Lossless(Foretold):
    lossless = True


class Moved(Foretold):
    """Has expert 5 compute both tokens."""

    def route(self, event: LayerEvent) -> Routing | None:
        return Routing([5], [2]) if event.layer else None


@pytest.mark.parametrize(
    ("kind", "asked", "said"),
    [
        (Lossless, [{5: 1}, {}], "precomputes experts before their gate has run, and is lossless"),
        (Foretold, [{1: 1}, {}], r"precomputes experts \[1\] at layer 0; allowed: those of the next layer"),
        (Foretold, [{}, {8: 1}], r"precomputes experts \[8\] at layer 1; allowed: those of the next layer"),
        (Foretold, [{5: 0}, {}], r"precomputes experts with \[0\] tokens; the step has 2"),
        (Foretold, [{5: 3}, {}], r"precomputes experts with \[3\] tokens; the step has 2"),
        (Foretold, [{5: 0.5}, {}], "whole numbers are wanted"),
        (
            Moved,
            [{5: 1}, {}],
            r"places on the host experts \[5\], precomputed for other tokens than theirs: \[\(2, 1\)\]",
        ),
    ],
)
def test_what_cannot_be_begun_stops_in_one_line(kind: type[Foretold], asked: Asked, said: str) -> None:
    setup, passes = two_layers(), [make_pass([[[0], [1]], [[1], [0]]], 4)]
    with pytest.raises(CoreError, match=said) as error:
        simulate(kind(setup, [[], [5]], asked), setup, passes)
    assert "\n" not in str(error.value)


def test_a_machine_without_prices_for_it_is_named() -> None:
    setup = replace(two_layers(), host=None)
    passes: list[Pass] = decode([[[0], [0]]], 4)
    with pytest.raises(CoreError, match=r"precomputes experts \[5\], and this machine has no price"):
        simulate(Foretold(setup, [[], []], [{5: 1}, {}]), setup, passes)
