"""Laws of the orders that a policy may set. Above each, the bug that it prevents."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.api import LayerEvent, Policy, Schedule, Setup, Step
from sim.core.state import LATE, CoreError
from sim.machine.machine import Machine
from tests.sim.machine.cases import FlatCosts, decode, make_setup, record, simulate
from tests.sim.machine.ledger import Ledger
from tests.sim.machine.restless import EXAMPLES, Case, Told, Unruly, cases

COSTS = FlatCosts(per_copy=0, per_byte=1, dense=0, per_token=6, per_step=0, launch_ns=0, layer_overhead_ns=0)


class Orderly(Unruly):
    """Always gives an order, and says which."""

    def __init__(self, setup: Setup, ahead: int | None, *, by_copy: bool = False, **given: Any) -> None:
        super().__init__(setup, **given)
        self.ahead, self.by_copy = ahead, by_copy
        self.compute: list[int] = []
        self.copy: list[int] = []

    def schedule(self, event: LayerEvent) -> Schedule | None:
        self.compute = self.shuffled(event.demand)
        self.copy = self.shuffled(x for x in event.demand if not self.view.complete(x))
        return Schedule(self.compute, self.copy if self.by_copy else None, self.ahead)


class Watching(Ledger):
    """Checks each answer against the order that was set."""

    policy: Orderly

    def gate(self, *given: Any) -> LayerEvent:
        event = super().gate(*given)
        self.left = list(self.policy.compute)  # to be handed out, in order
        self.uncomputed = set(self.left)
        self.passed = 0
        return event

    def next_expert(self) -> int:
        x = super().next_expert()
        if x >= 0:
            assert x == self.left.pop(0), "out of turn"
        elif self.left:
            assert not self.state.view().complete(self.left[0]), "the next in turn could have run"
        return x

    def expert_done(self, x: int, now: int) -> None:
        super().expert_done(x, now)
        self.uncomputed.remove(x)

    def next_chunk(self) -> int:
        before, on_link = list(self.ready), self.state.given != self.state.done
        chunk = super().next_chunk()
        if before != list(self.ready):
            (passing,) = self.ready
            assert not before
            assert not on_link, "one passed the next in turn while something was under way"
            assert not self.state.slot[self.left[0]], "one passed the next in turn, which had its slot"
            self.left.remove(passing)
            self.left.insert(0, passing)
            self.passed += 1
        x = chunk // self.setup.chunks
        if chunk >= 0 and self.state.pinned[x] and self.policy.ahead is not None and self.state.kind[x] != LATE:
            order = [y for y in self.policy.compute if y in self.uncomputed]
            assert order.index(x) <= self.policy.ahead, "copied before its turn"
        return chunk


def watched(case: Case, setup: Setup, ahead: int | None, by_copy: bool) -> Watching:
    core = Watching(Orderly(setup, ahead, by_copy=by_copy, by_layer=case.by_layer), setup)
    machine = Machine(core, case.costs, depth=case.depth)  # type: ignore[arg-type]
    machine.run([], case.warmup + case.passes)
    return core


AHEAD = st.sampled_from([None, 0, 1, 2])


# An order that is a wish: computed as they complete after all; copied early, so that nothing is left to evict.
@settings(EXAMPLES, max_examples=36)
@given(cases(), AHEAD, st.booleans())
def test_the_order_is_kept_and_nothing_is_copied_before_its_turn(case: Case, ahead: int | None, by_copy: bool) -> None:
    """Where the budget holds the demand with ease: to the letter."""
    room = case.setup.n_layers * case.setup.n_experts * sum(case.setup.expert_bytes)
    core = watched(case, replace(case.setup, budget=room), ahead, by_copy)
    assert core.passed == 0


# A strict order in a budget that cannot hold it: deadlock, or a pin that is broken (rule 3).
@settings(EXAMPLES, max_examples=36)
@given(cases(), AHEAD, st.booleans())
def test_an_order_that_the_budget_cannot_hold_yields_as_late_as_it_can(
    case: Case, ahead: int | None, by_copy: bool
) -> None:
    core = watched(case, case.setup, ahead, by_copy)
    assert not core.events or not core.left


class Ordered(Told):
    """Sets the orders that it is given; prefetches what it is told to when the step begins."""

    def __init__(self, setup: Setup, schedule: Schedule | None, prefetched: Sequence[int] = ()) -> None:
        super().__init__(setup)
        self.order, self.prefetched = schedule, prefetched
        self.began: list[int] = []
        self.slots: list[int] = []

    def on_step(self, step: Step) -> None:
        for x in self.prefetched:
            self.actions.prefetch(x, 0.0)

    def schedule(self, event: LayerEvent) -> Schedule | None:
        return self.order

    def on_slot(self, expert: int) -> None:
        self.slots.append(expert)

    def keep(self, expert: int) -> bool:
        self.began.append(expert)
        return True


def play(schedule: Schedule | None, *, held: int = 4, chunks: int = 1, **given: Any) -> tuple[int, Ordered]:
    """One event: experts 0, 1, 2, 3 of 10 bytes, 10 ns to copy and 6 ns to compute each. Returns when it ended."""
    setup = make_setup([10], 4, 10 * held, chunks=chunks, costs=COSTS)
    made: list[Ordered] = []

    def make(setup: Setup) -> Policy:
        made.append(Ordered(setup, schedule, **given))
        return made[-1]

    accounts, _ = record(make, setup, decode([[[0, 1, 2, 3]]], 4))
    return accounts.end_ns, made[0]


def test_the_time_of_each_look_ahead_by_hand() -> None:
    """0: copy and compute in turns. 1: the next one is copied while one is computed. None: the link never rests."""
    order = [3, 1, 0, 2]
    assert play(Schedule(order, ahead=0))[0] == 4 * (10 + 6)
    assert play(Schedule(order, ahead=1))[0] == play(Schedule(order))[0] == play(None)[0] == 4 * 10 + 6
    slow = FlatCosts(per_copy=0, per_byte=1, dense=0, per_token=25, per_step=0, launch_ns=0, layer_overhead_ns=0)
    for ahead, slots_at_once in ((0, 1), (1, 2), (2, 3), (3, 4)):
        setup = make_setup([10], 4, 40, costs=slow)
        policy = Held(setup, Schedule(order, ahead=ahead))
        accounts, _ = simulate(policy, setup, decode([[[0, 1, 2, 3]]], 4))
        assert accounts.end_ns == (4 * 35 if not ahead else 10 + 4 * 25)
        assert policy.most == slots_at_once


class Held(Ordered):
    """Keeps nothing, and counts what is held at once."""

    def __init__(self, setup: Setup, schedule: Schedule | None) -> None:
        super().__init__(setup, schedule)
        self.held = self.most = 0

    def on_slot(self, expert: int) -> None:
        self.held += 1
        self.most = max(self.most, self.held)

    def on_evict(self, expert: int) -> None:
        self.held -= 1

    def keep(self, expert: int) -> bool:
        return False


def test_orders_of_compute_and_of_copies_by_hand() -> None:
    _, policy = play(Schedule(compute=[2, 0, 3, 1]))
    assert policy.slots == policy.began == [2, 0, 3, 1]
    _, policy = play(Schedule(copy=[2, 0, 3, 1]))  # computed as they complete
    assert policy.slots == policy.began == [2, 0, 3, 1]
    end, policy = play(Schedule(compute=[2, 0, 3, 1], copy=[1, 3, 0, 2]))
    assert (policy.slots, policy.began, end) == ([1, 3, 0, 2], [2, 0, 3, 1], 4 * 10 + 4 * 6)
    _, policy = play(Schedule(compute=[2, 0, 3, 1], copy=[1, 3, 0, 2], ahead=1))
    assert policy.slots == [0, 2, 3, 1]  # of 2 and 0, then 3 beside 0, then 1


# A hit that ran at once, ahead of the miss that was to come first.
def test_what_is_complete_waits_for_its_turn() -> None:
    setup = make_setup([10], 4, 40, costs=COSTS)
    policy = Ordered(setup, None)
    policy.order = Schedule([0])
    core = Ledger(policy, setup)
    machine = Machine(core, setup.costs)  # type: ignore[arg-type]
    machine.run([], decode([[[0]]], 4))
    policy.order = Schedule([1, 0])
    machine.run([], decode([[[0, 1]]], 4))
    assert policy.began == [0, 1, 0]


# A load that was on its way is stopped, and what was copied of it waits for its turn: late *and* idle.
def test_an_upgraded_load_goes_on_whatever_the_look_ahead() -> None:
    _, policy = play(Schedule([0, 1, 2, 3], ahead=0), chunks=2, prefetched=[3])
    assert policy.slots == [3, 0, 1, 2]
    assert policy.began == [0, 1, 2, 3]


@pytest.mark.parametrize("held", [1, 2, 3])
@pytest.mark.parametrize("ahead", [None, 0, 1])
def test_a_strict_order_streams_through_a_small_budget(held: int, ahead: int | None) -> None:
    order = [0, 1, 2, 3]
    assert play(Schedule(order, ahead=ahead), held=held)[1].began == order
    # The copies contradict the order: what came first must go first.
    backwards = Schedule(order, order[::-1], ahead)
    _, policy = play(backwards, held=held)
    assert sorted(policy.began) == order
    if ahead is None:
        assert policy.began[0] == 4 - held
    # The last in turn holds the only slot when the gate runs.
    _, policy = play(Schedule(order, ahead=ahead), held=1, prefetched=[3])
    assert policy.began == [3, 0, 1, 2]


BAD = [
    Schedule([0, 1]),
    Schedule([0, 1, 2, 2]),
    Schedule([0, 1, 2, 4]),
    Schedule([0, 1, 2, 3, 3]),
    Schedule([0, 1, 2, 0.5]),  # type: ignore[list-item]
    Schedule(copy=[0, 1, 2]),  # all four are missing
    Schedule([0, 1, 2, 3], copy=[]),
    Schedule([0, 1, 2, 3], copy=[0, 1, 2, 2]),
    Schedule(ahead=0),
    Schedule(copy=[0, 1, 2, 3], ahead=1),
    Schedule([0, 1, 2, 3], ahead=-1),
]


# An expert that is never computed, or twice.
@pytest.mark.parametrize("schedule", BAD, ids=str)
def test_an_order_of_something_else_is_an_error(schedule: Schedule) -> None:
    with pytest.raises(CoreError, match=r"a schedule|a policy gave"):
        play(schedule)


def test_what_is_complete_is_not_to_be_copied() -> None:
    class AllAgain(Ordered):
        def on_gate(self, event: LayerEvent) -> None:
            self.order = Schedule(copy=event.demand)

    setup = make_setup([10], 4, 40, costs=COSTS)
    with pytest.raises(CoreError, match=r"copies \[0, 1, 2\].*\[2\]"):
        simulate(AllAgain(setup, None), setup, decode([[[0, 1]], [[0, 1, 2]]], 4))
