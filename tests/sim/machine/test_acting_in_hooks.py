"""A policy may act in any of its hooks, and give a slot back; the least case of each slip that was found."""

from typing import Any

import pytest

from policies.api import LayerEvent, Setup, Step
from sim.core.accounts import CANCELLED, IN_FLIGHT, USEFUL, USELESS
from sim.core.core import Core
from sim.core.state import CoreError
from tests.sim.machine.cases import FlatCosts, NoSignals, decode, make_setup, record
from tests.sim.machine.restless import Told

COSTS = FlatCosts(per_copy=0, per_byte=1, dense=100, per_token=100, per_step=0, launch_ns=0, layer_overhead_ns=0)


class Chain(Told):
    """The slot of one prefetch calls for the next, more urgent one."""

    def on_step(self, step: Step) -> None:
        self.actions.prefetch(0, 0)

    def on_slot(self, expert: int) -> None:
        if expert == 0:
            self.actions.prefetch(1, 9)


def test_a_prefetch_from_on_slot_ahead_of_the_one_handed_over_is_not_lost() -> None:
    setup = make_setup([10], 3, 20, costs=COSTS)
    accounts, core = record(Chain, setup, decode([[[]]], 3))
    assert [core.state.view().complete(x) for x in range(3)] == [True, True, False]
    assert accounts.speculative_bytes == 20
    assert accounts.fates[USELESS] == 2


class Regretful(Told):
    """Cancels the load for which room is being made."""

    def on_step(self, step: Step) -> None:
        self.actions.prefetch(step.number, 0)

    def on_evict(self, expert: int) -> None:
        if expert == 1:
            self.actions.cancel(2)


def test_a_load_cancelled_while_room_is_made_takes_no_slot() -> None:
    setup = make_setup([10], 3, 10, costs=COSTS)
    accounts, core = record(Regretful, setup, decode([[[]], [[]]], 3))
    assert core.state.used == 0
    assert accounts.fates[USELESS] == accounts.fates[CANCELLED] == 1
    assert accounts.speculative_bytes == 10


class Fickle(Told):
    """Refuses to make room for the prefetched 2, until a fact changes its mind."""

    def __init__(self, setup: Setup, changes_on: str) -> None:
        super().__init__(setup)
        self.changes_on = changes_on
        self.sure = False

    def on_step(self, step: Step) -> None:
        if step.number == 1:
            self.actions.prefetch(0, 3)
            self.actions.prefetch(1, 2)
            self.actions.prefetch(2, 1)
            self.actions.predict(1, 50, False)
        else:
            self.sure = self.sure or self.changes_on == "step"

    def on_gate(self, event: LayerEvent) -> None:
        self.sure = self.sure or self.changes_on == "gate"

    def on_prediction(self, tag: int) -> None:
        self.sure = self.sure or self.changes_on == "prediction"

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return super().victim(incoming, speculative) if self.sure or not speculative else None


@pytest.mark.parametrize(
    ("fact", "steps"), [("step", [[[]], [[]]]), ("gate", [[[0]]]), ("prediction", [[[]]])], ids=["step", "gate", "pred"]
)
def test_a_change_of_mind_counts_from_the_fact_that_brought_it(fact: str, steps: list[list[list[int]]]) -> None:
    setup = make_setup([10], 3, 20, costs=COSTS)
    _, core = record(lambda setup: Fickle(setup, fact), setup, decode(steps, 3))
    assert core.state.view().complete(2)


class Dropper(Chain):
    """Refuses to evict half a load for a more urgent one, and cancels it later."""

    def on_step(self, step: Step) -> None:
        super().on_step(step)
        self.actions.predict(1, 50, False)

    def on_prediction(self, tag: int) -> None:
        self.actions.cancel(0)

    def victim(self, incoming: int, speculative: bool) -> int | None:
        return None


