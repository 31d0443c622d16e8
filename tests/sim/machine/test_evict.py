"""A policy may give a slot back whenever it is told something. Above each, the bug that it prevents."""

from typing import Any

import pytest

from policies.api import LayerEvent, Routing, Schedule, Setup, Step
from sim.core.accounts import CANCELLED, USELESS
from sim.core.core import Core
from sim.core.state import CoreError
from tests.sim.machine.cases import FlatCosts, NoSignals, decode, make_setup, record
from tests.sim.machine.restless import Told

COSTS = FlatCosts(per_copy=0, per_byte=1, dense=100, per_token=100, per_step=0, launch_ns=0, layer_overhead_ns=0)


class Gives(Told):
    """Gives ``given`` back in one kind of hook, each time, and writes down what it is told."""

    name = "gives"

    def __init__(self, setup: Setup, hook: str, given: int, prefetched: tuple[int, ...] = ()) -> None:
        super().__init__(setup)
        self.hook, self.given, self.prefetched = hook, given, prefetched
        self.answers: list[bool] = []
        self.evicted: list[int] = []

    def give(self, hook: str) -> None:
        if hook == self.hook:
            self.answers.append(self.actions.evict(self.given))

    def on_step(self, step: Step) -> None:
        if step.number == 1:
            for x in self.prefetched:
                self.actions.prefetch(x, -float(x))
            self.actions.predict(1, 15, False)
        self.give("on_step")

    def route(self, event: LayerEvent) -> Routing | None:
        self.give("route")
        return None

    def on_gate(self, event: LayerEvent) -> None:
        self.give("on_gate")

    def schedule(self, event: LayerEvent) -> Schedule | None:
        self.give("schedule")
        return None

    def on_prediction(self, tag: int) -> None:
        self.give("on_prediction")

    def on_slot(self, expert: int) -> None:
        self.give("on_slot")

    def on_complete(self, expert: int) -> None:
        self.give("on_complete")

    def on_evict(self, expert: int) -> None:
        self.evicted.append(expert)
        self.give("on_evict")

    def keep(self, expert: int) -> bool:
        self.give("keep")
        return expert != 3

    def victim(self, incoming: int, speculative: bool) -> int | None:
        self.give("victim")
        return super().victim(incoming, speculative)


STEPS = [[[0]], [[1]], [[0]], [[3]], [[2]], [[0]], [[1]], [[0, 1, 2]]]


def play(hook: str, given: int, *, held: int = 2, prefetched: tuple[int, ...] = (), chunks: int = 2) -> Any:
    setup = make_setup([10], 4, 10 * held, chunks=chunks, costs=COSTS)
    made: list[Gives] = []

    def make(setup: Setup) -> Gives:
        made.append(Gives(setup, hook, given, prefetched))
        return made[-1]

    accounts, core = record(make, setup, decode(STEPS, 4))
    assert made[0].answers == made[1].answers
    return accounts, core, made[0]


HOOKS = [
    "on_step",
    "route",
    "on_gate",
    "schedule",
    "on_prediction",
    "on_slot",
    "on_complete",
    "on_evict",
    "keep",
    "victim",
]


# A slot given back in the middle of something that relied on it: twice evicted, or counted and not there.
@pytest.mark.parametrize("given", range(4))
@pytest.mark.parametrize("hook", HOOKS)
def test_a_slot_may_be_given_back_in_any_hook(hook: str, given: int) -> None:
    _, core, policy = play(hook, given, prefetched=(1, 2))
    assert policy.answers, "the hook was not called"
    plain = play("none", given, prefetched=(1, 2))[2]
    extra = policy.answers.count(True)
    assert len(policy.evicted) >= extra
    assert policy.evicted.count(given) >= extra
    assert extra or policy.evicted == plain.evicted
    state = core.state
    assert state.used == sum(state.slot) * 10


def test_each_hook_does_evict_in_some_case() -> None:
    gave = {
        hook: sum(play(hook, given, prefetched=(1, 2))[2].answers.count(True) for given in range(4)) for hook in HOOKS
    }
    assert all(gave.values()), gave


# A pin that is broken, or a chunk that arrives in a slot which is somebody else's by then.
def test_what_is_absent_pinned_or_on_the_link_is_not_given_back() -> None:
    setup = make_setup([10], 4, 40, chunks=2, costs=COSTS)
    policy = Gives(setup, "none", 0)
    core = Core(policy, setup, NoSignals())
    evict = policy.actions.evict
    core.step_begin(1, False, (0,), [(0, 1)], 0)
    assert not evict(0)  # absent
    policy.actions.prefetch(0, 0.0)
    assert not evict(0)  # queued
    chunk = core.next_chunk()
    assert not evict(0)  # on the link
    core.chunk_done(chunk, 10)
    assert evict(0)  # half of it is there
    assert core.accounts.fates[CANCELLED] == 1
    assert core.accounts.fate_bytes[CANCELLED] == 5
    core.gate(0, [1], [1], 20)
    for _ in range(2):
        core.chunk_done(core.next_chunk(), 30)
    assert not evict(1)  # complete, and not computed
    core.expert_done(core.next_expert(), 40)
    assert evict(1)
    assert not evict(1)
    assert policy.evicted == [0, 1]
    assert core.state.used == 0


# A prefetch that arrived and is given back unused was still copied.
def test_a_complete_prefetch_given_back_is_useless() -> None:
    accounts, _, policy = play("on_complete", 2, prefetched=(2,), chunks=1)
    assert policy.answers[0] is True
    assert accounts.fates[:2] == [0, 0]
    assert accounts.fates[USELESS] == accounts.issued == 1
    assert accounts.fate_bytes[USELESS] == accounts.speculative_bytes == 10


class Makes(Told):
    """Makes the room itself, and names nobody; or names whom it has just evicted."""

    name = "makes"

    def __init__(self, setup: Setup, names: bool) -> None:
        super().__init__(setup)
        self.names = names

    def victim(self, incoming: int, speculative: bool) -> int | None:
        victim = super().victim(incoming, speculative)
        if victim is not None:
            assert self.actions.evict(victim)
        return victim if self.names else None


# Room was there, and the link stood still until something else happened.
def test_who_makes_the_room_in_victim_need_name_nobody() -> None:
    setup = make_setup([10], 4, 20, costs=COSTS)
    by_action, core = record(lambda s: Makes(s, names=False), setup, decode(STEPS, 4))
    plain, other = record(Plain, setup, decode(STEPS, 4))
    assert by_action == plain
    assert core.digest() == other.digest()
    with pytest.raises(CoreError, match="evicted while it had no slot"):
        record(lambda s: Makes(s, names=True), setup, decode(STEPS, 4))


class Plain(Told):
    name = "plain"


# A slot that is freed while another is taken, for a load that was refused before.
def test_a_slot_given_back_while_another_is_taken_is_used_at_once() -> None:
    class Trades(Told):
        """Evicts for nobody, but gives 0 back when 1 has its slot."""

        name = "trades"

        def on_step(self, step: Step) -> None:
            if step.number == 2:
                self.actions.prefetch(2, 1.0)
                self.actions.prefetch(1, 2.0)

        def on_slot(self, expert: int) -> None:
            if expert == 1:
                self.actions.evict(0)

        def victim(self, incoming: int, speculative: bool) -> int | None:
            return None if speculative else super().victim(incoming, speculative)

    setup = make_setup([10], 3, 20, costs=COSTS)
    _, core = record(Trades, setup, decode([[[0]], [[]]], 3), depth=2)
    assert [core.state.view().complete(x) for x in range(3)] == [False, True, True]