def test_a_slot_freed_by_cancel_is_used_at_once() -> None:
    setup = make_setup([10], 2, 10, chunks=2, costs=COSTS)
    accounts, core = record(Dropper, setup, decode([[[]]], 2))
    assert core.state.view().complete(1)
    assert accounts.fate_bytes[CANCELLED] == 5


class Late(Told):
    """Asks for a prediction when an expert has been computed."""

    def keep(self, expert: int) -> bool:
        self.actions.predict(1, 60, False)
        return True

    def on_prediction(self, tag: int) -> None:
        self.actions.prefetch(1, 0)


def test_a_prediction_asked_for_in_keep_starts_at_once() -> None:
    setup = make_setup([10, 10], 1, 20, costs=COSTS)
    accounts, _ = record(Late, setup, decode([[[0], [0]]], 1))
    # The expert ends at 210, the prediction at 270, the copy at 280, the next gate is at 310.
    assert accounts.fates[USEFUL] == 1
    assert accounts.fates[IN_FLIGHT] == 0


# -- slots given back -------------------------------------------------------------------------------------------


class Gives(Told):
    """Gives ``given`` back in one kind of hook, each time, and writes down what it is told."""

    def __init__(self, setup: Setup, hook: str, given: int, prefetched: tuple[int, ...] = ()) -> None:
        super().__init__(setup)
        self.hook, self.given, self.prefetched = hook, given, prefetched
        self.answers: list[bool] = []
        self.evicted: list[int] = []

    def on_step(self, step: Step) -> None:
        if step.number == 1:
            for x in self.prefetched:
                self.actions.prefetch(x, -float(x))
            self.actions.predict(1, 15, False)

    def on_evict(self, expert: int) -> None:
        self.evicted.append(expert)

    def keep(self, expert: int) -> bool:
        return expert != 3


HOOKS = (
    *("on_step", "route", "on_gate", "schedule", "on_prediction"),
    *("on_slot", "on_complete", "on_evict", "keep", "victim"),
)


def giving(hook: str, does: Any) -> Any:
    def gives(policy: Gives, *told: Any) -> Any:
        if hook == policy.hook:
            policy.answers.append(policy.actions.evict(policy.given))
        return does(policy, *told)

    return gives


for hook in HOOKS:
    setattr(Gives, hook, giving(hook, getattr(Gives, hook)))


STEPS = [[[0]], [[1]], [[0]], [[3]], [[2]], [[0]], [[1]], [[0, 1, 2]]]


def play(hook: str, given: int, *, prefetched: tuple[int, ...] = (1, 2), chunks: int = 2) -> Any:
    setup = make_setup([10], 4, 20, chunks=chunks, costs=COSTS)
    made: list[Gives] = []

    def make(setup: Setup) -> Gives:
        made.append(Gives(setup, hook, given, prefetched))
        return made[-1]

    accounts, core = record(make, setup, decode(STEPS, 4))
    assert made[0].answers == made[1].answers
    return accounts, core, made[0]


# A slot given back in the middle of something that relied on it: twice evicted, or counted and not there.
@pytest.mark.parametrize("hook", HOOKS)
def test_a_slot_may_be_given_back_in_any_hook(hook: str) -> None:
    gave = 0
    for given in range(4):
        _, core, policy = play(hook, given)
        assert policy.answers, "the hook was not called"
        extra = policy.answers.count(True)
        assert len(policy.evicted) >= extra
        assert policy.evicted.count(given) >= extra
        assert extra or policy.evicted == play("none", given)[2].evicted
        assert core.state.used == sum(core.state.slot) * 10
        gave += extra
    assert gave, "it never evicts"


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
    plain, other = record(Told, setup, decode(STEPS, 4))
    assert by_action == plain
    assert core.digest() == other.digest()
    with pytest.raises(CoreError, match="evicted while it had no slot"):
        record(lambda s: Makes(s, names=True), setup, decode(STEPS, 4))


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
